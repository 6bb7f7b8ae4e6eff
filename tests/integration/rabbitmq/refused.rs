//! Subscriptions that cannot consume again, because the server has begun to refuse their user, and
//! users who may not publish.

use std::time::Duration;

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    Chain,
    broker::{Broker, BrokerError, BrokerExt, Deliveries, Publish, Subscription},
    event::Event,
    retry::Backoff,
};
use aios_tests::{log::Logged, rabbitmq::RabbitMqServer};
use futures_util::future::join;
use tokio::time::timeout;

use super::traffic::rest;

const SOON: Duration = Duration::from_secs(20);

/// A broker of a user of this name, and its group of the same name.
async fn subscribe(server: &RabbitMqServer, name: &str) -> (RabbitMqBroker, Deliveries) {
    let _ = server.ctl(&["add_user", name, "password"]);
    let _ = server.ctl(&["set_permissions", name, ".*", ".*", ".*"]);
    let url = server.url().replace("guest:guest", &format!("{name}:password"));
    let hour = Duration::from_secs(3600);
    let options = RabbitMqOptions::new(url).with_reconnect(Backoff::new(hour, hour));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let pattern = format!("{name}.thing.happened").parse().unwrap();
    let subscription = Subscription::group(name.parse().unwrap(), [pattern]);
    let deliveries = broker.subscribe(subscription).await.unwrap();
    (broker, deliveries)
}

/// Ends the consumer, which then tries to declare its queue again.
fn delete_queue(server: &RabbitMqServer, name: &str) {
    let _ = server.ctl(&["delete_queue", &format!("aios.group.{name}")]);
}

#[tokio::test]
async fn should_end_a_subscription_with_its_permanent_error() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let (_broker, mut deliveries) = subscribe(server, "locked_out").await;
    let _ = server.ctl(&["set_permissions", "locked_out", "", ".*", ".*"]);
    delete_queue(server, "locked_out");
    let last = timeout(SOON, deliveries.next()).await.unwrap();
    let error = last.expect("the error comes before the end").unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    assert!(timeout(SOON, deliveries.next()).await.unwrap().is_none());
}

/// The pause before the next attempt is at least half an hour.
#[tokio::test]
async fn should_end_a_subscription_that_waits_for_its_next_attempt() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let logged = Logged::here();
    let (broker, mut deliveries) = subscribe(server, "rejoining").await;
    let _ = server.ctl(&["set_user_limits", "rejoining", r#"{"max-channels": 0}"#]);
    delete_queue(server, "rejoining");
    let failed = async {
        while logged.lines(&["failed to consume; retrying"]).is_empty() {
            rest(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, failed).await.expect("an attempt fails");
    broker.close(SOON).await.unwrap();
    assert!(timeout(SOON, deliveries.next()).await.unwrap().is_none());
}

/// A broker of a user who may write only to the exchanges that match `exchanges`.
async fn publisher(server: &RabbitMqServer, user: &str, exchanges: &str) -> RabbitMqBroker {
    let _ = server.ctl(&["add_user", user, "password"]);
    let _ = server.ctl(&["set_permissions", user, ".*", exchanges, ".*"]);
    let url = server.url().replace("guest:guest", &format!("{user}:password"));
    RabbitMqBroker::connect(&url).await.unwrap()
}

fn event() -> Publish {
    Publish::new(Event::new("refused.thing.happened".parse().unwrap(), "test", &1).unwrap())
}

fn assert_refused(error: &BrokerError) {
    let said = Chain(error).to_string();
    assert!(!error.is_retryable() && said.contains("ACCESS_REFUSED"), "{error:?}");
}

#[tokio::test]
async fn should_say_that_the_user_may_not_publish() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let broker = publisher(server, "mute", "^$").await;
    for _ in 0..2 {
        assert_refused(&broker.publish_one(event()).await.unwrap_err());
    }
}

/// Events for mailboxes go through the default exchange.
#[tokio::test]
async fn should_say_that_the_user_may_not_publish_to_mailboxes() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let logged = Logged::here();
    let broker = publisher(server, "broadcaster", r"^aios\.events$").await;
    let addressed = event().with_mailbox("m".parse().unwrap()).with_required_route();
    for _ in 0..2 {
        assert_refused(&broker.publish_one(addressed.clone()).await.unwrap_err());
    }
    broker.publish_one(event()).await.unwrap();
    assert!(!logged.lines(&["WARN", "ACCESS_REFUSED"]).is_empty());
}

/// Declares the exchange of the groups as another kind of exchange.
fn declare_fanout(server: &RabbitMqServer, prefix: &str) {
    let declare = format!(
        r#"rabbit_exchange:declare(rabbit_misc:r(<<"/">>, exchange, <<"{prefix}.events">>),
            fanout, true, false, false, [], <<"guest">>)."#
    );
    let _ = server.ctl(&["eval", &declare]);
}

fn assert_permanent(error: &BrokerError, text: &str) {
    let said = Chain(error).to_string();
    assert_eq!((error.code(), error.is_retryable()), ("BROKER_BACKEND", false), "{said}");
    assert!(said.contains(text), "{said}");
}

/// The pauses are longer than the test, so an error that counts as transient becomes a timeout.
#[tokio::test]
async fn should_say_that_the_exchange_is_of_another_kind() {
    let Some(server) = RabbitMqServer::shared() else { return };
    declare_fanout(server, "mistyped");
    let hour = Duration::from_secs(3600);
    let options = RabbitMqOptions::new(server.url())
        .with_prefix("mistyped")
        .with_connect_deadline(Duration::from_secs(24 * 3600))
        .with_operation_timeout(SOON)
        .with_reconnect(Backoff::new(hour, hour));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let group = "mistyped".parse().unwrap();
    let subscription = Subscription::group(group, ["#".parse().unwrap()]);
    let refused = timeout(SOON, broker.subscribe(subscription)).await.expect("an answer comes");
    assert_permanent(&refused.unwrap_err(), "inequivalent arg 'type'");
}

/// Also the publishers that come while the task pauses.
#[tokio::test]
async fn should_tell_every_publisher_that_the_exchange_is_of_another_kind() {
    let Some(server) = RabbitMqServer::shared() else { return };
    declare_fanout(server, "unpublished");
    let hour = Duration::from_secs(3600);
    let options = RabbitMqOptions::new(server.url())
        .with_prefix("unpublished")
        .with_reconnect(Backoff::new(hour, hour));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    for _ in 0..3 {
        let refused = timeout(SOON, broker.publish_one(event())).await.expect("an answer comes");
        assert_permanent(&refused.unwrap_err(), "inequivalent arg 'type'");
        rest(Duration::from_millis(200)).await;
    }
}

/// The advice for an incompatible group is to delete it.
#[tokio::test]
async fn should_not_call_a_group_incompatible_that_the_server_has_no_room_for() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let _ = server.ctl(&["add_vhost", "narrow"]);
    let _ = server.ctl(&["set_permissions", "-p", "narrow", "guest", ".*", ".*", ".*"]);
    let _ = server.ctl(&["set_vhost_limits", "-p", "narrow", r#"{"max-queues": 0}"#]);
    let url = server.url().replace("/%2f", "/narrow");
    let broker = RabbitMqBroker::connect(&url).await.unwrap();
    let group = "narrow".parse().unwrap();
    let subscription = Subscription::group(group, ["#".parse().unwrap()]);
    let error = broker.subscribe(subscription).await.unwrap_err();
    assert_permanent(&error, "queue limit");
}

/// The pause before the next attempt is at least half an hour.
#[tokio::test]
async fn should_answer_publishers_that_wait_for_a_channel_when_it_is_closed() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let logged = Logged::here();
    let _ = server.ctl(&["add_user", "channelless", "password"]);
    let _ = server.ctl(&["set_permissions", "channelless", ".*", ".*", ".*"]);
    let _ = server.ctl(&["set_user_limits", "channelless", r#"{"max-channels": 0}"#]);
    let hour = Duration::from_secs(3600);
    let url = server.url().replace("guest:guest", "channelless:password");
    let options = RabbitMqOptions::new(url)
        .with_publish_timeout(hour)
        .with_reconnect(Backoff::new(hour, hour));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let failed = async {
        while logged.lines(&["failed to open a channel for publishing"]).is_empty() {
            rest(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, failed).await.expect("an attempt fails");
    let closing = async {
        rest(Duration::from_millis(200)).await;
        broker.close(SOON).await.unwrap();
    };
    let (answer, ()) = timeout(SOON, join(broker.publish_one(event()), closing)).await.unwrap();
    assert_eq!(answer.unwrap_err().code(), "BROKER_CLOSED");
}
