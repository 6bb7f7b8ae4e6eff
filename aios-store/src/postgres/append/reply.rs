//! The steps after a commit: the tail is updated, the head advances, and the callers get their
//! results.
//!
//! The order matters. A caller that has its result may read the log at once. The head then covers
//! its events, and a page from memory includes them.

use super::{batch::Batch, commit::Committed, outcome::AppendResults, queue::PendingBatch};
use crate::postgres::{
    connection::Database,
    read::{Head, LastEvent, Tail},
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
        if let Some(last) = last_event(&batch, &committed.results) {
            self.head.on_commit(last);
        }
        for (mut waiter, result) in waiters.into_iter().zip(committed.results) {
            waiter.reply(result);
        }
    }
}

/// The last one of a batch's events that are stored.
fn last_event(batch: &Batch, results: &AppendResults) -> Option<LastEvent> {
    let stored = batch.appends().zip(results).filter_map(|((append, _), result)| {
        let position = result.as_ref().ok()?.position;
        Some(LastEvent { position, key: append.events.last().map(|event| event.id.key()) })
    });
    stored.max_by_key(|last| last.position)
}
