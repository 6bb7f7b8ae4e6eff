use std::sync::Arc;

use aios_core::clock::{Clock, SystemClock};

use crate::admission::MAX_EVENT_BYTES;

/// How a [`MemoryStore`](super::MemoryStore) behaves.
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryOptions {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_event_bytes: usize,
}

impl MemoryOptions {
    /// The wall clock, and events of up to 16 MiB.
    pub fn new() -> Self {
        Self { clock: Arc::new(SystemClock), max_event_bytes: MAX_EVENT_BYTES }
    }

    /// Sets the clock by which leases expire.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how large an event may be: payload and metadata together, in bytes. Default 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }
}

/// The same as [`MemoryOptions::new`].
impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}
