//! The objects on the server, and their names.
//!
//! Declaring is idempotent, so every subscription declares what it needs, on a channel of its own
//! that may be closed by an error. A group that exists with other properties is an error and is
//! never replaced: its events would be lost. Only another expiry of a temporary group is accepted,
//! and the existing one is kept.
//!
//! The arguments of a queue are part of its identity. Changing one here makes the queues of older
//! versions incompatible.
//!
//! | queue | kind | because |
//! |---|---|---|
//! | durable group or mailbox | quorum | replicated; has a delivery limit |
//! | temporary group or mailbox | classic, deleted with its last consumer | quorum queues can't be |
//! | dead letters | quorum or classic, as the group | kept until they are redriven or purged; those of a temporary group expire when they were not read for an hour |
//!
//! A mailbox has a single active consumer: the server delivers to one reader at a time, and to the
//! next one when it ends.

use std::{sync::Arc, time::Duration};

use aios_core::{
    broker::{Address, BrokerError, Lifetime, Mailbox, Subscription},
    event::Pattern,
};
use lapin::{
    Channel, Connection, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::Link,
    error::{about, about_declared, is_not_found, warn, within},
    headers::{long, short, table},
};

/// Time between two attempts to declare.
const PAUSE: Duration = Duration::from_millis(250);

/// Dead letters of a temporary group expire when they were not read for this long.
const FORGET: Duration = Duration::from_secs(3600);

/// How many other names a temporary queue can have while nodes are down.
const OTHER_NAMES: u8 = 4;

/// The argument with the time after which an unused queue is deleted.
const EXPIRES: &str = "x-expires";

/// The exchange that all events go through.
pub(super) fn exchange(prefix: &str) -> String {
    format!("{prefix}.events")
}

/// The queue of a group or mailbox.
pub(super) fn queue(prefix: &str, address: &Address) -> String {
    match address {
        Address::Group(group) => format!("{prefix}.group.{group}"),
        Address::Mailbox(mailbox) => format!("{prefix}.mailbox.{mailbox}"),
    }
}

/// The queue of the dead letters of a group or mailbox.
pub(super) fn dead_queue(prefix: &str, address: &Address) -> String {
    match address {
        Address::Group(group) => format!("{prefix}.dead.group.{group}"),
        Address::Mailbox(mailbox) => format!("{prefix}.dead.mailbox.{mailbox}"),
    }
}

/// The routing key of a mailbox. It has as many segments as an event type, and no pattern can name
/// any of them, so only patterns that match every type match it.
pub(super) fn mailbox_key(mailbox: &Mailbox) -> String {
    format!("@.@{}.@", mailbox.as_str().replace('.', "/"))
}

/// Declares the exchange of all events on a channel.
pub(super) async fn declare_exchange(link: &Link, channel: &Channel) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let name = short(&exchange(&link.options.prefix));
    let declared =
        channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    within(clock, after, "declare the exchange", declared).await
}

/// Declares what a subscription needs, and returns the name of its queue. A server that is not ready, for
/// example because a quorum queue has no leader yet, is asked again until the operation's timeout.
pub(super) async fn declare(
    link: &Link,
    subscription: &Subscription,
) -> Result<String, BrokerError> {
    let clock = &link.options.clock;
    let deadline = clock.now() + link.options.operation_timeout;
    loop {
        match declare_once(link, subscription).await {
            Err(error) if error.is_retryable() && clock.now() + PAUSE < deadline => {
                clock.sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Declares on a separate channel, because the server closes the channel if an object exists with
/// other properties.
async fn declare_once(link: &Link, subscription: &Subscription) -> Result<String, BrokerError> {
    let address = &subscription.address;
    let (_connection, channel, queue) = declare_address(link, subscription).await?;
    bind_all(link, &channel, subscription, &queue)
        .await
        .map_err(|error| about_declared(address, error))?;
    match declare_dead_queue(link, &channel, subscription).await {
        // The node that has the dead letters of a temporary group is down. They have to wait for it,
        // but what is delivered does not.
        Err(error) if subscription.lifetime == Lifetime::Temporary && is_not_found(&error) => {
            warn(&error, "the dead letters of a temporary group or mailbox cannot be reached");
        }
        declared => declared.map_err(|error| about_declared(address, error))?,
    }
    Ok(queue)
}

/// Declares the queue of the dead letters of a group or mailbox.
async fn declare_dead_queue(
    link: &Link,
    channel: &Channel,
    subscription: &Subscription,
) -> Result<(), BrokerError> {
    let dead = dead_queue(&link.options.prefix, &subscription.address);
    let arguments = dead_arguments(subscription.lifetime);
    declare_queue(link, channel, &dead, Lifetime::Durable, arguments).await.map(drop)
}

/// Declares the queue of the dead letters of a group or mailbox again, after it was deleted.
pub(super) async fn restore_dead_queue(
    link: &Link,
    subscription: &Subscription,
) -> Result<(), BrokerError> {
    let (_connection, channel) = link.channel().await?;
    let declared = declare_dead_queue(link, &channel, subscription).await;
    declared.map_err(|error| about_declared(&subscription.address, error))
}

/// Declares the exchange and binds an existing queue of a subscription again. An exchange that was
/// deleted has taken the bindings of its queues with it.
pub(super) async fn restore_bindings(
    link: &Link,
    subscription: &Subscription,
    queue: &str,
) -> Result<(), BrokerError> {
    let (_connection, channel) = link.channel().await?;
    declare_exchange(link, &channel).await?;
    let bound = bind_all(link, &channel, subscription, queue).await;
    bound.map_err(|error| about(&subscription.address, error))
}

/// Binds the queue of a subscription to its patterns, or to the key of its mailbox.
async fn bind_all(
    link: &Link,
    channel: &Channel,
    subscription: &Subscription,
    queue: &str,
) -> Result<(), BrokerError> {
    let exchange = exchange(&link.options.prefix);
    for key in binding_keys(&subscription.address, &subscription.patterns) {
        bind(link, channel, queue, &exchange, &key).await?;
    }
    Ok(())
}

/// Declares the exchange and the queue of a group or mailbox. Returns an open channel and the name of
/// the queue.
///
/// In a cluster, a temporary queue is on one node. While that node is down, no client can declare or
/// delete the queue, so it gets another name.
async fn declare_address(
    link: &Link,
    subscription: &Subscription,
) -> Result<(Arc<Connection>, Channel, String), BrokerError> {
    let address = &subscription.address;
    let queue = queue(&link.options.prefix, address);
    let others = match subscription.lifetime {
        Lifetime::Durable => 0,
        Lifetime::Temporary => OTHER_NAMES,
    };
    let mut number = 0;
    loop {
        let name = match number {
            0 => queue.clone(),
            number => format!("{queue}@{number}"),
        };
        match declare_named(link, subscription, &name).await {
            Ok((connection, channel)) => return Ok((connection, channel, name)),
            Err(error) if number < others && is_not_found(&error) => number += 1,
            Err(error) => return Err(about_declared(address, error)),
        }
    }
}

/// Declares the exchange and a queue. A temporary queue that exists with another expiry, or was declared
/// by a version without one, is used as it is.
async fn declare_named(
    link: &Link,
    subscription: &Subscription,
    queue: &str,
) -> Result<(Arc<Connection>, Channel), BrokerError> {
    let (connection, channel) = link.channel().await?;
    let Subscription { address, lifetime, .. } = subscription;
    declare_exchange(link, &channel).await?;
    let dead = dead_queue(&link.options.prefix, address);
    let arguments = arguments(link, address, *lifetime, &dead);
    let declared = declare_queue(link, &channel, queue, *lifetime, arguments).await;
    let Err(error) = declared else { return Ok((connection, channel)) };
    match about(address, error.clone()) {
        BrokerError::Incompatible { difference, .. } if is_expiry(&difference) => {
            tracing::warn!(
                %address, difference,
                "a temporary group or mailbox exists with another expiry, which is kept"
            );
            let (connection, channel) = link.channel().await?;
            inspect(link, &channel, queue).await.map(|_| (connection, channel))
        }
        _ => Err(error),
    }
}

/// Whether two declarations of a queue differ in their expiry. The server compares the lifetime
/// first.
fn is_expiry(difference: &str) -> bool {
    difference.contains(&format!("'{EXPIRES}'"))
}

/// Inspects an existing queue.
pub(super) async fn inspect(
    link: &Link,
    channel: &Channel,
    name: &str,
) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(short(name), options, FieldTable::default());
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    within(clock, after, "inspect a queue", declared).await
}

/// Binds a queue to an exchange.
pub(super) async fn bind(
    link: &Link,
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), BrokerError> {
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(
        short(queue),
        short(exchange),
        short(key),
        options,
        FieldTable::default(),
    );
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    within(clock, after, "bind a queue", bound).await
}

/// Declares a queue that survives a restart of the server.
pub(super) async fn declare_queue(
    link: &Link,
    channel: &Channel,
    name: &str,
    lifetime: Lifetime,
    arguments: FieldTable,
) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions {
        durable: true,
        auto_delete: lifetime == Lifetime::Temporary,
        ..Default::default()
    };
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    let declared = channel.queue_declare(short(name), options, arguments);
    within(clock, after, "declare a queue", declared).await
}

/// The keys that a queue is bound to. Patterns have the syntax and meaning of AMQP's topic
/// exchanges.
fn binding_keys(address: &Address, patterns: &[Pattern]) -> Vec<String> {
    match address {
        Address::Group(_) => patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        Address::Mailbox(mailbox) => vec![mailbox_key(mailbox)],
    }
}

/// The arguments of the queue of a group or mailbox.
fn arguments(link: &Link, address: &Address, lifetime: Lifetime, dead: &str) -> FieldTable {
    let mut arguments = match lifetime {
        Lifetime::Durable => table([
            ("x-queue-type", long("quorum")),
            ("x-delivery-limit", AMQPValue::LongLongInt(link.options.delivery_limit.into())),
            ("x-dead-letter-exchange", long("")),
            ("x-dead-letter-routing-key", long(dead)),
            ("x-dead-letter-strategy", long("at-least-once")),
            ("x-overflow", long("reject-publish")),
        ]),
        // Quorum queues can't be deleted automatically with their last consumer. A queue whose
        // consumer ended while the server was down has no last consumer; it expires.
        Lifetime::Temporary => table([
            ("x-queue-type", long("classic")),
            (EXPIRES, millis(link.options.temporary_expiry)),
        ]),
    };
    if let Address::Mailbox(_) = address {
        arguments.insert(short("x-single-active-consumer"), AMQPValue::Boolean(true));
    }
    arguments
}

/// Dead letters are read and requeued any number of times. By default, RabbitMQ 4 would drop them
/// after 20 times.
fn dead_arguments(lifetime: Lifetime) -> FieldTable {
    match lifetime {
        Lifetime::Durable => table([
            ("x-queue-type", long("quorum")),
            ("x-delivery-limit", AMQPValue::LongLongInt(1_000_000_000)),
        ]),
        Lifetime::Temporary => {
            table([("x-queue-type", long("classic")), (EXPIRES, millis(FORGET))])
        }
    }
}

/// A duration in milliseconds.
fn millis(duration: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_keep_names_within_what_amqp_takes() {
        let longest = Mailbox::new("m".repeat(200)).unwrap();
        let prefix = "p".repeat(20);
        assert!(dead_queue(&prefix, &longest.clone().into()).len() <= 255);
        assert!(queue(&prefix, &longest.clone().into()).len() + "@4".len() <= 255);
        assert!(mailbox_key(&longest).len() <= 255);
    }
}
