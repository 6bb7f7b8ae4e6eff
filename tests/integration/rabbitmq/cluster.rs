//! A cluster of three nodes, one of which dies.

use std::{sync::Arc, time::Duration};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerExt, Publish, Subscription},
    event::Event,
};
use aios_tests::{
    log::Logged,
    rabbitmq::{RabbitMqCluster, RabbitMqServer},
};
use tokio::time::timeout;

use super::traffic::{RECOVERY, Traffic, connect, rest, subscription};

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

/// A temporary queue is on one node. While that is down, the other nodes refuse to declare it, or do not
/// answer (RabbitMQ 4).
#[tokio::test]
async fn should_wait_for_the_node_of_a_temporary_queue() {
    let Some(cluster) = RabbitMqCluster::start(3).map(Arc::new) else { return };
    let logged = Logged::here();
    let subscription = || {
        let patterns = ["homed.*.*".parse().unwrap()];
        Subscription::group("homed".parse().unwrap(), patterns).temporary()
    };
    let declaring = connect(&cluster.nodes[0]).await;
    let declared = declaring.subscribe(subscription()).await.unwrap();
    let options = RabbitMqOptions::new(cluster.nodes[1].url())
        .with_operation_timeout(Duration::from_secs(1))
        .with_connect_deadline(RECOVERY);
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let mut deliveries = broker.subscribe(subscription()).await.unwrap();
    drop(declared);
    declaring.close(DAY).await.unwrap();

    cluster.nodes[0].kill();
    let failed = async {
        while logged.lines(&["failed to consume; retrying"]).is_empty() {
            rest(Duration::from_millis(10)).await;
        }
    };
    timeout(RECOVERY, failed).await.expect("consuming is tried again");
    let down = Arc::clone(&cluster);
    tokio::task::spawn_blocking(move || down.nodes[0].revive()).await.unwrap();
    let event = Event::new("homed.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let publishing = async {
        while broker.publish_one(Publish::new(event.clone()).with_required_route()).await.is_err() {
            rest(Duration::from_millis(100)).await;
        }
    };
    timeout(RECOVERY, publishing).await.expect("the group has a queue");
    let delivery = timeout(RECOVERY, deliveries.next()).await.expect("the event arrives");
    assert_eq!(delivery.unwrap().unwrap().event.id, event.id);
    assert!(logged.lines(&["was deleted"]).is_empty(), "{:?}", logged.lines(&["was deleted"]));
}
