use super::{commit::Committed, queue::PendingBatch};
use crate::postgres::{
    connection::Database,
    read::{Head, Tail},
};

/// A committed batch whose callers have not got their results yet.
pub(crate) struct CommittedBatch {
    pub(crate) pending: PendingBatch,
    pub(crate) committed: Committed,
}

/// Sends the results of appends to their callers, and wakes the readers of the log.
#[derive(Clone)]
pub(crate) struct Replier {
    pub(crate) database: Database,
    pub(crate) head: Head,
    pub(crate) tail: Tail,
}

impl Replier {
    pub(crate) fn reply(&self, batch: CommittedBatch) {
        let CommittedBatch { pending: PendingBatch { batch, waiters }, committed } = batch;
        if committed.is_as_sent {
            self.tail.push(&batch, &committed.results, self.database.clock().now());
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
