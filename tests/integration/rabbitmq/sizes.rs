//! Events that are larger than the server accepts.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerError, Publish, Subscription},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

const LIMIT: usize = 200_000;
const SOON: Duration = Duration::from_secs(30);

fn publish(number: usize, bytes: usize) -> Publish {
    let event_type = "sized.thing.happened".parse().unwrap();
    let data = (number, "x".repeat(bytes));
    Publish::new(Event::new(event_type, "test", &data).unwrap()).with_required_route()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_refuse_only_the_event_that_the_server_does_not_accept() {
    let limit = format!("max_message_size = {LIMIT}");
    let Some(server) = RabbitMqServer::start_with(&[&limit]) else { return };
    let broker = RabbitMqBroker::connect(&server.url()).await.unwrap();
    let group = Subscription::group("sized".parse().unwrap(), ["sized.*.*".parse().unwrap()]);
    let mut deliveries = broker.subscribe(group).await.unwrap();
    let is_large = |number: usize| number == 70 || number == 71;
    let sized = |number: usize| publish(number, if is_large(number) { LIMIT } else { 10 });
    for round in 0..2 {
        let answers = broker.publish((0..200).map(sized).collect()).await;
        for (number, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(()) => assert!(!is_large(number), "{number} in round {round}"),
                Err(BrokerError::TooLarge { bytes, limit }) => {
                    assert!(is_large(number) && bytes > LIMIT && limit == LIMIT);
                }
                Err(error) => panic!("{number} in round {round}: {error:?}"),
            }
        }
    }
    let mut seen = std::collections::HashMap::new();
    while seen.len() < 198 || seen.values().any(|ids: &std::collections::HashSet<_>| ids.len() < 2)
    {
        let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
        let (number, _): (usize, String) = delivery.event.data().unwrap();
        seen.entry(number).or_default().insert(delivery.event.id.clone());
        delivery.ack().await.unwrap();
    }
}

/// The channel is closed, and events are sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_keep_the_order_of_the_others() {
    let limit = format!("max_message_size = {LIMIT}");
    let Some(server) = RabbitMqServer::start_with(&[&limit]) else { return };
    let broker = RabbitMqBroker::connect(&server.url()).await.unwrap();
    let group = Subscription::group("sized".parse().unwrap(), ["sized.*.*".parse().unwrap()]);
    let mut deliveries = broker.subscribe(group).await.unwrap();
    let sized = |number: usize| publish(number, if number == 70 { LIMIT } else { 10 });
    let answers = broker.publish((0..200).map(sized).collect()).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 1);
    let mut first = Vec::new();
    while first.len() < 199 {
        let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
        let (number, _): (usize, String) = delivery.event.data().unwrap();
        if !first.contains(&number) {
            first.push(number);
        }
        delivery.ack().await.unwrap();
    }
    assert!(first.is_sorted(), "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_take_larger_events_from_a_server_that_was_set_to() {
    let limit = format!("max_message_size = {LIMIT}");
    let Some(server) = RabbitMqServer::start_with(&[&limit]) else { return };
    let options = RabbitMqOptions::new(server.url()).with_max_event_bytes(3 * LIMIT);
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let group = Subscription::group("sized".parse().unwrap(), ["sized.*.*".parse().unwrap()]);
    drop(broker.subscribe(group).await.unwrap());
    let answer = broker.publish(vec![publish(1, 2 * LIMIT)]).await.pop().unwrap();
    assert_eq!(answer.unwrap_err().code(), "EVENT_TOO_LARGE");
    // RabbitMQ 4 reads the copy.
    let larger = 4 * LIMIT;
    let set = format!(
        "application:set_env(rabbit, max_message_size, {larger}), \
         persistent_term:put(max_message_size, {larger})."
    );
    let _ = server.ctl(&["eval", &set]);
    let _ = server.ctl(&["close_all_connections", "test"]);
    while !matches!(broker.publish(vec![publish(2, 2 * LIMIT)]).await.pop(), Some(Ok(()))) {
        tokio::task::yield_now().await;
    }
    let answer = broker.publish(vec![publish(3, 4 * LIMIT)]).await.pop().unwrap();
    assert!(matches!(answer, Err(BrokerError::TooLarge { limit, .. }) if limit == 3 * LIMIT));
}
