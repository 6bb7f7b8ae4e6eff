//! Faults of the server under steady traffic.

use std::{sync::Arc, time::Duration};

use aios_core::{
    broker::{Broker, BrokerExt, Health, Publish},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

use super::traffic::{RECOVERY, Traffic, connect, rest};

/// How long to wait until a broker is closed.
const CLOSE: Duration = Duration::from_secs(10);

/// Acknowledges a delivery that does not exist.
const PROTOCOL_ERROR: &str =
    "gen_server:cast(Channel, {method, {'basic.ack', 999999, false}, none, noflow})";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_a_killed_server() {
    let Some(server) = RabbitMqServer::start().map(Arc::new) else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    server.kill();
    rest(Duration::from_secs(1)).await;
    assert!(matches!(broker.health().next().await, Some(Health::Reconnecting { .. })));
    let revived = Arc::clone(&server);
    let reviving = tokio::task::spawn_blocking(move || revived.revive());
    while !server.answers() {
        rest(Duration::from_millis(50)).await;
    }
    traffic.resumes().await;
    reviving.await.unwrap();
    traffic.advances().await;
    let codes = traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    assert!(codes.contains("UNCERTAIN"), "{codes:?}");
    timeout(CLOSE, broker.close(CLOSE)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_closed_connections() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    for _ in 0..3 {
        assert!(!server.ctl(&["close_all_connections", "by the test"]).is_empty());
        traffic.resumes().await;
        traffic.advances().await;
    }
    let codes = traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    assert!(codes.contains("UNCERTAIN"), "{codes:?}");
    timeout(CLOSE, broker.close(CLOSE)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_protocol_errors_on_its_channels() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    for channels in ["Info(consumer_count) > 0", "Info(confirm)"] {
        server.on_channels(channels, PROTOCOL_ERROR);
        traffic.resumes().await;
        traffic.advances().await;
    }
    assert_eq!(server.log().matches("unknown delivery tag 999999").count(), 2);
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    timeout(CLOSE, broker.close(CLOSE)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_a_paused_server() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    server.pause();
    rest(Duration::from_secs(30)).await;
    server.resume();
    while !server.answers() {}
    traffic.resumes().await;
    traffic.advances().await;
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    timeout(CLOSE, broker.close(CLOSE)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_report_a_blocked_server_and_continue_after_that() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let mut health = broker.health();
    let blocked = async { while !matches!(health.next().await, Some(Health::Blocked { .. })) {} };
    timeout(RECOVERY, blocked).await.expect("the block is reported");
    // Publishing reports it.
    traffic.wait_for(RECOVERY, |seen| seen.codes.contains("BROKER_BLOCKED")).await;
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    traffic.resumes().await;
    traffic.advances().await;
    traffic.finish(&["BROKER_BLOCKED", "BROKER_TIMEOUT"]).await;
    timeout(CLOSE, broker.close(CLOSE)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_consume_again_when_its_queue_was_deleted() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    let _ = server.ctl(&["delete_queue", "aios.group.chaos"]);
    // Events in the queue were deleted with it, so only later ones are expected.
    traffic.resumes().await;
    traffic.advances().await;
    traffic.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_publish_again_when_its_idle_channel_was_closed() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let publish = async || {
        let event = Event::new("idle.thing.happened".parse().unwrap(), "test", &1).unwrap();
        broker.publish_one(Publish::new(event)).await
    };
    publish().await.unwrap();
    for closed in 1..4 {
        server.on_channels("Info(confirm)", PROTOCOL_ERROR);
        while server.log().matches("unknown delivery tag 999999").count() < closed {
            rest(Duration::from_millis(50)).await;
        }
        rest(Duration::from_millis(200)).await;
        publish().await.unwrap();
    }
}
