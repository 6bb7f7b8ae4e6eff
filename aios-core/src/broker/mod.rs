//! The broker port: moves events between services, at least once.
//!
//! A published event goes to every [`Group`] with a matching pattern, where one consumer receives
//! it, and to a [`Mailbox`] if one is named. A [`Delivery`] is settled exactly once, by value; a
//! dropped one is released and delivered again.

mod address;
mod dead_letter;
mod delivery;
mod error;
mod ext;
mod health;
mod subscription;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;

pub use self::{
    address::{Address, Group, InvalidAddress, Mailbox},
    dead_letter::{DeadLetter, DeadLetterFilter, DeadLetters},
    delivery::{Acknowledger, Deliveries, Delivery, Settlement},
    error::BrokerError,
    ext::BrokerExt,
    health::{Health, HealthWatch},
    subscription::{Lifetime, OnExhausted, Subscription},
};
use crate::{event::Event, forward::forward};

/// An event on its way to the broker.
///
/// # Examples
///
/// ```
/// use aios_core::{
///     broker::{Mailbox, Publish},
///     event::Event,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let event = Event::new("shop.order.placed".parse()?, "shop", &7)?;
/// // An error without a subscription.
/// let to_all = Publish::new(event.clone()).with_required_route();
/// // To the reader of a mailbox too.
/// let to_one = Publish::new(event).with_mailbox("shop.till_7".parse::<Mailbox>()?);
/// assert!(to_all.require_route && to_one.to.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Publish {
    /// The event; its type is the routing key.
    pub event: Event,
    /// A mailbox that also receives the event, in addition to every group whose pattern matches.
    pub to: Option<Mailbox>,
    /// Whether it is an error, [`BrokerError::Unroutable`], if no consumer listens.
    ///
    /// If a mailbox is named, the mailbox alone decides. The result is an error if it does not exist,
    /// even if groups have received the event. The result is `Ok` once the mailbox has the event, even
    /// if a group has refused it, which is logged and counted.
    pub require_route: bool,
}

impl Publish {
    /// Publishes to every group whose pattern matches, if any.
    #[must_use]
    pub fn new(event: Event) -> Self {
        Self { event, to: None, require_route: false }
    }

    /// Publishes to this mailbox as well.
    #[must_use]
    pub fn with_mailbox(mut self, mailbox: Mailbox) -> Self {
        self.to = Some(mailbox);
        self
    }

    /// Requires that the mailbox exists or, without a mailbox, that a group receives the event.
    #[must_use]
    pub fn with_required_route(mut self) -> Self {
        self.require_route = true;
        self
    }
}

/// Moves events between services, at least once.
///
/// # Guarantees
///
/// - Events of one publisher reach a group in the order of their publishing, as long as nothing is
///   retried, released or redelivered and the group has one consumer: within a call, in batch order;
///   a later call's events follow those of a call that had already returned.
/// - A group keeps its events until they are settled, whether or not a consumer is running.
/// - Every await ends within a timeout of the adapter.
///
/// # Examples
///
/// A consumer that settles every delivery: an event is acknowledged after the work, not before it.
///
/// ```
/// use aios_core::broker::{Broker, Group, Subscription};
///
/// # fn place(_: &aios_core::event::Event) -> Result<(), std::io::Error> { Ok(()) }
/// async fn consume(broker: &dyn Broker) -> Result<(), Box<dyn std::error::Error>> {
///     let orders = Subscription::group(Group::new("billing")?, ["shop.order.*".parse()?])
///         .with_prefetch(16);
///     let mut deliveries = broker.subscribe(orders).await?;
///     while let Some(delivery) = deliveries.next().await {
///         let delivery = delivery?;
///         match place(&delivery.event) {
///             Ok(()) => delivery.ack().await?,
///             // Delivered again after the delay of the retry policy, and a dead letter in the end.
///             Err(error) => delivery.retry(None, error.to_string()).await?,
///         }
///     }
///     Ok(()) // the broker was closed
/// }
/// # let _ = consume;
/// ```
#[async_trait]
pub trait Broker: Debug + Send + Sync + 'static {
    /// Publishes events; the results are in the order of `batch`. `Ok` means that the broker has
    /// the event for each of its groups and its mailbox, durably if it supports that. An error means that
    /// it does not have the event for all of them; it may for some.
    ///
    /// # Cancel safety
    ///
    /// Events of a cancelled call may or may not have been published.
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>>;

    /// Declares the group or mailbox if it does not exist, and starts to consume it.
    ///
    /// Several subscriptions to one group share its events. A mailbox has one reader at a time:
    /// another subscription waits without events until the reader is gone.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Incompatible`] if it exists with other properties; otherwise errors of the
    /// broker.
    ///
    /// # Cancel safety
    ///
    /// The group may have been declared, but no consumer remains.
    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError>;

    /// Returns the dead letters of a group or mailbox.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if it was never declared.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError>;

    /// Watches the state of the connection, beginning with the current state.
    fn health(&self) -> HealthWatch;

    /// Stops consuming, waits until unsettled deliveries are settled and the broker has processed
    /// the settlements, then disconnects. Later calls fail with [`BrokerError::Closed`].
    ///
    /// # Errors
    ///
    /// [`BrokerError::Timeout`] if deliveries were still unsettled after `deadline`; they are
    /// released. The broker is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have ended consuming and not have disconnected. Call it again.
    async fn close(&self, deadline: Duration) -> Result<(), BrokerError>;
}

forward!(Broker {
    async publish[](batch: Vec<Publish>) -> Vec<Result<(), BrokerError>>;
    async subscribe[](subscription: Subscription) -> Result<Deliveries, BrokerError>;
    async dead_letters['a](address: &'a Address) -> Result<Box<dyn DeadLetters>, BrokerError>;
    async close[](deadline: Duration) -> Result<(), BrokerError>;
    fn health() -> HealthWatch;
});
