//! The writer of the process: group commit without a timer.
//!
//! An idle writer sends an append at once. A busy one gathers what comes during a commit, so the
//! batches grow with the load: one append in a batch at low load, hundreds at high load.
//!
//! ```text
//! batch 1   ── send ─────────── server commits ────────┐
//! callers of batch 0:  reply                           │
//! batch 2              └── build from the queue ───────┤
//!                                                      ▼
//! batch 2   ── send ─────────── server commits ────────┐
//! callers of batch 1:  reply
//! ```
//!
//! There is one task for each store. It owns the connection, the caches and the batch that is being
//! built, so none of them needs a lock. It ends when the queue is closed and empty. A store that is
//! dropped without `close` drops the queue too, and the appends that are queued are still
//! committed.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use super::{
    queue::{BatchBuilder, Pending, PendingBatch},
    reply::{CommittedBatch, Replier},
    retry::Appender,
};
use crate::{
    job_queue::Jobs,
    postgres::{
        connection::Database,
        read::{Head, Tail},
    },
};

/// The task that appends, one per process.
///
/// While a batch is being committed, the next one is built. It is sent as soon as the commit is done, and
/// only then do the callers of the first batch get their results. In this order, the server does not sit
/// idle while hundreds of tasks are woken.
pub(crate) struct Writer {
    /// The queue, and the next batch.
    builder: BatchBuilder,
    /// The connection, and the retries.
    appender: Appender,
    replier: Replier,
}

impl Writer {
    /// Creates a writer with an empty batch.
    pub(crate) fn new(
        database: Database,
        queue: Jobs<Pending>,
        head: Head,
        tail: Tail,
        append_timeout: Duration,
    ) -> Self {
        let builder = BatchBuilder::new(queue, database.clock().clone(), append_timeout);
        let replier = Replier { database, head, tail };
        let appender = Appender::new(replier.clone(), append_timeout);
        Self { builder, appender, replier }
    }

    /// Writes until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        // The batch whose callers have no results yet. At most one: it is answered before the next
        // is awaited.
        let mut committed = None;
        loop {
            if self.builder.is_empty() {
                self.reply(committed.take());
                if !self.builder.wait().await {
                    break;
                }
            }
            let pending = self.builder.take();
            if pending.waiters.is_empty() {
                self.reply(committed.take());
            } else {
                committed = self.write(pending, committed.take()).await;
            }
        }
        self.appender.close();
    }

    /// Sends a batch, then replies to the callers of the previous one, and builds the next one until the
    /// commit is done.
    async fn write(
        &mut self,
        pending: PendingBatch,
        previous: Option<CommittedBatch>,
    ) -> Option<CommittedBatch> {
        let mut write = pin!(self.appender.write(pending));
        // The first poll sends the statement.
        let first_poll = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
        if let Some(previous) = previous {
            self.replier.reply(previous);
        }
        match first_poll {
            Poll::Ready(committed) => committed,
            Poll::Pending => self.builder.during(write).await,
        }
    }

    /// Replies to the callers of a batch, if there is one.
    fn reply(&self, committed: Option<CommittedBatch>) {
        if let Some(committed) = committed {
            self.replier.reply(committed);
        }
    }
}
