//! Dead letters on a server that blocks publishers, and those with a long reason.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{
        Broker, BrokerExt, DeadLetterFilter, DeadLetters, Group, Health, Publish, Subscription,
    },
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn connect(server: &RabbitMqServer) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(server.url()).with_publish_timeout(Duration::from_secs(5));
    RabbitMqBroker::connect_with(options).await.unwrap()
}

/// The dead letters of a group that has dead-lettered one event for this reason.
async fn dead_lettered(broker: &RabbitMqBroker, name: &str, reason: &str) -> Box<dyn DeadLetters> {
    let group: Group = name.parse().unwrap();
    let event_type = format!("{name}.thing.happened");
    let subscription = Subscription::group(group.clone(), [event_type.parse().unwrap()]);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    let event = Event::new(event_type.parse().unwrap(), "test", &1).unwrap();
    broker.publish_one(Publish::new(event).with_required_route()).await.unwrap();
    let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
    delivery.dead_letter(reason).await.unwrap();
    broker.dead_letters(&group.into()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_read_and_purge_while_the_server_blocks_publishers() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    dead_lettered(&broker, "blocked", "a failure").await;
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let mut health = broker.health();
    // The server tells it to those that publish.
    let event = Event::new("blocked.other.happened".parse().unwrap(), "test", &1).unwrap();
    broker.publish_one(Publish::new(event)).await.unwrap_err();
    let blocked = async { while !matches!(health.next().await, Some(Health::Blocked { .. })) {} };
    timeout(SOON, blocked).await.expect("the block is reported");

    let group: Group = "blocked".parse().unwrap();
    let letters = broker.dead_letters(&group.into()).await.unwrap();
    assert_eq!(letters.waiting().await.unwrap(), 0);
    assert_eq!(letters.list(10).await.unwrap().len(), 1);
    let refused = letters.redrive(DeadLetterFilter::All).await.unwrap_err();
    assert_eq!(refused.code(), "BROKER_BLOCKED");
    assert_eq!(letters.list(10).await.unwrap().len(), 1);
    assert_eq!(letters.purge(DeadLetterFilter::All).await.unwrap(), 1);
}

/// The headers of an event have to fit into one frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_fit_a_long_reason_into_a_small_frame() {
    let Some(server) = RabbitMqServer::start_with(&["frame_max = 8192"]) else { return };
    let broker = connect(&server).await;
    let letters = dead_lettered(&broker, "verbose", &"x".repeat(100_000)).await;
    let list = letters.list(10).await.unwrap();
    let [letter] = &list[..] else { panic!("one dead letter, not {list:?}") };
    assert!(letter.reason.starts_with("xxx"), "{}", letter.reason);
    assert_eq!(letters.redrive(DeadLetterFilter::All).await.unwrap(), 1);
}
