//! The settlement of a delivery in memory: nothing is awaited, and it fails only after the
//! connection was closed.
//!
//! The key identifies a delivery in the slab of its consumer. Closing empties the slab, so a settlement
//! that comes later finds nothing and fails with `Closed`; the event has returned to its queue.

use std::sync::Arc;

use aios_core::broker::{Acknowledger, BrokerError, Settlement};
use async_trait::async_trait;

use super::consumer::Consumer;

/// A delivery that a handler has not settled yet.
pub(super) struct UnsettledDelivery {
    /// The consumer that received it.
    consumer: Arc<Consumer>,
    /// The delivery's place in the hand of its consumer.
    key: usize,
}

impl UnsettledDelivery {
    /// The delivery with this key.
    pub(super) fn new(consumer: Arc<Consumer>, key: usize) -> Self {
        Self { consumer, key }
    }
}

#[async_trait]
impl Acknowledger for UnsettledDelivery {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        self.consumer.settle(self.key, settlement)
    }

    fn release(self: Box<Self>) {
        // The only failure is that closing has released it already.
        self.consumer.settle(self.key, Settlement::Release).unwrap_or_default();
    }
}
