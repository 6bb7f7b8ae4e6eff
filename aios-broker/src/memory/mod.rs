//! A broker in this process's memory: for programs of one process, for tests and for simulations.
//!
//! It implements the whole [port](aios_core::broker) on an injected clock. All events are lost when
//! the process ends.
//!
//! # How it works
//!
//! There is no task. Publishing appends to queues on the caller's thread, and a subscription takes
//! events when it is polled.
//!
//! ```text
//! MemoryBroker ─► Connection ─► Exchange (shared by all connections)
//!                     │             ├─ bindings: pattern ─► Queue
//!                     │             └─ mailboxes: name ───► Queue ── ready, delayed, dead
//!                     └─ Consumer ── takes up to its prefetch from its queue
//! ```
//!
//! Locks are taken in this order, and none is held across an await: the state of a connection, the
//! hand of a consumer, the topology of the exchange, the state of a queue. A queue unlocks its
//! state before it calls the wakers of consumers.

mod connection;
mod consumer;
mod dead_letter;
mod delay;
mod exchange;
mod item;
mod options;
mod publish;
mod queue;
mod settle;
mod subscribe;

use std::{fmt, sync::Arc, time::Duration};

use aios_core::broker::{
    Address, Broker, BrokerError, DeadLetters, Deliveries, HealthWatch, Publish, Subscription,
};
use async_trait::async_trait;

pub use self::options::MemoryOptions;
use self::{connection::Connection, dead_letter::MemoryDeadLetters, exchange::Exchange};

/// A broker in memory.
///
/// # Guarantees
///
/// - An event is appended to all of its queues or, if one of them is full, to none.
/// - Released events return to their position; retried and redriven ones are appended.
/// - Consumers of a group pull events: a busy one has at most its prefetch.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_broker::memory::{MemoryBroker, MemoryOptions};
/// use aios_core::clock::VirtualClock;
///
/// # fn main() -> Result<(), aios_core::broker::BrokerError> {
/// let clock = VirtualClock::default();
/// let options = MemoryOptions::new().with_clock(Arc::new(clock.clone())).with_max_events(10_000);
/// let broker = MemoryBroker::connect_with(options)?;
/// clock.advance(Duration::from_secs(60)); // delayed events are due now
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
///
/// A test of events that a handler gave up:
///
/// ```
/// use aios_broker::memory::MemoryBroker;
/// use aios_core::{
///     broker::{Address, Broker, BrokerExt, DeadLetterFilter, Group, Subscription},
///     event::Event,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new();
/// let billing = Group::new("billing")?;
/// let orders = Subscription::group(billing.clone(), ["shop.order.*".parse()?]);
/// let mut deliveries = broker.subscribe(orders).await?;
///
/// broker.publish_event(Event::new("shop.order.placed".parse()?, "shop", &7)?).await?;
/// deliveries.next().await.ok_or("closed")??.dead_letter("no price").await?;
///
/// let letters = broker.dead_letters(&Address::Group(billing)).await?;
/// assert_eq!(letters.list(10).await?[0].reason, "no price");
/// assert_eq!(letters.redrive(DeadLetterFilter::All).await?, 1);
/// deliveries.next().await.ok_or("closed")??.ack().await?;
/// # Ok(())
/// # }
/// ```
pub struct MemoryBroker {
    /// Also held by the dead letters that it opened.
    connection: Arc<Connection>,
}

impl MemoryBroker {
    /// Creates a broker with the default [options](MemoryOptions::new).
    #[must_use]
    pub fn new() -> Self {
        Self::connect(Arc::new(Exchange::new(MemoryOptions::new())))
    }

    /// Creates a broker.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InvalidConfiguration`] for a bound out of range.
    pub fn connect_with(options: MemoryOptions) -> Result<Self, BrokerError> {
        options.validate()?;
        Ok(Self::connect(Arc::new(Exchange::new(options))))
    }

    /// Creates another connection to the same broker, like that of another process: it has the same
    /// groups and mailboxes, and is closed separately.
    ///
    /// # Examples
    ///
    /// Two services in one test, which stop one after the other:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_broker::memory::MemoryBroker;
    /// use aios_core::{broker::{Broker, BrokerError, BrokerExt}, event::Event};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let shop = MemoryBroker::new();
    /// let till = shop.new_connection();
    /// shop.close(Duration::from_secs(1)).await?;
    /// let event = Event::new("shop.order.placed".parse()?, "shop", &7)?;
    /// till.publish_event(event.clone()).await?;
    /// assert!(matches!(shop.publish_event(event).await, Err(BrokerError::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new_connection(&self) -> Self {
        Self::connect(Arc::clone(&self.connection.exchange))
    }

    /// Creates a connection to an exchange.
    fn connect(exchange: Arc<Exchange>) -> Self {
        Self { connection: Arc::new(Connection::new(exchange)) }
    }
}

/// The same as [`MemoryBroker::new`].
impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        match self.connection.check_open() {
            Ok(()) => publish::publish(&self.connection.exchange, batch),
            Err(closed) => vec![Err(closed); batch.len()],
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        subscribe::subscribe(&self.connection, subscription)
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        self.connection.check_open()?;
        let queue = self.connection.exchange.queue(address)?;
        Ok(Box::new(MemoryDeadLetters { connection: Arc::clone(&self.connection), queue }))
    }

    fn health(&self) -> HealthWatch {
        self.connection.health.watch()
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.connection.close(deadline).await
    }
}
