//! An event in a queue, with the history of its deliveries.

use aios_core::event::{Event, Timestamp};

/// An event in a queue.
pub(super) struct Item {
    /// The event. Clones share its payload.
    pub(super) event: Event,
    /// How many attempts have failed.
    pub(super) failures: u32,
    /// When the first attempt failed; shown in a dead letter.
    pub(super) first_failure: Option<Timestamp>,
    /// Whether it was delivered to a handler before.
    pub(super) delivered: bool,
    /// Its position in the queue. Set when it is appended, and kept when it is released.
    pub(super) sequence: u64,
}

impl Item {
    /// An event that was just published.
    pub(super) fn new(event: Event) -> Self {
        Self { event, failures: 0, first_failure: None, delivered: false, sequence: 0 }
    }
}
