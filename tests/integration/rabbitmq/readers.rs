//! Readers of a mailbox that wait for the one before them.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerExt, Deliveries, Delivery, Mailbox, Publish, Subscription},
    event::Event,
};
use aios_tests::{log::Logged, rabbitmq::RabbitMqServer};
use futures_util::{StreamExt, stream::select_all};
use tokio::time::timeout;

use super::traffic::rest;

const INTERVAL: Duration = Duration::from_millis(500);
/// The time until a consumer is replaced: two checks, and the timeout of the old one.
const REPLACED: Duration = Duration::from_secs(60);
const SILENT: &str = "a consumer received nothing although events are waiting; replacing it";

async fn connect(server: &RabbitMqServer) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(server.url())
        .with_operation_timeout(Duration::from_secs(2))
        .with_watchdog(INTERVAL);
    RabbitMqBroker::connect_with(options).await.unwrap()
}

fn mailbox(name: &str) -> Mailbox {
    name.parse().unwrap()
}

async fn publish(broker: &RabbitMqBroker, name: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let event = Event::new("readers.thing.happened".parse().unwrap(), "test", &number).unwrap();
        let publish = Publish::new(event).with_mailbox(mailbox(name)).with_required_route();
        broker.publish_one(publish).await.unwrap();
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let next = timeout(REPLACED, deliveries.next()).await;
    next.expect("events arrive").unwrap().unwrap()
}

/// Takes and acknowledges this many deliveries of any of the readers, and returns their numbers in order.
async fn numbers<const N: usize>(readers: [&mut Deliveries; N], count: usize) -> Vec<u32> {
    let mut readers = select_all(readers);
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let next = timeout(REPLACED, readers.next()).await;
        let delivery = next.expect("events arrive").unwrap().unwrap();
        numbers.push(delivery.event.data().unwrap());
        delivery.ack().await.unwrap();
    }
    numbers.sort_unstable();
    numbers
}

/// The first reader holds as much as it may, so that the rest waits.
async fn wait_for_a_busy_reader(server: &RabbitMqServer, subscription: Subscription, name: &str) {
    let logged = Logged::here();
    let (first, second) = (connect(server).await, connect(server).await);
    let subscription = subscription.with_prefetch(1);
    let mut reader = first.subscribe(subscription.clone()).await.unwrap();
    let mut waiting = second.subscribe(subscription).await.unwrap();
    publish(&first, name, 0..3).await;
    let held = next(&mut reader).await;
    let more = timeout(INTERVAL * 10, waiting.next()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(logged.lines(&[SILENT]), [""; 0]);

    held.ack().await.unwrap();
    drop(reader);
    assert_eq!(numbers([&mut waiting], 2).await, [1, 2]);
}

#[tokio::test]
async fn should_not_report_a_reader_that_waits_for_another_one() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let subscription = Subscription::mailbox(mailbox("next"));
    wait_for_a_busy_reader(server, subscription, "next").await;
}

#[tokio::test]
async fn should_not_report_a_reader_that_waits_for_another_one_of_a_temporary_mailbox() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let subscription = Subscription::mailbox(mailbox("next.temporary")).temporary();
    wait_for_a_busy_reader(server, subscription, "next.temporary").await;
}

/// The second reader becomes the active one when its channel is stuck, and a third one waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_replace_the_next_reader_if_it_gets_nothing() {
    let Some(server) = RabbitMqServer::start() else { return };
    let (first, second, third) =
        (connect(&server).await, connect(&server).await, connect(&server).await);
    let subscription = Subscription::mailbox(mailbox("stuck")).with_prefetch(1);
    let mut reader = first.subscribe(subscription.clone()).await.unwrap();
    let mut stuck = second.subscribe(subscription.clone()).await.unwrap();
    publish(&first, "stuck", 0..4).await;
    let held = next(&mut reader).await;
    let is_stuck = "Info(consumer_count) > 0 andalso Info(messages_unacknowledged) =:= 0";
    server.on_channels(is_stuck, "sys:suspend(Channel)");
    let mut last = third.subscribe(subscription).await.unwrap();
    rest(INTERVAL * 4).await;

    held.ack().await.unwrap();
    drop(reader);
    assert_eq!(numbers([&mut stuck, &mut last], 3).await, [1, 2, 3]);
}
