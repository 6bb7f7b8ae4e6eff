//! Groups: poison events, and a group that exists with other properties.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{
        Broker, BrokerError, BrokerExt, DeadLetterFilter, Deliveries, Delivery, Group, Health,
        Publish, Subscription,
    },
    clock::{Clock, SystemClock},
    event::{Event, EventId, Timestamp},
    retry::RetryPolicy,
};
use aios_tests::{log::Logged, rabbitmq::RabbitMqServer};
use tokio::time::timeout;

use super::traffic::rest;

const SOON: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 4;

async fn connect(server: &RabbitMqServer, delivery_limit: u32) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(server.url()).with_delivery_limit(delivery_limit);
    RabbitMqBroker::connect_with(options).await.unwrap()
}

fn group(name: &str) -> Group {
    name.parse().unwrap()
}

fn subscription(name: &str) -> Subscription {
    Subscription::group(group(name), [format!("{name}.thing.happened").parse().unwrap()])
}

async fn publish(broker: &RabbitMqBroker, name: &str) -> EventId {
    let event_type = format!("{name}.thing.happened").parse().unwrap();
    let event = Event::new(event_type, "test", &1).unwrap();
    let id = event.id.clone();
    broker.publish_one(Publish::new(event).with_required_route()).await.unwrap();
    id
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(SOON, deliveries.next()).await.expect("an event arrives").unwrap().unwrap()
}

fn now() -> Timestamp {
    SystemClock.now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_dead_letter_an_event_after_its_attempts_and_redrive_it() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let broker = connect(server, 100).await;
    let retry = RetryPolicy::new()
        .with_max_attempts(ATTEMPTS)
        .with_delays(Duration::from_millis(300), SOON)
        .with_factor(2.0)
        .with_jitter(0.0);
    let subscription = subscription("poisoned").with_retry(retry);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    let id = publish(&broker, "poisoned").await;

    let mut failures = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let delivery = next(&mut deliveries).await;
        assert_eq!((&delivery.event.id, delivery.attempt), (&id, attempt));
        failures.push(now());
        delivery.retry(None, format!("failure {attempt}")).await.unwrap();
    }
    let pauses: Vec<_> = failures.windows(2).map(|two| two[1].duration_since(two[0])).collect();
    let least = [300, 600, 1200].map(Duration::from_millis);
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    let more = timeout(Duration::from_secs(4), deliveries.next()).await;
    assert!(more.is_err(), "a dead letter is not delivered: {more:?}");

    let letters = broker.dead_letters(&group("poisoned").into()).await.unwrap();
    let [letter] = &letters.list(10).await.unwrap()[..] else { panic!("one dead letter") };
    assert_eq!((&letter.event.id, letter.attempts), (&id, ATTEMPTS));
    assert_eq!(letter.reason, "failure 4");
    assert!((failures[0]..failures[1]).contains(&letter.first_failure), "{letter:?}");

    assert_eq!(letters.redrive(DeadLetterFilter::All).await.unwrap(), 1);
    let delivery = next(&mut deliveries).await;
    assert_eq!((&delivery.event.id, delivery.attempt), (&id, 1));
    delivery.ack().await.unwrap();
    assert_eq!(letters.list(10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_name_the_difference_and_keep_the_channel_open() {
    let Some(server) = RabbitMqServer::shared() else { return };
    drop(connect(server, 100).await.subscribe(subscription("strict")).await.unwrap());

    let broker = connect(server, 50).await;
    let mut deliveries = broker.subscribe(subscription("lenient")).await.unwrap();
    let first = publish(&broker, "lenient").await;
    let in_hand = next(&mut deliveries).await;
    let error = broker.subscribe(subscription("strict")).await.unwrap_err();
    let BrokerError::Incompatible { address, difference } = error else { panic!("{error:?}") };
    assert_eq!(address, group("strict").into());
    assert!(difference.contains("x-delivery-limit"), "{difference}");

    // If the channel had been closed, the first event would be redelivered before the second.
    let second = publish(&broker, "lenient").await;
    let after = next(&mut deliveries).await;
    assert_eq!((in_hand.event.id.clone(), after.event.id.clone()), (first, second));
    in_hand.ack().await.unwrap();
    after.ack().await.unwrap();
    assert_eq!(broker.health_now(), Health::Connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_refuse_more_attempts_than_the_delivery_limit() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let broker = connect(server, 3).await;
    let with = |attempts| {
        subscription("limited").with_retry(RetryPolicy::fixed(attempts, Duration::from_secs(1)))
    };
    let error = broker.subscribe(with(4)).await.unwrap_err();
    assert!(matches!(error, BrokerError::InvalidConfiguration { .. }), "{error:?}");
    drop(broker.subscribe(with(3)).await.unwrap());
}

/// Before RabbitMQ 4.3, each return counts as an unsuccessful delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_keep_a_failed_event_while_the_server_blocks_publishers() {
    let Some(server) = RabbitMqServer::start() else { return };
    let options = RabbitMqOptions::new(server.url())
        .with_delivery_limit(5)
        .with_publish_timeout(Duration::from_secs(1));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let retry = RetryPolicy::fixed(3, Duration::from_secs(1));
    let subscription = subscription("blocked").with_retry(retry);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    let id = publish(&broker, "blocked").await;
    let failed = next(&mut deliveries).await;
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    failed.retry(None, "a failure").await.unwrap_err();
    while let Ok(again) = timeout(Duration::from_secs(4), deliveries.next()).await {
        again.unwrap().unwrap().retry(None, "another failure").await.unwrap_err();
    }
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let again = next(&mut deliveries).await;
    assert_eq!((&again.event.id, again.attempt), (&id, 2));
    again.ack().await.unwrap();
    let letters = broker.dead_letters(&group("blocked").into()).await.unwrap();
    assert_eq!(letters.list(10).await.unwrap(), []);
}

/// Groups share the queues in which failed events wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_retry_whatever_becomes_of_other_groups() {
    const EVENTS: u16 = 40;
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server, 100).await;
    let retry = RetryPolicy::fixed(3, Duration::from_secs(1)).with_jitter(0.0);
    let subscribe = |name| {
        let subscription = subscription(name).with_retry(retry.clone());
        broker.subscribe(subscription.with_prefetch(EVENTS))
    };
    let mut deleted = subscribe("deleted").await.unwrap();
    let mut other = subscribe("other").await.unwrap();
    let mut failed = Vec::new();
    for _ in 0..EVENTS {
        publish(&broker, "deleted").await;
        failed.push(next(&mut deleted).await);
    }
    drop(deleted);
    let _ = server.ctl(&["delete_queue", "aios.group.deleted"]);
    for delivery in failed {
        delivery.retry(None, "a failure").await.unwrap();
    }
    let id = publish(&broker, "other").await;
    next(&mut other).await.retry(None, "a failure").await.unwrap();
    let again = next(&mut other).await;
    assert_eq!((&again.event.id, again.attempt), (&id, 2));
    again.ack().await.unwrap();
    let unclaimed = format!("aios.unclaimed\t{EVENTS}");
    let arrived = async {
        let arguments = ["list_queues", "--quiet", "--no-table-headers", "name", "messages"];
        while !server.ctl(&arguments).lines().any(|line| line == unclaimed) {
            rest(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, arrived).await.expect("the events of the group that is gone are kept");
}

/// The groups are deleted one after the other, so that the number grows.
#[tokio::test]
async fn should_log_how_many_events_have_no_group_to_return_to() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let logged = Logged::here();
    let options = RabbitMqOptions::new(server.url())
        .with_prefix("orphans")
        .with_watchdog(Duration::from_millis(200));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let _other = broker.subscribe(subscription("stays")).await.unwrap();
    let count = |events: &str| logged.lines(&["events could not be retried", events]).len();
    for (name, events) in [("first", "events=1"), ("second", "events=2")] {
        let retry = RetryPolicy::fixed(3, Duration::from_secs(1));
        let mut deliveries = broker.subscribe(subscription(name).with_retry(retry)).await.unwrap();
        publish(&broker, name).await;
        let failed = next(&mut deliveries).await;
        drop(deliveries);
        // The connection must send its heartbeats in the meantime.
        let queue = format!("orphans.group.{name}");
        let delete = move || server.ctl(&["delete_queue", &queue]);
        let _ = tokio::task::spawn_blocking(delete).await.unwrap();
        failed.retry(None, "a failure").await.unwrap();
        let counted = async {
            while count(events) == 0 {
                rest(Duration::from_millis(50)).await
            }
        };
        timeout(SOON, counted).await.expect("the number is logged");
    }
    rest(Duration::from_secs(1)).await;
    assert_eq!((count("events=1"), count("events=2")), (1, 1), "each number is logged once");
}

/// The server does not say which queue has refused an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_report_an_event_that_only_some_groups_take_as_rejected() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let policy = [r"^limited\.group\.full$", r#"{"max-length": 1}"#];
    let _ = server.ctl(&["set_policy", "full", policy[0], policy[1], "--apply-to", "queues"]);
    let options = RabbitMqOptions::new(server.url()).with_prefix("limited");
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let all =
        |name: &str| Subscription::group(group(name), ["limit.thing.happened".parse().unwrap()]);
    drop(broker.subscribe(all("full")).await.unwrap());
    let mut other = broker.subscribe(all("other")).await.unwrap();
    let refused = async {
        loop {
            let event = Event::new("limit.thing.happened".parse().unwrap(), "test", &1).unwrap();
            let id = event.id.clone();
            if let Err(error) = broker.publish_one(Publish::new(event)).await {
                return (id, error);
            }
            next(&mut other).await.ack().await.unwrap();
        }
    };
    let (id, error) = timeout(SOON, refused).await.unwrap();
    assert_eq!(error.code(), "REJECTED");
    assert_eq!(next(&mut other).await.event.id, id);
}
