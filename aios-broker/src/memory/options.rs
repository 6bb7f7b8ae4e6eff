use std::sync::Arc;

use aios_core::{
    broker::BrokerError,
    clock::{Clock, SystemClock},
};

/// How a [`MemoryBroker`](super::MemoryBroker) behaves.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_events: usize,
    pub(super) max_event_bytes: usize,
    pub(super) seed: u64,
}

impl MemoryOptions {
    /// The system's clock, at most 1,000,000 events a group and 16 MiB an event (what RabbitMQ 4
    /// takes by default).
    #[must_use]
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            max_events: 1_000_000,
            max_event_bytes: 16 << 20,
            seed: 0,
        }
    }

    /// Sets the clock that delays and deadlines follow.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how many events a group or mailbox keeps at most, from 1: those that wait, those that
    /// are delayed and the dead letters. When it is full, publishing is
    /// [`Rejected`](BrokerError::Rejected). An event takes about 300 bytes besides its data.
    #[must_use]
    pub fn with_max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// Sets how many bytes the names, data and metadata of an event have at most, from 1. Larger
    /// ones are [`TooLarge`](BrokerError::TooLarge).
    #[must_use]
    pub fn with_max_event_bytes(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Sets what the jitter of delays is drawn from; the same seed gives the same delays.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub(super) fn validate(&self) -> Result<(), BrokerError> {
        if self.max_events == 0 || self.max_event_bytes == 0 {
            let reason = "a broker with room for 0 events or bytes takes nothing".to_owned();
            return Err(BrokerError::InvalidConfiguration { reason });
        }
        Ok(())
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}
