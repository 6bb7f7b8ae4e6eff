//! Appends are validated, queued, batched, and committed by the single writer of the process.
//!
//! ```text
//!  append_all ──▶ queue ──▶ BatchBuilder ──▶ Appender ──▶ Committer ──▶ PostgreSQL
//!  validates      bounded   while the last   retries      one round
//!  each append              batch commits                 trip
//!       ▲                                                     │
//!       └───────────────────── Replier ◀──────────────────────┘
//! ```
//!
//! Positions are assigned under one advisory lock, so appends cannot run in parallel anyway. One writer
//! per process turns concurrent appends into one transaction, which holds the lock for one round trip.

mod arguments;
mod batch;
mod cache;
mod changes;
mod commit;
mod names;
mod outcome;
mod queue;
mod reply;
mod retry;
mod single;
mod statement;
mod valid;
mod writer;

use aios_core::store::{Append, Appended, StoreError};
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use self::queue::{Waiter, timed_out};
pub(super) use self::{
    batch::Batch,
    changes::{ChangeSets, timestamp},
    outcome::AppendResults,
    queue::Pending,
    valid::ValidAppend,
    writer::{QUEUE, Writer},
};
use super::PostgresStore;

type AppendReply = oneshot::Receiver<Result<Appended, StoreError>>;

impl PostgresStore {
    /// Waits for room in the queue, then for the commit of the batch that takes each append: at most
    /// `append_timeout`, and the attempt that is in progress then.
    pub(super) async fn append_all(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut queued = Vec::with_capacity(batch.len());
        for append in batch {
            queued.push(self.enqueue(append).await);
        }
        let mut results = Vec::with_capacity(queued.len());
        for reply in queued {
            results.push(match reply {
                Err(error) => Err(error),
                Ok(reply) => reply.await.unwrap_or(Err(StoreError::Closed)),
            });
        }
        results
    }

    /// Queues an append, waiting for room in the queue until the append times out.
    async fn enqueue(&self, append: Append) -> Result<AppendReply, StoreError> {
        let valid = ValidAppend::new(append, self.0.max_event_bytes)?;
        let queue = self.queue().ok_or(StoreError::Closed)?;
        let timeout = self.0.append_timeout;
        let (waiter, reply) = Waiter::new(self.0.database.clock().now() + timeout);
        match queue.try_send(Pending { valid, waiter }) {
            Ok(()) => Ok(reply),
            Err(TrySendError::Closed(_)) => Err(StoreError::Closed),
            Err(TrySendError::Full(pending)) => {
                // Unconstrained, so that it takes its place in the order even if its task has used up its
                // budget. What the task appends next might find room otherwise.
                let sending = tokio::task::unconstrained(queue.send(pending));
                match self.0.database.within(timeout, sending).await {
                    Some(Ok(())) => Ok(reply),
                    Some(Err(_)) => Err(StoreError::Closed),
                    None => Err(timed_out(timeout)),
                }
            }
        }
    }
}
