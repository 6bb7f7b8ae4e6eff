//! Appends are validated, queued, batched, and committed by the single writer of the process.
//!
//! ```text
//!  append_all ──▶ queue ──▶ BatchBuilder ──▶ Appender ──▶ Committer ──▶ PostgreSQL
//!  validates      ordered   while the last   retries      one round
//!  each append              batch commits                 trip
//!       ▲                                                     │
//!       └───────────────────── Replier ◀──────────────────────┘
//! ```
//!
//! Positions are assigned under one advisory lock, so appends cannot run in parallel anyway. One
//! writer per process turns concurrent appends into one transaction, which holds the lock for one
//! round trip.
//!
//! # What the transaction does
//!
//! The SQL functions of the migrations do the whole batch in one statement, in this order:
//!
//! 1. refuse an isolation level other than `read committed`: a snapshot from before the lock would
//!    not include appends that committed in the meantime
//! 2. take the advisory lock, which all writers of the schema share until their commit
//! 3. compare the epoch of each fence with the table of leases; `acquire` takes the same lock, so
//!    no append of an earlier epoch can commit after a takeover
//! 4. find the ends of the streams, and the ids that are stored, unless the writer trusts what it
//!    remembers
//! 5. if anything is refused, judge each append, and keep the accepted ones
//! 6. insert the events with the next positions and versions, and apply the changes of the read
//!    models
//!
//! # What a caller learns
//!
//! | outcome | answer |
//! |---|---|
//! | stored | its version and position |
//! | stored before, by the same ids | the first result, with `repeated` |
//! | refused | the reason; its neighbours are not affected |
//! | the server refused the data | `InvalidText`, or the error of the server, for this append only |
//! | not sent before the deadline | `Timeout` of `append`, or the last error: it is not stored |
//! | sent, and the connection was lost | retried until the result is known; after the deadline `Timeout` of `learn what became of an append` |
//!
//! A caller whose future is dropped while its append is queued takes it back: the writer leaves out
//! appends that no caller waits for. After it was sent, it may be stored.

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

use std::time::Duration;

use aios_core::store::{Append, Appended, StoreError};
use tokio::sync::oneshot;

use self::queue::{Waiter, timed_out};
pub(super) use self::{
    batch::Batch,
    changes::{ChangeSets, timestamp},
    outcome::AppendResults,
    queue::Pending,
    valid::ValidAppend,
    writer::Writer,
};
use super::PostgresStore;
use crate::job_queue::{Caller, Closed, Unsent};

/// The writer's answer. If it is dropped without one, the store was closed. The caller is held until then.
type AppendReply = (oneshot::Receiver<Result<Appended, StoreError>>, Caller);

impl PostgresStore {
    /// Waits for the commits of the appends: at most `append_timeout` for all of them, and the attempt that is
    /// in progress then.
    pub(super) async fn append_all(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let deadline = self.0.database.clock().elapsed().saturating_add(self.0.append_timeout);
        let mut queued = Vec::with_capacity(batch.len());
        for append in batch {
            queued.push(self.enqueue(append, deadline).await);
        }
        let mut results = Vec::with_capacity(queued.len());
        for reply in queued {
            results.push(match reply {
                Err(error) => Err(error),
                Ok((reply, _caller)) => reply.await.unwrap_or(Err(StoreError::Closed)),
            });
        }
        results
    }

    /// Queues an append, at the first poll. While too many abandoned ones are queued, it waits until the
    /// deadline.
    async fn enqueue(&self, append: Append, deadline: Duration) -> Result<AppendReply, StoreError> {
        let valid = ValidAppend::new(append, self.0.max_event_bytes)?;
        let queue = self.queue().ok_or(StoreError::Closed)?;
        let (waiter, reply) = Waiter::new(deadline);
        match queue.try_send(Pending { valid, waiter }) {
            Ok(caller) => Ok((reply, caller)),
            Err(Unsent::Closed) => Err(StoreError::Closed),
            Err(Unsent::Full(pending)) => {
                let rest = deadline.saturating_sub(self.0.database.clock().elapsed());
                match self.0.database.within(rest, queue.send(pending)).await {
                    Some(Ok(caller)) => Ok((reply, caller)),
                    Some(Err(Closed)) => Err(StoreError::Closed),
                    None => Err(timed_out(self.0.append_timeout)),
                }
            }
        }
    }
}
