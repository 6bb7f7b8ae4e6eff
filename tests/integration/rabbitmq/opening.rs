//! Connecting: many processes at once on a new virtual host, one to a host that does not exist, and
//! one that gets only one of its two connections.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, Subscription},
    failure::Failure,
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::traffic::rest;

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

/// The options of a user that may have one connection. A broker needs two.
fn one_connection(server: &RabbitMqServer, user: &str) -> RabbitMqOptions {
    let _ = server.ctl(&["add_user", user, "password"]);
    let _ = server.ctl(&["set_permissions", user, ".*", ".*", ".*"]);
    let _ = server.ctl(&["set_user_limits", user, r#"{"max-connections": 1}"#]);
    RabbitMqOptions::new(server.url().replace("guest:guest", &format!("{user}:password")))
}

/// Waits until the user is connected, or is not. A refused connection is listed for a moment.
async fn connected(server: &RabbitMqServer, user: &str, expected: bool) {
    let is_connected = || {
        let listed = server.ctl(&["list_connections", "--quiet", "--no-table-headers", "user"]);
        listed.lines().any(|line| line == user)
    };
    let mut looks = 30;
    while is_connected() != expected {
        looks -= 1;
        assert!(looks > 0, "whether {user} is connected should be {expected}");
        rest(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_close_one_connection_if_the_other_fails() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let options = one_connection(server, "half").with_connect_deadline(Duration::from_secs(1));
    let error = RabbitMqBroker::connect_with(options).await.unwrap_err();
    let message = Failure::from_error(error.code(), &error).message;
    assert!(message.contains("limit"), "{message}");
    connected(server, "half", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_close_the_connections_if_connecting_is_cancelled() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let options = one_connection(server, "cancelled");
    let connecting = tokio::spawn(RabbitMqBroker::connect_with(options));
    connected(server, "cancelled", true).await;
    connecting.abort();
    let ended = timeout(Duration::from_secs(20), connecting).await.unwrap();
    assert!(ended.unwrap_err().is_cancelled());
    connected(server, "cancelled", false).await;
}
