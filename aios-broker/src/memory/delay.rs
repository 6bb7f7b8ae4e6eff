//! Events that wait for their next attempt.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::item::Item;

/// Delayed events, the earliest first.
///
/// There is no timer task: a consumer checks when it is polled, and sleeps until the earliest is
/// due.
#[derive(Default)]
pub(super) struct Delayed(BinaryHeap<Reverse<Entry>>);

/// A delayed event. Ordered by time, and then by its place in the queue.
struct Entry {
    /// When it may be delivered, by the monotonic time of the clock.
    due: Duration,
    /// The event.
    item: Item,
}

impl Delayed {
    /// Adds an event.
    pub(super) fn push(&mut self, due: Duration, item: Item) {
        self.0.push(Reverse(Entry { due, item }));
    }

    /// When the next event is due.
    pub(super) fn earliest(&self) -> Option<Duration> {
        self.0.peek().map(|Reverse(entry)| entry.due)
    }

    /// Takes one event that is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Item> {
        let due = self.earliest().is_some_and(|earliest| earliest <= now);
        due.then(|| self.0.pop()).flatten().map(|Reverse(entry)| entry.item)
    }

    /// Removes all events.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Equal deadlines keep the order of the queue.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.item.sequence).cmp(&(other.due, other.item.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
