//! Connecting: many processes at once on a new virtual host, and one to a host that does not exist.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, Subscription},
    failure::Failure,
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::future::join_all;

const REPLICAS: usize = 4;
const GROUPS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_open_many_replicas_on_a_new_virtual_host() {
    let Some(server) = RabbitMqServer::shared() else { return };
    for round in 0..3 {
        let host = format!("new{round}");
        let _ = server.ctl(&["add_vhost", &host]);
        let _ = server.ctl(&["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
        let url = server.url().replace("/%2f", &format!("/{host}"));
        assert!(url.ends_with(&host), "{url}");
        join_all((0..REPLICAS).map(|_| replica(&url))).await;
        let _ = server.ctl(&["delete_vhost", &host]);
    }
}

async fn replica(url: &str) {
    let broker = RabbitMqBroker::connect(url).await.unwrap();
    let subscribing = (0..GROUPS).map(async |number| {
        let group = format!("group{number}").parse().unwrap();
        let patterns = ["opened.*.*".parse().unwrap()];
        broker.subscribe(Subscription::group(group, patterns)).await.unwrap()
    });
    drop(join_all(subscribing).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_say_at_once_that_the_virtual_host_does_not_exist() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let url = server.url().replace("/%2f", "/nowhere");
    let options = RabbitMqOptions::new(url).with_connect_deadline(Duration::from_secs(86_400));
    let error = RabbitMqBroker::connect_with(options).await.unwrap_err();
    let message = Failure::from_error(error.code(), &error).message;
    assert!(message.contains("vhost nowhere not found") && !error.is_retryable(), "{message}");
}
