use std::sync::Arc;

use async_trait::async_trait;

use super::{Fence, Page, PageRequest, Shard, StoreError};
use crate::event::Timestamp;

/// That a run does nothing before an event is appended to its journal, or a moment has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The run.
    pub run_id: Arc<str>,
    /// Proof that the writer owns the run's shard.
    pub fence: Fence,
    /// Version of the last event of the run's journal that was applied.
    pub version: u64,
    /// When to wake the run, if nothing is appended before.
    pub wake_at: Option<Timestamp>,
}

/// A run that has to be woken at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRun {
    /// When.
    pub wake_at: Timestamp,
    /// Id of the run.
    pub run_id: String,
}

/// Which runs a new owner has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// Those of which nothing is noted: they were being advanced.
    Unnoted,
    /// Those to whose journal something was appended after what is noted.
    Outdated,
}

/// Notes of runs that wait, so that a new owner of a shard need not read their journals. A store that
/// takes them says so with [`ReadModels::waits`](super::ReadModels::waits).
///
/// A note is no fact of the log: losing one is safe, and costs its run's new owner a look at the
/// run. Notes survive [`rebuild`](super::ReadModels::rebuild), and go when retention takes their run.
#[async_trait]
pub trait Waits: Send + Sync + 'static {
    /// Notes that runs wait, in place of what was noted of them before. A note changes nothing if
    /// its fence proves nothing any more, if its run has no journal, or if a note of a higher version
    /// is there.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; then any of them may be noted.
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError>;

    /// Forgets what is noted of runs, where the fence still proves that the writer owns them.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; then any of them may be forgotten.
    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError>;

    /// The runs of shards that are noted to be woken up to a moment, the earliest first and those of
    /// one moment in the order of their keys, at most `limit`. Runs that have ended are left out.
    ///
    /// The last run of a page, as `beyond`, leads to the next page; `None` leads to the first one.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError>;

    /// A page of the runs of shards that have not ended and are not noted to wait, or no longer do.
    /// None of their data is read.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError>;
}
