//! Connecting: many processes at once on a new virtual host, one to a host that does not exist, and
//! one that gets only one of its two connections.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, Health, Subscription},
    failure::Failure,
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::future::join_all;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinHandle,
    time::timeout,
};

use super::{
    proxy::{CONNECTION_CLOSE, OPEN_OK, Proxy, Verdict, blocked_frame},
    traffic::rest,
};

const REPLICAS: usize = 4;
const GROUPS: usize = 8;
/// The longest that a test waits.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// Options to connect as this user through a proxy that passes one connection on. The task ends when the
/// client closes that connection. Others are closed, or held without an answer. A broker needs two.
async fn one_connection(
    server: &RabbitMqServer,
    user: &str,
    holds_others: bool,
) -> (RabbitMqOptions, JoinHandle<()>) {
    let _ = server.ctl(&["add_user", user, "password"]);
    let _ = server.ctl(&["set_permissions", user, ".*", ".*", ".*"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{user}:password@{}", listener.local_addr().unwrap());
    let port = server.port();
    let passed_on = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let others = async {
            let mut held = Vec::new();
            loop {
                let (other, _) = listener.accept().await.unwrap();
                held.extend(holds_others.then_some(other));
            }
        };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut upstream) => {}
            () = others => {}
        }
    });
    (RabbitMqOptions::new(url), passed_on)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_close_one_connection_if_the_other_fails() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let (options, passed_on) = one_connection(server, "half", false).await;
    let options = options.with_connect_deadline(Duration::from_secs(5));
    RabbitMqBroker::connect_with(options).await.unwrap_err();
    timeout(PATIENCE, passed_on).await.expect("the connection is closed").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_close_the_connections_if_connecting_is_cancelled() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let (options, passed_on) = one_connection(server, "cancelled", true).await;
    // On a busy machine, it takes long until the connection is listed.
    let options = options.with_connect_deadline(Duration::from_secs(3600));
    let connecting = tokio::spawn(RabbitMqBroker::connect_with(options));
    let arguments = ["list_connections", "--quiet", "--no-table-headers", "user"];
    while !server.ctl(&arguments).lines().any(|user| user == "cancelled") {
        rest(Duration::from_millis(100)).await;
    }
    connecting.abort();
    assert!(timeout(PATIENCE, connecting).await.unwrap().unwrap_err().is_cancelled());
    timeout(PATIENCE, passed_on).await.expect("the connection is closed").unwrap();
}

/// A caller may poll in a runtime and drop outside of it, as a binding to another language does.
#[test]
fn should_take_a_cancelled_subscription_back_outside_of_a_runtime() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(RabbitMqBroker::connect(&server.url())).unwrap();
    for millis in 1..40 {
        let subscription = Subscription::mailbox("cancelled".parse().unwrap());
        let mut subscribing = broker.subscribe(subscription);
        let subscribed = async { timeout(Duration::from_millis(millis), &mut subscribing).await };
        drop(runtime.block_on(subscribed));
        drop(subscribing);
    }
}

/// The server may do so before the client listens.
#[tokio::test]
async fn should_report_a_server_that_blocks_publishers_from_the_beginning() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let proxy = Proxy::start(server, |frame| match frame.method() == Some(OPEN_OK) {
        true => Verdict::Then(blocked_frame()),
        false => Verdict::Pass,
    });
    let broker = RabbitMqBroker::connect(&proxy.url()).await.unwrap();
    let mut health = broker.health();
    let blocked = async { while !matches!(health.next().await, Some(Health::Blocked { .. })) {} };
    timeout(PATIENCE, blocked).await.expect("the block is reported");
}

#[tokio::test]
async fn should_close_by_its_deadline_although_the_server_does_not_answer() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let proxy = Proxy::start(server, |frame| match frame.method() == Some(CONNECTION_CLOSE) {
        true => Verdict::Withhold,
        false => Verdict::Pass,
    });
    let hour = Duration::from_secs(3600);
    let options =
        RabbitMqOptions::new(proxy.url()).with_operation_timeout(hour).with_heartbeat(hour);
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let closed = timeout(PATIENCE, broker.close(Duration::from_millis(200))).await;
    closed.expect("closing ends").unwrap();
}

/// Each subscription has one channel. Its queue is declared there, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_subscribe_again_when_a_channel_is_free() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let url = format!("{}?channel_max=4", server.url());
    let options = RabbitMqOptions::new(url)
        .with_connect_deadline(Duration::from_secs(5))
        .with_operation_timeout(Duration::from_secs(5));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let subscribe = async |number: usize| {
        let group = format!("channels{number}").parse().unwrap();
        let patterns = ["channels.*.*".parse().unwrap()];
        broker.subscribe(Subscription::group(group, patterns)).await
    };
    let mut subscribed = Vec::new();
    let error = loop {
        match subscribe(subscribed.len()).await {
            Ok(deliveries) => subscribed.push(deliveries),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(subscribed.len(), 4);
    drop(subscribed.pop());
    let again = async {
        while let Err(error) = subscribe(9).await {
            assert!(error.is_retryable(), "{error:?}");
        }
    };
    timeout(PATIENCE, again).await.expect("the channel is free");
}
