//! Options of the store in memory.

use std::sync::Arc;

use aios_core::{
    clock::{Clock, SystemClock},
    store::StoreError,
};

use crate::validation::MAX_EVENT_BYTES;

/// Upper limit of `max_event_bytes`, the same as that of the durable stores.
const LARGEST_EVENT: usize = 1 << 29;

/// Options of a [`MemoryStore`](super::MemoryStore).
///
/// # Examples
///
/// ```
/// use aios_store::memory::{MemoryOptions, MemoryStore};
///
/// let options = MemoryOptions::new().with_max_event_bytes(1024 * 1024);
/// let store = MemoryStore::connect_with(options)?;
/// # Ok::<(), aios_core::store::StoreError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryOptions {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_event_bytes: usize,
}

impl MemoryOptions {
    /// Creates options with the wall clock and events of up to 16 MiB.
    pub fn new() -> Self {
        Self { clock: Arc::new(SystemClock), max_event_bytes: MAX_EVENT_BYTES }
    }

    /// Sets the clock that decides when leases expire. Default: the wall clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the size limit of an event: payload and metadata together, 1 to 536,870,912 bytes. Default
    /// 16 MiB.
    pub fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Refuses options that are out of range.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let bytes = self.max_event_bytes;
        if !(1..=LARGEST_EVENT).contains(&bytes) {
            let reason =
                format!("max_event_bytes is {bytes}; it must be between 1 and {LARGEST_EVENT}");
            return Err(StoreError::InvalidConfiguration { reason });
        }
        Ok(())
    }
}

/// The same as [`MemoryOptions::new`].
impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_options_out_of_range() {
        for bytes in [0, LARGEST_EVENT + 1, usize::MAX] {
            let error = MemoryOptions::new().with_max_event_bytes(bytes).check().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
            assert!(error.to_string().contains("max_event_bytes is"), "{error}");
        }
        MemoryOptions::new().with_max_event_bytes(1).check().unwrap();
    }
}
