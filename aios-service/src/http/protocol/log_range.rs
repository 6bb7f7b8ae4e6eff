//! The part of the log that has the events of a time.
//!
//! The log is ordered by position. Timestamps grow with it except for the skew of clocks, so a
//! binary search finds both ends, widened by [`SKEW`], and the events between them are then
//! filtered exactly.

use std::time::Duration;

use aios_core::{
    event::Timestamp,
    store::{EventStore, RecordedEvent, StoreError},
};

/// How far the timestamp of an event may be from the time when it was stored. The timestamps of the log
/// increase except for that: producers set them, and clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

/// A range of timestamps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Range {
    /// The first timestamp.
    pub(crate) from: Option<Timestamp>,
    /// The first timestamp that is not in the range.
    pub(crate) before: Option<Timestamp>,
}

impl Range {
    /// The positions between which the events of the range are: they come after the first one, and at or
    /// before the second one.
    pub(crate) async fn positions<S: EventStore + ?Sized>(
        self,
        store: &S,
        after: u64,
    ) -> Result<(u64, u64), StoreError> {
        let first = match self.from {
            Some(from) => bisect(store, after, from - SKEW).await?,
            None => after,
        };
        let last = match self.before {
            Some(before) => bisect(store, first, before + SKEW).await?,
            None => u64::MAX,
        };
        Ok((first, last))
    }

    /// Whether the timestamp of an event is in the range.
    pub(crate) fn has(self, recorded: &RecordedEvent) -> bool {
        let at = recorded.event.timestamp;
        self.from.is_none_or(|from| at >= from) && self.before.is_none_or(|before| at < before)
    }
}

/// Finds the position after which events have this timestamp or a later one, at `after` or later. Reads
/// about as many events as the position of the last event has binary digits.
async fn bisect<S: EventStore + ?Sized>(
    store: &S,
    after: u64,
    at: Timestamp,
) -> Result<u64, StoreError> {
    let mut low = after;
    let mut high = store.head().await?.max(after);
    // The events up to `low` are earlier; the event after `high` is not, or there is none.
    while low < high {
        let middle = low + (high - low) / 2;
        let next = store.read_log(middle, 1).await?.pop();
        match next.filter(|next| next.event.timestamp < at) {
            Some(next) => low = next.position,
            None => high = middle,
        }
    }
    Ok(low)
}
