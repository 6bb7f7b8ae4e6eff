//! Access to the notes of waiting runs, with a fallback for stores that do not support them.
//!
//! A store without notes loses nothing but time: a new owner reads all runs of its shards, and timers
//! stay in memory.

use std::sync::Arc;

use aios_core::{
    event::Timestamp,
    store::{
        DueRun, Fence, Page, PageRequest, ReadModels, RunFilter, RunStatus, Shard, StoreError,
        Unsettled, Wait,
    },
};

use crate::counting_store::CountingStore;

/// The statuses of runs that have not ended.
pub(super) const OPEN: [RunStatus; 4] =
    [RunStatus::Running, RunStatus::Cancelling, RunStatus::Paused, RunStatus::Blocked];

impl CountingStore {
    /// Whether the store supports notes. If not, timers stay in memory, and a new owner reads every
    /// run.
    pub(super) fn takes_notes(&self) -> bool {
        self.waits().is_some()
    }

    /// Writes notes.
    pub(super) async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        match self.waits() {
            Some(notes) => notes.note_waits(waits).await,
            None => Ok(()),
        }
    }

    /// Removes the notes of runs.
    pub(super) async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        match self.waits() {
            Some(notes) => notes.forget_waits(runs).await,
            None => Ok(()),
        }
    }

    /// The runs whose noted wake-up time is at most `up_to`.
    ///
    /// In the order of their times, after `beyond`, and at most `limit`.
    pub(super) async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError> {
        match self.waits() {
            Some(notes) => notes.due_runs(shards, beyond, up_to, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// The runs that a new owner has to read. Without notes, these are all runs that have not
    /// ended.
    pub(super) async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        if let Some(notes) = self.waits() {
            return notes.unsettled_runs(shards, which, page).await;
        }
        if which == Unsettled::Outdated {
            return Ok(Page { rows: Vec::new(), next: None, unreadable: Vec::new() });
        }
        let shards = shards.to_vec();
        let statuses = OPEN.to_vec();
        let filter = RunFilter { shards, statuses, ..RunFilter::default() };
        let Page { rows, next, unreadable } = self.run_summaries(&filter, page).await?;
        Ok(Page { rows: rows.into_iter().map(|run| run.id).collect(), next, unreadable })
    }
}
