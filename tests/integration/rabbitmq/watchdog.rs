//! Consumers that receive nothing: stuck ones are replaced, busy ones are not. Also, publishers
//! whose events are not confirmed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerExt, Deliveries, Delivery, Mailbox, Publish, Subscription},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

use super::{
    proxy::{EXCHANGE_DECLARE, Proxy, QUEUE_BIND, QUEUE_DECLARE, Verdict},
    traffic::rest,
};

const INTERVAL: Duration = Duration::from_millis(500);
/// The time until a consumer is replaced: two checks, and the timeout of the old one.
const REPLACED: Duration = Duration::from_secs(60);

async fn connect(server: &RabbitMqServer) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(server.url())
        .with_operation_timeout(Duration::from_secs(2))
        .with_watchdog(INTERVAL);
    RabbitMqBroker::connect_with(options).await.unwrap()
}

/// A group that gets the events that [`publish`] publishes under its name.
pub(super) fn subscription(name: &str, prefetch: u16) -> Subscription {
    let pattern = format!("{name}.thing.happened").parse().unwrap();
    Subscription::group(name.parse().unwrap(), [pattern]).with_prefetch(prefetch)
}

/// Publishes events with these numbers, which the subscription of this name gets.
pub(super) async fn publish(broker: &RabbitMqBroker, name: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let event_type = format!("{name}.thing.happened").parse().unwrap();
        let event = Event::new(event_type, "test", &number).unwrap();
        broker.publish_one(Publish::new(event).with_required_route()).await.unwrap();
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let next = timeout(REPLACED, deliveries.next()).await;
    next.expect("events arrive").unwrap().unwrap()
}

async fn take(deliveries: &mut Deliveries) -> u32 {
    let delivery = next(deliveries).await;
    let number = number(&delivery);
    delivery.ack().await.unwrap();
    number
}

fn number(delivery: &Delivery) -> u32 {
    delivery.event.data().unwrap()
}

/// Nine events for a consumer whose channel is permanently stuck on the server.
async fn replaced(server: &RabbitMqServer, subscription: Subscription, to: Option<Mailbox>) {
    let broker = connect(server).await;
    let publish = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let event = Event::new("silent.thing.happened".parse().unwrap(), "test", &number);
            let publish = Publish { event: event.unwrap(), to: to.clone(), require_route: true };
            broker.publish_one(publish).await.unwrap();
        }
    };
    let mut deliveries = broker.subscribe(subscription.with_prefetch(2)).await.unwrap();
    publish(0..1).await;
    take(&mut deliveries).await;

    server.on_channels("Info(consumer_count) > 0", "sys:suspend(Channel)");
    publish(1..10).await;
    // The server has sent a full prefetch to the old channel; those events are redelivered, too.
    let mut seen = BTreeSet::new();
    while seen.len() < 9 {
        seen.insert(take(&mut deliveries).await);
    }
    assert_eq!(seen, (1..10).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_replace_a_consumer_that_gets_nothing() {
    let Some(server) = RabbitMqServer::start() else { return };
    replaced(&server, subscription("silent", 2), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_replace_the_reader_of_a_mailbox_that_gets_nothing() {
    let Some(server) = RabbitMqServer::start() else { return };
    let mailbox = Mailbox::new("silent").unwrap();
    replaced(&server, Subscription::mailbox(mailbox.clone()), Some(mailbox)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_not_replace_a_consumer_at_its_prefetch_limit() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let broker = connect(server).await;
    let mut deliveries = broker.subscribe(subscription("busy", 3)).await.unwrap();
    publish(&broker, "busy", 0..10).await;
    let mut in_hand = Vec::new();
    for _ in 0..3 {
        in_hand.push(next(&mut deliveries).await);
    }
    // A new consumer would be sent events beyond the prefetch.
    let more = timeout(INTERVAL * 8, deliveries.next()).await;
    assert!(more.is_err(), "{more:?}");

    let mut numbers = Vec::new();
    for delivery in in_hand {
        numbers.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    for _ in 3..10 {
        numbers.push(take(&mut deliveries).await);
    }
    assert_eq!(numbers, (0..10).collect::<Vec<_>>(), "each event comes once");
    let more = timeout(INTERVAL * 3, deliveries.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_replace_a_publisher_whose_events_are_not_confirmed() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let mut deliveries = broker.subscribe(subscription("stuck", 2)).await.unwrap();
    publish(&broker, "stuck", 0..1).await;
    assert_eq!(take(&mut deliveries).await, 0);

    server.on_channels("Info(confirm)", "sys:suspend(Channel)");
    let event = Event::new("stuck.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let answer = timeout(REPLACED, broker.publish_one(Publish::new(event))).await.unwrap();
    assert_eq!(answer.unwrap_err().code(), "UNCERTAIN");
    publish(&broker, "stuck", 2..3).await;
    assert_eq!(take(&mut deliveries).await, 2);
}

/// A server does not always report it: here its channel is stuck, so it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_declare_a_queue_again_that_is_gone() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let mut deliveries = broker.subscribe(subscription("gone", 2)).await.unwrap();
    publish(&broker, "gone", 0..1).await;
    assert_eq!(take(&mut deliveries).await, 0);

    server.on_channels("Info(consumer_count) > 0", "sys:suspend(Channel)");
    let _ = server.ctl(&["delete_queue", "aios.group.gone"]);
    let event = || Event::new("gone.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let publish = async || broker.publish_one(Publish::new(event()).with_required_route()).await;
    timeout(REPLACED, async { while publish().await.is_err() {} }).await.unwrap();
    assert_eq!(take(&mut deliveries).await, 1);
}

/// Deletes the exchange, and with it every binding.
fn delete_exchange(server: &RabbitMqServer) {
    let exchange = r#"rabbit_misc:r(<<"/">>, exchange, <<"aios.events">>)"#;
    let _ = server.ctl(&["eval", &format!("rabbit_exchange:delete({exchange}, false, <<>>).")]);
}

/// Publishes until the event is routed again, and takes it.
async fn routed_again(publisher: &RabbitMqBroker, deliveries: &mut Deliveries) {
    let event = || Event::new("bound.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let publish = async || publisher.publish_one(Publish::new(event()).with_required_route()).await;
    timeout(REPLACED, async { while publish().await.is_err() {} }).await.unwrap();
    assert_eq!(take(deliveries).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_bind_queues_again_whose_exchange_was_deleted() {
    let Some(server) = RabbitMqServer::start() else { return };
    let options = RabbitMqOptions::new(server.url()).with_watchdog(Duration::from_secs(3600));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let mut deliveries = broker.subscribe(subscription("bound", 2)).await.unwrap();
    publish(&broker, "bound", 0..1).await;
    assert_eq!(take(&mut deliveries).await, 0);

    delete_exchange(&server);
    routed_again(&broker, &mut deliveries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_bind_queues_again_that_only_another_process_publishes_to() {
    let Some(server) = RabbitMqServer::start() else { return };
    let (consumer, publisher) = (connect(&server).await, connect(&server).await);
    let mut deliveries = consumer.subscribe(subscription("bound", 2)).await.unwrap();
    publish(&publisher, "bound", 0..1).await;
    assert_eq!(take(&mut deliveries).await, 0);

    delete_exchange(&server);
    routed_again(&publisher, &mut deliveries).await;
}

/// A consumer at its prefetch limit receives nothing, whether its queue is bound or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_bind_the_queue_of_a_busy_consumer_again() {
    let Some(server) = RabbitMqServer::start() else { return };
    let (consumer, publisher) = (connect(&server).await, connect(&server).await);
    let mut deliveries = consumer.subscribe(subscription("bound", 1)).await.unwrap();
    publish(&publisher, "bound", 0..1).await;
    let held = deliveries.next().await.unwrap().unwrap();

    delete_exchange(&server);
    let event = || Event::new("bound.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let publish = async || publisher.publish_one(Publish::new(event()).with_required_route()).await;
    timeout(REPLACED, async { while publish().await.is_err() {} }).await.unwrap();
    held.ack().await.unwrap();
    assert_eq!(take(&mut deliveries).await, 1);
}

/// The publisher does not go through the proxy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_pass_events_on_while_the_server_does_not_answer_a_check() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let withheld = Arc::new(AtomicUsize::new(0));
    let is_slow = Arc::new(AtomicBool::new(false));
    let (slow, count) = (Arc::clone(&is_slow), Arc::clone(&withheld));
    let proxy = Proxy::start(server, move |frame| {
        match frame.method() == Some(EXCHANGE_DECLARE) && slow.load(Ordering::Relaxed) {
            true => {
                count.fetch_add(1, Ordering::Relaxed);
                Verdict::Withhold
            }
            false => Verdict::Pass,
        }
    });
    let options = RabbitMqOptions::new(proxy.url())
        .with_operation_timeout(Duration::from_secs(3600))
        .with_watchdog(INTERVAL);
    let consumer = RabbitMqBroker::connect_with(options).await.unwrap();
    let publisher = RabbitMqBroker::connect(&server.url()).await.unwrap();
    let mut deliveries = consumer.subscribe(subscription("patient", 2)).await.unwrap();
    is_slow.store(true, Ordering::Relaxed);
    let checking = async {
        while withheld.load(Ordering::Relaxed) == 0 {
            rest(INTERVAL / 10).await;
        }
    };
    timeout(REPLACED, checking).await.expect("the consumer is checked");
    publish(&publisher, "patient", 0..1).await;
    assert_eq!(take(&mut deliveries).await, 0);
}

/// Some servers write each binding again that exists already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_not_bind_an_idle_queue_again_at_each_check() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let (bound, inspected) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (binds, inspects) = (Arc::clone(&bound), Arc::clone(&inspected));
    let proxy = Proxy::start(server, move |frame| {
        match frame.method() {
            Some(QUEUE_BIND) => drop(binds.fetch_add(1, Ordering::Relaxed)),
            Some(QUEUE_DECLARE) => drop(inspects.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        Verdict::Pass
    });
    let options = RabbitMqOptions::new(proxy.url()).with_watchdog(Duration::from_millis(200));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let _deliveries = broker.subscribe(subscription("idle", 2)).await.unwrap();
    let (before, began) = (bound.load(Ordering::Relaxed), inspected.load(Ordering::Relaxed));
    assert!(before > 0, "the queue is bound");
    let checking = async {
        while inspected.load(Ordering::Relaxed) < began + 6 {
            rest(Duration::from_millis(10)).await;
        }
    };
    timeout(REPLACED, checking).await.expect("the consumer is checked");
    assert_eq!(bound.load(Ordering::Relaxed), before);
}

/// The server logs an error for each question after a queue that does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_not_ask_again_and_again_for_a_queue_that_nothing_has_declared() {
    let Some(server) = RabbitMqServer::start() else { return };
    let options = RabbitMqOptions::new(server.url()).with_watchdog(Duration::from_millis(100));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let _deliveries = broker.subscribe(subscription("idle", 2)).await.unwrap();
    rest(Duration::from_secs(2)).await;
    let asked = server.log().matches("no queue 'aios.unclaimed'").count();
    assert!(asked <= 1, "{asked}");
}
