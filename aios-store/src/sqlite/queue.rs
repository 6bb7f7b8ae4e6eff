//! What the writer thread is sent.

use aios_core::store::StoreError;
use tokio::sync::{mpsc, oneshot};

use super::writer::Writer;

/// What a call weighs besides the bytes of its events.
pub(super) const CALL_WEIGHT: usize = 1024;

/// Something the writer does inside a transaction, and answers after the commit.
///
/// An error that `run` returns undoes the whole transaction; what concerns this call alone is kept
/// for `answer`.
pub(super) trait Job: Send {
    fn weight(&self) -> usize;
    /// Whether it is to run by itself, outside a transaction.
    fn is_alone(&self) -> bool {
        false
    }
    fn run(&mut self, writer: &mut Writer<'_>) -> rusqlite::Result<()>;
    fn reply(self: Box<Self>, outcome: Result<(), StoreError>);
}

pub(super) type Batch = Vec<Box<dyn Job>>;
pub(super) type Calls = mpsc::Receiver<Box<dyn Job>>;

/// A closure as a job.
pub(super) struct Call<T, F> {
    pub(super) run: F,
    pub(super) result: Option<T>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
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
        // Whoever asked may be gone; what was committed stays committed.
        let _ = reply.send(answer);
    }
}
