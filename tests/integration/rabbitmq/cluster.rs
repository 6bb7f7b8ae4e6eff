//! A cluster of three nodes, one of which dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerExt, Deliveries, Mailbox, Publish, Subscription},
    event::Event,
};
use aios_tests::rabbitmq::{RabbitMqCluster, RabbitMqServer};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::traffic::{Traffic, connect, rest, subscription};

const DAY: Duration = Duration::from_secs(86_400);

/// The node that leads the group's queue.
fn leader(node: &RabbitMqServer) -> String {
    let queues = node.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "leader"]);
    let queue = queues.lines().find_map(|line| line.strip_prefix("aios.group.chaos\t"));
    queue.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_lose_nothing_when_the_leaders_node_dies() {
    let Some(cluster) = RabbitMqCluster::start(3) else { return };
    let [first, second, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let declaring = connect(first).await;
    drop(declaring.subscribe(subscription()).await.unwrap());
    declaring.close(DAY).await.unwrap();
    assert_eq!(leader(second), first.node());

    let broker = connect(second).await;
    let traffic = Traffic::start(&broker).await;
    first.kill();
    let confirmed = traffic.read(|seen| seen.confirmed.len());
    traffic.advances().await;
    rest(Duration::from_secs(2)).await;
    let grown = traffic.read(|seen| seen.confirmed.len());
    assert!(grown > confirmed, "{grown} events were confirmed, {confirmed} before the kill");
    assert_ne!(leader(second), first.node());
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    broker.close(DAY).await.unwrap();
}

/// The port of a proxy that forwards to a node, as a load balancer does.
async fn balancer(node: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let node = node.load(Ordering::SeqCst);
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", node)).await {
                    // The connection ends with either of them.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

/// Publishes until there is a mailbox, and takes it from there.
async fn answered(other: &RabbitMqBroker, mailbox: &Mailbox, mine: &mut Deliveries, number: u32) {
    let answered = async {
        let event = Event::new("cluster.thing.happened".parse().unwrap(), "test", &number).unwrap();
        let answer = Publish::new(event).with_mailbox(mailbox.clone()).with_required_route();
        loop {
            // A node that starts again brings the old queue of the mailbox back, which routes, too.
            let _ = other.publish_one(answer.clone()).await;
            let next = timeout(Duration::from_millis(500), mine.next()).await;
            let Ok(Some(Ok(delivery))) = next else { continue };
            let is_it = delivery.event.data::<u32>().unwrap() == number;
            if delivery.ack().await.is_ok() && is_it {
                return;
            }
        }
    };
    timeout(Duration::from_secs(120), answered).await.expect("the mailbox is served");
}

/// The queue of a temporary mailbox is on one node, and cannot be declared while that node is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_serve_a_temporary_mailbox_again_whose_node_stays_down() {
    let Some(cluster) = RabbitMqCluster::start(3) else { return };
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let node = Arc::new(AtomicU16::new(second.port()));
    let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", balancer(Arc::clone(&node)).await);
    let options = RabbitMqOptions::new(url).with_operation_timeout(Duration::from_secs(5));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let mailbox = Mailbox::new("answers").unwrap();
    let subscription = Subscription::mailbox(mailbox.clone()).temporary();
    let mut mine = broker.subscribe(subscription).await.unwrap();
    let other = connect(first).await;
    answered(&other, &mailbox, &mut mine, 1).await;

    node.store(third.port(), Ordering::SeqCst);
    second.kill();
    answered(&other, &mailbox, &mut mine, 2).await;
    second.revive();
    answered(&other, &mailbox, &mut mine, 3).await;
}
