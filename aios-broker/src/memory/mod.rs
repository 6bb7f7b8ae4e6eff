//! A broker in this process's memory: for programs of one process, for tests and for simulations.
//!
//! It does all that the [port](aios_core::broker) asks for, on an injected clock, and keeps nothing
//! when the process ends.

mod connection;
mod consumer;
mod dead_letter;
mod delay;
mod exchange;
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
/// - An event goes into all queues it is meant for, or, if one of them is full, into none.
/// - Released events go back to their place; retried and redriven ones queue up at the end.
/// - Consumers of a group take turns by asking: one that is busy keeps at most its prefetch.
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
pub struct MemoryBroker {
    connection: Arc<Connection>,
}

impl MemoryBroker {
    /// Makes a broker with the default [options](MemoryOptions::new).
    #[must_use]
    pub fn new() -> Self {
        Self::connect(Arc::new(Exchange::new(MemoryOptions::new())))
    }

    /// Makes a broker.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InvalidConfiguration`] for a bound out of range.
    pub fn connect_with(options: MemoryOptions) -> Result<Self, BrokerError> {
        options.validate()?;
        Ok(Self::connect(Arc::new(Exchange::new(options))))
    }

    /// Makes another connection to the same broker, as another process would: it has the same
    /// groups and mailboxes, and is closed by itself.
    #[must_use]
    pub fn new_connection(&self) -> Self {
        Self::connect(Arc::clone(&self.connection.exchange))
    }

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
