//! Consumers that the server cancels although it keeps their channels.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::broker::{Broker, Deliveries, Delivery};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::{runtime::Runtime, time::timeout};

use super::{
    proxy::{Frame, Proxy, Verdict},
    traffic::rest,
    watchdog::{publish, subscription},
};

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(20);

/// A broker whose watchdog never looks.
async fn connect(proxy: &Proxy) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(proxy.url()).with_watchdog(HOUR);
    RabbitMqBroker::connect_with(options).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(SOON, deliveries.next()).await.expect("an event arrives").unwrap().unwrap()
}

/// Takes this many events, and returns their numbers in order.
async fn take(deliveries: &mut Deliveries, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let delivery = next(deliveries).await;
        numbers.push(delivery.event.data().unwrap());
        delivery.ack().await.unwrap();
    }
    numbers.sort_unstable();
    numbers
}

fn messages(server: &RabbitMqServer, queue: &str) -> String {
    let listed = server.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "messages"]);
    let line = listed.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")));
    line.unwrap_or("no queue").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_continue_while_a_delivery_of_a_cancelled_consumer_is_held() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let proxy = Proxy::start(server, |_| Verdict::Pass);
    let broker = Arc::new(connect(&proxy).await);
    let mut deliveries = broker.subscribe(subscription("revoked", 10)).await.unwrap();
    publish(&broker, "revoked", 0..4).await;
    let held = next(&mut deliveries).await;
    // The others are in the inbox.
    rest(Duration::from_millis(500)).await;

    proxy.cancel_consumers();
    rest(Duration::from_millis(500)).await;
    publish(&broker, "revoked", 4..9).await;
    assert_eq!(take(&mut deliveries, 8).await, (1..9).collect::<Vec<_>>());

    let closing = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { broker.close(SOON).await }
    });
    rest(Duration::from_secs(1)).await;
    assert!(!closing.is_finished(), "the broker closes although a delivery is not settled");
    held.ack().await.unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!(messages(server, "aios.group.revoked"), "0");
}

/// A temporary group is deleted with its last consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_keep_the_events_of_a_temporary_group_whose_consumer_is_cancelled() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let proxy = Proxy::start(server, |_| Verdict::Pass);
    let broker = connect(&proxy).await;
    let subscription = subscription("withdrawn", 10).temporary();
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    publish(&broker, "withdrawn", 0..4).await;
    let held = next(&mut deliveries).await;
    rest(Duration::from_millis(500)).await;

    proxy.cancel_consumers();
    rest(Duration::from_millis(500)).await;
    assert_eq!(take(&mut deliveries, 3).await, [1, 2, 3]);
    held.ack().await.unwrap();
}

/// The test's thread does nothing while the frames arrive, so the task of the subscription finds the
/// delivery and the end of the consumer together.
#[tokio::test]
async fn should_consume_again_when_the_cancellation_comes_right_after_a_delivery() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let is_armed = Arc::new(AtomicBool::new(false));
    let proxy: Arc<OnceLock<Proxy>> = Arc::default();
    let (armed, cancels) = (Arc::clone(&is_armed), Arc::clone(&proxy));
    let rule = move |frame: &Frame| {
        if frame.is_body() && armed.swap(false, Ordering::Relaxed) {
            return Verdict::Then(cancels.get().unwrap().cancel_frame());
        }
        Verdict::Pass
    };
    let proxy = proxy.get_or_init(|| Proxy::start(server, rule));
    let consumer = connect(proxy).await;
    let mut deliveries = consumer.subscribe(subscription("cut", 10)).await.unwrap();
    is_armed.store(true, Ordering::Relaxed);
    let url = server.url();
    let publishing = thread::spawn(move || {
        Runtime::new().unwrap().block_on(async {
            let publisher = RabbitMqBroker::connect(&url).await.unwrap();
            publish(&publisher, "cut", 0..1).await;
        });
    });
    publishing.join().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert!(!is_armed.load(Ordering::Relaxed));

    publish(&consumer, "cut", 1..2).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let delivery = next(&mut deliveries).await;
        seen.insert(delivery.event.data::<u32>().unwrap());
        delivery.ack().await.unwrap_or_default();
    }
}
