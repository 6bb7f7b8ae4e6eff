//! Temporary groups whose process ends or reconnects while the server is down.

use std::{sync::Arc, time::Duration};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerExt, Deliveries, Group, Publish, Subscription},
    event::{Event, EventId},
};
use aios_tests::{log::Logged, rabbitmq::RabbitMqServer};
use tokio::time::timeout;

use super::traffic::rest;

const EXPIRY: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(60);

async fn connect(server: &RabbitMqServer, expiry: Duration) -> RabbitMqBroker {
    let options = RabbitMqOptions::new(server.url())
        .with_connect_deadline(SOON)
        .with_publish_timeout(SOON)
        .with_temporary_expiry(expiry);
    RabbitMqBroker::connect_with(options).await.unwrap()
}

async fn subscribe(broker: &RabbitMqBroker, group: &str) -> Deliveries {
    let patterns = ["temporary.*.*".parse().unwrap()];
    let group = Group::new(group).unwrap();
    broker.subscribe(Subscription::group(group, patterns).temporary()).await.unwrap()
}

/// Publishes until the event is routed to a queue.
async fn publish(broker: &RabbitMqBroker) -> EventId {
    let event = Event::new("temporary.thing.happened".parse().unwrap(), "test", &1).unwrap();
    let publishing = async {
        while broker.publish_one(Publish::new(event.clone()).with_required_route()).await.is_err() {
            rest(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, publishing).await.expect("the group has a queue");
    event.id
}

/// Reads until this event arrives.
async fn receive(deliveries: &mut Deliveries, id: &EventId) {
    let receiving = async {
        loop {
            let delivery = deliveries.next().await.unwrap().unwrap();
            let is_it = delivery.event.id == *id;
            // After a lost connection, the acknowledgement is refused, and the event is redelivered.
            if delivery.ack().await.is_ok() && is_it {
                return;
            }
        }
    };
    timeout(SOON, receiving).await.expect("the event arrives");
}

fn has_queue(server: &RabbitMqServer, group: &str) -> bool {
    let listed = server.ctl(&["list_queues", "--quiet", "--no-table-headers", "name"]);
    listed.lines().any(|line| line == format!("aios.group.{group}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_delete_the_group_of_a_process_that_ended_while_the_server_was_down() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server, EXPIRY).await;
    let deliveries = subscribe(&broker, "ended").await;
    assert!(has_queue(&server, "ended"));
    server.kill();
    drop((deliveries, broker));
    server.revive();
    let mut looks = 30;
    while has_queue(&server, "ended") {
        looks -= 1;
        assert!(looks > 0, "the queue stays");
        rest(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_keep_the_group_of_a_process_that_reconnects() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server, EXPIRY).await;
    let mut deliveries = subscribe(&broker, "kept").await;
    let first = publish(&broker).await;
    receive(&mut deliveries, &first).await;
    server.kill();
    server.revive();
    let second = publish(&broker).await;
    receive(&mut deliveries, &second).await;
    rest(EXPIRY * 2).await;
    assert!(has_queue(&server, "kept"), "a group with a subscription expires");
    let third = publish(&broker).await;
    receive(&mut deliveries, &third).await;
}

#[tokio::test]
async fn should_declare_a_deleted_group_again_and_log_the_loss() {
    let Some(server) = RabbitMqServer::start() else { return };
    let logged = Logged::here();
    let broker = connect(&server, EXPIRY).await;
    let mut deliveries = subscribe(&broker, "again").await;
    // The connection must send its heartbeats in the meantime, or the group expires first.
    let server = Arc::new(server);
    let deleting = Arc::clone(&server);
    let delete = move || deleting.ctl(&["delete_queue", "aios.group.again"]);
    let _ = tokio::task::spawn_blocking(delete).await.unwrap();
    let id = publish(&broker).await;
    receive(&mut deliveries, &id).await;
    let lines = logged.lines(&["was deleted while its subscription was disconnected", "again"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn should_join_a_group_that_was_declared_with_another_expiry() {
    let Some(server) = RabbitMqServer::shared() else { return };
    // As declared before there was an expiry.
    let _ = server.ctl(&[
        "eval",
        r#"rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"aios.group.older">>), true, true,
            [{<<"x-queue-type">>, longstr, <<"classic">>}], none, <<"guest">>)."#,
    ]);
    let logged = Logged::here();
    let broker = connect(server, EXPIRY).await;
    let other = connect(server, EXPIRY * 2).await;
    for (number, group) in ["older", "shorter"].into_iter().enumerate() {
        let mut first = subscribe(&broker, group).await;
        let second = subscribe(&other, group).await;
        drop(second);
        let id = publish(&broker).await;
        receive(&mut first, &id).await;
        let lines = logged.lines(&["another expiry", group]);
        assert_eq!(lines.len(), 2 - number, "{lines:?}");
    }
}
