use aios_core::event::{Event, Timestamp};

/// An event in a queue.
pub(super) struct Item {
    pub(super) event: Event,
    /// How many attempts have failed.
    pub(super) failures: u32,
    pub(super) first_failure: Option<Timestamp>,
    /// Whether it was delivered to a handler before.
    pub(super) delivered: bool,
    /// Its position in the queue.
    pub(super) sequence: u64,
}

impl Item {
    pub(super) fn new(event: Event) -> Self {
        Self { event, failures: 0, first_failure: None, delivered: false, sequence: 0 }
    }
}
