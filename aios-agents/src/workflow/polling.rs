//! Shows other threads whether the code of a run is being polled, and for how long.
//!
//! The engine's check for blocked code runs on a thread of its own. It compares what it sees at
//! successive checks: the same odd number means that one and the same poll is still in progress.
//! Nothing is locked and no clock is read by the thread that polls.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the code of a run is being polled, as seen from other threads.
#[derive(Debug, Default)]
pub(crate) struct Polling {
    /// Number of times that a poll began or ended: odd while the code is being polled.
    ///
    /// A number and not a flag, so that an observer tells one long poll from many short ones.
    changes: AtomicU64,
    /// Number of operations that the code had requested before the poll, for the line of the log.
    requested: AtomicU64,
}

/// A poll of the code, until it is dropped.
#[derive(Debug)]
pub(crate) struct Poll<'a>(&'a Polling);

impl Polling {
    /// Begins to poll code that has requested this many operations.
    pub(crate) fn begin(&self, requested: u64) -> Poll<'_> {
        self.requested.store(requested, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
        Poll(self)
    }

    /// Identifies the poll in progress, if there is one.
    pub(crate) fn current(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::Acquire);
        (changes % 2 == 1).then_some(changes)
    }

    /// Number of operations that the code had requested before its last poll.
    pub(crate) fn requested(&self) -> u64 {
        self.requested.load(Ordering::Relaxed)
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Release);
    }
}
