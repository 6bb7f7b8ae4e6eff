//! The jobs that are sent to the writer thread.
//!
//! A job passes through three steps: it is queued, `run` is called inside a transaction, and `reply`
//! is called with the outcome of that transaction. Between `run` and `reply`, the job keeps its own
//! result. If another job of the transaction failed, everything is rolled back, and `run` is called
//! again in a transaction for this job only.

use aios_core::store::StoreError;
use tokio::sync::oneshot;

use super::{Writer, row::CALL_WEIGHT};
use crate::job_queue::Jobs;

/// Work that the writer does inside a transaction, and whose result is sent after the commit.
///
/// An error from `run` rolls the whole transaction back. An expected refusal, such as of a version, is
/// stored in the job until `reply`.
pub(crate) trait Job: Send {
    /// Approximate size in bytes, which limits the size of a transaction.
    fn weight(&self) -> usize;
    /// Whether the job runs alone, outside a transaction.
    fn is_alone(&self) -> bool {
        false
    }
    /// Whether the thread ends instead of running the job.
    fn is_last(&self) -> bool {
        false
    }
    /// Does the work. An error rolls the transaction back. Called again after a rollback, so it replaces
    /// its earlier result.
    fn run(&mut self, writer: &mut Writer<'_>) -> rusqlite::Result<()>;
    /// Sends the result to the caller. `outcome` is the outcome of the transaction.
    fn reply(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// The jobs of one transaction, in the order of the queue.
pub(crate) type Batch = Vec<Box<dyn Job>>;
/// The receiving end of the queue.
pub(super) type Calls = Jobs<Box<dyn Job>>;

/// Ends the thread.
///
/// Sent by `close`, so that the calls queued before it are still served. Calls after it fail with
/// `Closed`, because the thread drops the queue.
pub(super) struct Last;

impl Job for Last {
    fn weight(&self) -> usize {
        CALL_WEIGHT
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }

    fn run(&mut self, _: &mut Writer<'_>) -> rusqlite::Result<()> {
        Ok(())
    }

    fn reply(self: Box<Self>, _: Result<(), StoreError>) {}
}

/// A closure as a job.
pub(super) struct Call<T, F> {
    /// Returns the result.
    pub(crate) run: F,
    /// Set by `run`, and sent only after the commit.
    pub(crate) result: Option<T>,
    pub(crate) reply: oneshot::Sender<Result<T, StoreError>>,
    pub(super) is_alone: bool,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Writer<'_>) -> rusqlite::Result<T> + Send,
{
    fn weight(&self) -> usize {
        CALL_WEIGHT
    }

    fn is_alone(&self) -> bool {
        self.is_alone
    }

    fn run(&mut self, writer: &mut Writer<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.run)(writer)?);
        Ok(())
    }

    fn reply(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        let answer = outcome.and_then(|()| result.ok_or(StoreError::Closed));
        // Sending fails if the caller was cancelled. The commit is not affected.
        let _ = reply.send(answer);
    }
}
