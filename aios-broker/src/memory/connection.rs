//! A connection to an exchange, and how it ends.
//!
//! ```text
//! Open ── close ──► Draining ── all deliveries settled, or the deadline ──► Closed
//! ```
//!
//! While it drains, no subscription yields further deliveries and none can be added, but handlers
//! may still publish: a handler publishes its result before it acknowledges. After the deadline,
//! deliveries that are not settled return to their queues, and a later attempt to settle one fails
//! with `Closed`.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use aios_core::broker::{BrokerError, Health};
use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{consumer::Consumer, exchange::Exchange};
use crate::health::HealthState;

/// One user's access to an exchange.
pub(super) struct Connection {
    /// The exchange, shared by all connections to the same broker.
    pub(super) exchange: Arc<Exchange>,
    /// Connected until this connection is closed.
    pub(super) health: HealthState,
    /// Notified when a stopped consumer has no unsettled deliveries left.
    pub(super) idle: Arc<Notify>,
    /// Locked before all other locks.
    state: Mutex<State>,
}

/// The part of a connection that changes.
#[derive(Default)]
struct State {
    /// Only moves forward.
    phase: Phase,
    /// Weak, because a consumer lives as long as its subscription or one of its deliveries.
    consumers: Vec<Weak<Consumer>>,
}

/// How far closing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Subscribing and publishing are possible.
    #[default]
    Open,
    /// Consuming has ended. Unsettled deliveries are being settled, and handlers may still publish.
    Draining,
    /// Nothing is possible.
    Closed,
}

impl Connection {
    /// Opens a connection.
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let health = HealthState::new(Health::Connected);
        Self { exchange, health, idle: Arc::default(), state: Mutex::default() }
    }

    /// Refuses calls after the connection was closed.
    pub(super) fn check_open(&self) -> Result<(), BrokerError> {
        match self.state.lock().phase {
            Phase::Open | Phase::Draining => Ok(()),
            Phase::Closed => Err(BrokerError::Closed),
        }
    }

    /// Adds the consumer that `make` returns, unless consuming has ended.
    pub(super) fn consume(
        &self,
        make: impl FnOnce() -> Result<Arc<Consumer>, BrokerError>,
    ) -> Result<Arc<Consumer>, BrokerError> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(BrokerError::Closed);
        }
        let consumer = make()?;
        state.consumers.retain(|known| known.strong_count() > 0);
        state.consumers.push(Arc::downgrade(&consumer));
        Ok(consumer)
    }

    /// Stops consuming, waits until every delivery is settled, and closes. After the deadline it
    /// closes nevertheless, and returns a timeout.
    pub(super) async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        let consumers = self.drain();
        consumers.iter().for_each(|consumer| consumer.stop());
        let drained = self.drained(&consumers, deadline).await;
        self.state.lock().phase = Phase::Closed;
        consumers.iter().for_each(|consumer| consumer.abandon());
        self.health.set(Health::Closed);
        drained
    }

    /// Ends subscribing, and returns the consumers. Stopping them happens outside the lock, which
    /// `consume` takes before the lock of the exchange.
    fn drain(&self) -> Vec<Arc<Consumer>> {
        let mut state = self.state.lock();
        state.phase = state.phase.max(Phase::Draining);
        state.consumers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits until the consumers have no unsettled delivery. Registers for the notification before
    /// it looks, so that none is missed in between.
    async fn drained(
        &self,
        consumers: &[Arc<Consumer>],
        deadline: Duration,
    ) -> Result<(), BrokerError> {
        let mut expired = self.exchange.options.clock.sleep(deadline);
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if consumers.iter().all(|consumer| consumer.is_idle()) {
                return Ok(());
            }
            if let Either::Right(_) = select(idle, &mut expired).await {
                let operation = "see every delivery settled";
                return Err(BrokerError::Timeout { operation, after: deadline });
            }
        }
    }
}
