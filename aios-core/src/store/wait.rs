use std::sync::Arc;

use async_trait::async_trait;

use super::{Fence, Page, PageRequest, Shard, StoreError};
use crate::event::Timestamp;

/// The wait of a run, which does nothing before an event is appended to its journal or a time is
/// reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The run.
    pub run_id: Arc<str>,
    /// Proof that the writer owns the run's shard.
    pub fence: Fence,
    /// Version of the last event of the run's journal that was applied.
    pub version: u64,
    /// When to wake the run, if nothing is appended before that.
    pub wake_at: Option<Timestamp>,
}

/// A run that has to be woken at a given time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRun {
    /// The time.
    pub wake_at: Timestamp,
    /// Id of the run.
    pub run_id: String,
}

/// The runs that a new owner has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// Those without a recorded wait: they were being advanced.
    Unnoted,
    /// Those whose journal has events after the recorded wait.
    Outdated,
}

/// Recorded waits of runs, so that a new owner of a shard need not read their journals. A store
/// that supports them returns them from [`ReadModels::waits`](super::ReadModels::waits).
///
/// A recorded wait is not part of the log: losing one is safe, and only makes the new owner read
/// the run. Recorded waits survive [`rebuild`](super::ReadModels::rebuild), and are removed with
/// their run by retention.
#[async_trait]
pub trait Waits: Send + Sync + 'static {
    /// Records that runs wait, replacing earlier records. A record is ignored if its fence is no
    /// longer valid, if its run has no journal, or if there is a record of a higher version. A run
    /// has one record per shard.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; any of the waits may have been recorded then.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have recorded any of the waits. Repeating it is safe.
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError>;

    /// Removes the recorded waits of runs if the fence still proves that the writer owns them.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; any of the waits may have been removed then.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have removed any of the waits. Repeating it is safe.
    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError>;

    /// The runs of shards that have to be woken up to a given time, the earliest first and those of
    /// the same time in the order of their keys, at most `limit`. Runs that have ended are left
    /// out.
    ///
    /// Pass the last run of a page as `beyond` to get the next page; `None` returns the first one.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError>;

    /// A page of the runs of shards that have not ended and have no recorded wait, or an outdated
    /// one. None of their data is read.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError>;
}
