//! The objects on the server, and their names.
//!
//! Declaring is idempotent, so every subscription declares what it needs, on its own channel. A group
//! that exists with other properties is an error and is never replaced: its events would be lost. Only
//! another expiry of a temporary group is accepted, and the existing one is kept.
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

use aios_core::broker::{Address, BrokerError, Lifetime, Subscription};
use lapin::{
    Channel, Connection, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::Link,
    error::{about, is_not_found, within},
    headers::{long, short, table},
};

/// Time between two attempts to declare.
const PAUSE: Duration = Duration::from_millis(250);

/// Dead letters of a temporary group expire when they were not read for this long.
const FORGET: Duration = Duration::from_secs(3600);

/// The argument with the time after which an unused queue is deleted.
const EXPIRES: &str = "x-expires";

/// The exchange through which events go to groups.
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

/// The exchange that returns events to durable groups and mailboxes after their delay. The name of a
/// queue is its routing key.
pub(super) fn due_exchange(prefix: &str) -> String {
    format!("{prefix}.due")
}

/// The exchange and the queue of the events that can't return, because their queue was deleted.
pub(super) fn unclaimed(prefix: &str) -> String {
    format!("{prefix}.unclaimed")
}

/// Declares the exchange of the groups on a channel.
pub(super) async fn declare_exchange(link: &Link, channel: &Channel) -> Result<(), BrokerError> {
    let name = exchange(&link.options.prefix);
    declare_durable_exchange(link, channel, &name, ExchangeKind::Topic, FieldTable::default()).await
}

/// Declares the exchange that returns events after their delay.
pub(super) async fn declare_due_exchange(
    link: &Link,
    channel: &Channel,
) -> Result<(), BrokerError> {
    let prefix = &link.options.prefix;
    let arguments = table([("alternate-exchange", long(unclaimed(prefix)))]);
    let name = due_exchange(prefix);
    declare_durable_exchange(link, channel, &name, ExchangeKind::Direct, arguments).await
}

/// Declares an exchange that survives a restart of the server.
pub(super) async fn declare_durable_exchange(
    link: &Link,
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declared = channel.exchange_declare(short(name), kind, options, arguments);
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    within(clock, after, "declare an exchange", declared).await
}

/// Declares what a subscription needs. A server that is not ready, for example because a quorum
/// queue has no leader yet, is asked again until the operation's timeout. Returns an open channel on which
/// nothing has begun yet.
pub(super) async fn declare(
    link: &Link,
    subscription: &Subscription,
) -> Result<(Arc<Connection>, Channel), BrokerError> {
    let clock = &link.options.clock;
    let deadline = clock.elapsed().saturating_add(link.options.operation_timeout);
    loop {
        match declare_once(link, subscription).await {
            Err(error) if is_transient(&error) && clock.elapsed() + PAUSE < deadline => {
                clock.sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Whether declaring again may succeed. An address is unknown if its queue was deleted between two
/// requests.
pub(super) fn is_transient(error: &BrokerError) -> bool {
    error.is_retryable() || matches!(error, BrokerError::UnknownAddress { .. })
}

/// Declares on a new channel, because the server closes the channel if an object exists with other
/// properties.
async fn declare_once(
    link: &Link,
    subscription: &Subscription,
) -> Result<(Arc<Connection>, Channel), BrokerError> {
    let (connection, channel) = declare_address(link, subscription).await?;
    let address = &subscription.address;
    let prefix = &link.options.prefix;
    let dead = dead_queue(prefix, address);
    let lifetime = subscription.lifetime;
    declare_queue(link, &channel, &dead, Lifetime::Durable, dead_arguments(lifetime))
        .await
        .map_err(|error| about(address, error))?;
    bind_all(link, &channel, subscription).await?;
    Ok((connection, channel))
}

/// Declares the exchange and binds the existing queue of a subscription again. An exchange that was
/// deleted has taken the bindings of its queues with it.
pub(super) async fn restore_bindings(
    link: &Link,
    subscription: &Subscription,
) -> Result<(), BrokerError> {
    let (_connection, channel) = link.channel().await?;
    declare_exchange(link, &channel).await?;
    bind_all(link, &channel, subscription).await
}

/// Whether an exchange that the queue of a subscription is bound to no longer exists.
pub(super) async fn lacks_exchange(
    link: &Link,
    subscription: &Subscription,
) -> Result<bool, BrokerError> {
    let (_connection, channel) = link.channel().await?;
    let prefix = &link.options.prefix;
    let events = (!subscription.patterns.is_empty()).then(|| exchange(prefix));
    let due = (subscription.lifetime == Lifetime::Durable).then(|| due_exchange(prefix));
    for name in events.into_iter().chain(due) {
        match look_for_exchange(link, &channel, &name).await {
            Err(error) if is_not_found(&error) => return Ok(true),
            found => found?,
        }
    }
    Ok(false)
}

/// Fails if there is no such exchange, which closes the channel.
async fn look_for_exchange(link: &Link, channel: &Channel, name: &str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    // The server does not look at the kind.
    let kind = ExchangeKind::Topic;
    let found = channel.exchange_declare(short(name), kind, options, FieldTable::default());
    let clock = &*link.options.clock;
    let after = link.options.operation_timeout;
    within(clock, after, "find an exchange", found).await
}

/// Binds the queue of a group to its patterns. They have the syntax and meaning of AMQP's topic
/// exchanges. A mailbox has no patterns: the default exchange routes to it by the name of its queue.
/// A durable queue also gets its events back after their delays.
async fn bind_all(
    link: &Link,
    channel: &Channel,
    subscription: &Subscription,
) -> Result<(), BrokerError> {
    let address = &subscription.address;
    let prefix = &link.options.prefix;
    let queue = queue(prefix, address);
    let exchange = exchange(prefix);
    for pattern in &subscription.patterns {
        let bound = bind(link, channel, &queue, &exchange, pattern.as_str()).await;
        bound.map_err(|error| about(address, error))?;
    }
    if subscription.lifetime == Lifetime::Durable {
        declare_due_exchange(link, channel).await?;
        let bound = bind(link, channel, &queue, &due_exchange(prefix), &queue).await;
        bound.map_err(|error| about(address, error))?;
    }
    Ok(())
}

/// Declares the exchange and the queue of a group or mailbox. A temporary queue that exists with
/// another expiry, or was declared by a version without one, is used as it is. Returns an open
/// channel.
async fn declare_address(
    link: &Link,
    subscription: &Subscription,
) -> Result<(Arc<Connection>, Channel), BrokerError> {
    let (connection, channel) = link.channel().await?;
    let address = &subscription.address;
    let lifetime = subscription.lifetime;
    let prefix = &link.options.prefix;
    declare_exchange(link, &channel).await?;
    let dead = dead_queue(prefix, address);
    let queue = queue(prefix, address);
    let arguments = arguments(link, address, lifetime, &dead);
    let declared = declare_queue(link, &channel, &queue, lifetime, arguments).await;
    match declared.map_err(|error| about(address, error)) {
        Ok(_) => Ok((connection, channel)),
        Err(BrokerError::Incompatible { difference, .. }) if is_expiry(&difference) => {
            tracing::warn!(
                %address, difference,
                "a temporary group or mailbox exists with another expiry, which is kept"
            );
            let (connection, channel) = link.channel().await?;
            let found = inspect(link, &channel, &queue).await;
            found.map(|_| (connection, channel)).map_err(|error| about(address, error))
        }
        Err(error) => Err(error),
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
    use aios_core::broker::Mailbox;

    use super::*;

    #[test]
    fn should_keep_names_within_what_amqp_takes() {
        let longest = Mailbox::new("m".repeat(200)).unwrap();
        let prefix = "p".repeat(20);
        assert!(dead_queue(&prefix, &longest.into()).len() <= 255);
    }
}
