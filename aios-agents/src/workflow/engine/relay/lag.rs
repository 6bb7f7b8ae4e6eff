//! How far the relay is behind the log, as a metric.
//!
//! An engine that does not relay has no lag. The gauge would otherwise keep the last one of an engine that
//! has lost the lease or has stopped.

use aios_core::{Chain, store::EventStore};
use metrics::gauge;
use tracing::debug;

use super::Engine;

/// The gauge, which is 0 once this is dropped.
pub(super) struct Lag(());

impl Lag {
    /// Nothing is relayed yet.
    pub(super) fn new() -> Self {
        Self(())
    }

    /// Reports the events between the position of the relay and the head of the log.
    #[allow(clippy::unused_self, reason = "the value is reset when the relay ends")]
    pub(super) fn set(&self, head: u64, position: u64) {
        let lag = u32::try_from(head.saturating_sub(position)).unwrap_or(u32::MAX);
        gauge!("aios_relay_lag_events").set(f64::from(lag));
    }

    /// Reports that this engine does not relay.
    pub(super) fn clear(&self) {
        self.set(0, 0);
    }

    /// Reports the lag while the position does not change. The log may have grown.
    pub(super) async fn refresh(&self, engine: &Engine, position: u64) {
        match engine.store.head().await {
            Ok(head) => self.set(head, position),
            Err(error) => debug!(error = %Chain(&error), "the lag of the relay is not up to date"),
        }
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.clear();
    }
}
