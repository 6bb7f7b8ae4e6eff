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
    pub(super) exchange: Arc<Exchange>,
    pub(super) health: HealthState,
    /// Notified when a stopped consumer has no unsettled deliveries left.
    pub(super) idle: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    consumers: Vec<Weak<Consumer>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Open,
    /// Consuming has ended. Unsettled deliveries are being settled, and handlers may still publish.
    Draining,
    Closed,
}

impl Connection {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let health = HealthState::new(Health::Connected);
        Self { exchange, health, idle: Arc::default(), state: Mutex::default() }
    }

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

    pub(super) async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        let consumers = self.drain();
        consumers.iter().for_each(|consumer| consumer.stop());
        let drained = self.drained(&consumers, deadline).await;
        self.state.lock().phase = Phase::Closed;
        consumers.iter().for_each(|consumer| consumer.abandon());
        self.health.set(Health::Closed);
        drained
    }

    fn drain(&self) -> Vec<Arc<Consumer>> {
        let mut state = self.state.lock();
        state.phase = state.phase.max(Phase::Draining);
        state.consumers.iter().filter_map(Weak::upgrade).collect()
    }

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
