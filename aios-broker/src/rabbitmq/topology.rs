use std::time::Duration;

use aios_core::{
    broker::{Address, BrokerError, Lifetime, Mailbox, Subscription},
    event::Pattern,
};
use lapin::{
    Channel, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    error::{about, within},
    headers::{long, short, table},
    link::Link,
};

/// Time between two attempts to declare.
const PAUSE: Duration = Duration::from_millis(250);

/// Dead letters of a temporary group expire when they were not read for this long.
const FORGET: Duration = Duration::from_secs(3600);

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
    let (clock, after) = (&*link.options.clock, link.options.operation_timeout);
    within(clock, after, "declare the exchange", declared).await
}

/// Declares what a subscription needs. A server that is not ready, for example because a quorum
/// queue has no leader yet, is asked again until the operation's timeout.
pub(super) async fn declare(link: &Link, subscription: &Subscription) -> Result<(), BrokerError> {
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
async fn declare_once(link: &Link, subscription: &Subscription) -> Result<(), BrokerError> {
    let (_connection, channel) = link.channel().await?;
    let address = &subscription.address;
    let prefix = &link.options.prefix;
    declare_exchange(link, &channel).await?;
    let (dead, queue) = (dead_queue(prefix, address), queue(prefix, address));
    let lifetime = subscription.lifetime;
    declare_queue(link, &channel, &queue, lifetime, arguments(link, address, lifetime, &dead))
        .await
        .map_err(|error| about(address, error))?;
    declare_queue(link, &channel, &dead, Lifetime::Durable, dead_arguments(lifetime))
        .await
        .map_err(|error| about(address, error))?;
    for key in binding_keys(address, &subscription.patterns) {
        bind(link, &channel, &queue, &exchange(prefix), &key).await?;
    }
    Ok(())
}

/// Inspects an existing queue.
pub(super) async fn inspect(
    link: &Link,
    channel: &Channel,
    name: &str,
) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(short(name), options, FieldTable::default());
    let (clock, after) = (&*link.options.clock, link.options.operation_timeout);
    within(clock, after, "inspect a queue", declared).await
}

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
    let (clock, after) = (&*link.options.clock, link.options.operation_timeout);
    within(clock, after, "bind a queue", bound).await
}

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
    let (clock, after) = (&*link.options.clock, link.options.operation_timeout);
    let declared = channel.queue_declare(short(name), options, arguments);
    within(clock, after, "declare a queue", declared).await
}

fn binding_keys(address: &Address, patterns: &[Pattern]) -> Vec<String> {
    match address {
        Address::Group(_) => patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        Address::Mailbox(mailbox) => vec![mailbox_key(mailbox)],
    }
}

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
        // Quorum queues can't be deleted automatically with their last consumer.
        Lifetime::Temporary => table([("x-queue-type", long("classic"))]),
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
            let millis = i64::try_from(FORGET.as_millis()).unwrap_or(i64::MAX);
            table([
                ("x-queue-type", long("classic")),
                ("x-expires", AMQPValue::LongLongInt(millis)),
            ])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_keep_names_within_what_amqp_takes() {
        let longest = Mailbox::new("m".repeat(200)).unwrap();
        let prefix = "p".repeat(20);
        assert!(dead_queue(&prefix, &longest.clone().into()).len() <= 255);
        assert!(mailbox_key(&longest).len() <= 255);
    }
}
