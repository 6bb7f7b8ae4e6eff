//! The steps after a commit: the tail is updated, the head advances, and the callers get their
//! results.
//!
//! The order matters. A caller that has its result may read the log at once. The head then covers
//! its events, and a page from memory includes them.

use super::{commit::Committed, queue::PendingBatch};
use crate::postgres::{
    connection::Database,
    read::{Head, Tail},
};

/// A committed batch whose callers have not got their results yet.
pub(crate) struct CommittedBatch {
    pub(crate) pending: PendingBatch,
    /// The result of each append.
    pub(crate) committed: Committed,
}

/// Sends the results of appends to their callers, and wakes the readers of the log.
#[derive(Clone)]
pub(crate) struct Replier {
    pub(crate) database: Database,
    /// Wakes the tasks that wait for the log to grow, and the task that notifies other processes.
    pub(crate) head: Head,
    /// Serves readers that follow the log closely.
    pub(crate) tail: Tail,
}

impl Replier {
    /// Replies to every caller of a batch. The tail is cleared unless every append was stored by
    /// this commit: the positions in it would no longer follow each other.
    pub(crate) fn reply(&self, batch: CommittedBatch) {
        let CommittedBatch { pending: PendingBatch { batch, waiters }, committed } = batch;
        if committed.is_as_sent {
            self.tail.push(&batch, &committed.results, self.database.clock().elapsed());
        } else {
            self.tail.clear();
        }
        let positions = committed.results.iter().flatten().map(|appended| appended.position);
        if let Some(last) = positions.max() {
            self.head.on_commit(last);
        }
        for (mut waiter, result) in waiters.into_iter().zip(committed.results) {
            waiter.reply(result);
        }
    }
}
