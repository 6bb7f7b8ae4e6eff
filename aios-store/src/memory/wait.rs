//! Waits of runs that an engine has evicted from its memory.
//!
//! An engine that evicts a run notes up to which version it has seen the journal, and when the run
//! has to be woken at the latest. From that, an engine finds without loading any run:
//!
//! - **due** runs, whose wake-up time has passed,
//! - **outdated** runs, whose journal has grown since the note,
//! - **unnoted** runs, which are open but have no note, because their engine died before it could
//!   write one.
//!
//! A note is not an event and is not derived from the log. It may be lost; the run is then unnoted
//! and is loaded.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use aios_core::{
    event::Timestamp,
    store::{
        DueRun, Fence, MAX_PAGE, Page, PageRequest, Shard, StoreError, StreamId, Unsettled, Wait,
        Waits,
    },
};
use async_trait::async_trait;
use uuid::Uuid;

use super::{MemoryStore, State};
use crate::rows::{self, Key};

/// The recorded waits of runs, by key.
///
/// `by_time` is an index on `by_run`: it has one entry for each run with a wake-up time, so that due runs
/// are found without a scan. Both are only changed together.
#[derive(Debug, Default)]
pub(super) struct WaitTable {
    by_run: HashMap<Uuid, RecordedWait>,
    by_time: BTreeSet<(Timestamp, Uuid)>,
}

/// The note of one run.
#[derive(Debug)]
struct RecordedWait {
    /// The id as it was written; the maps are by key.
    run_id: Arc<str>,
    /// The shard under whose fence it was noted.
    shard: Shard,
    /// Version of the journal that the run has seen.
    version: u64,
    /// `None` if the run waits for an event only.
    wake_at: Option<Timestamp>,
}

#[async_trait]
impl Waits for MemoryStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        waits.iter().for_each(|wait| state.note(wait));
        Ok(())
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        for (run_id, fence) in runs {
            if state.leases.check(Some(*fence)).is_ok() {
                state.waits.remove(run_id);
            }
        }
        Ok(())
    }

    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError> {
        Ok(self.0.state.lock().due_runs(shards, beyond, up_to, limit.min(MAX_PAGE)))
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        let start = rows::key_after(page)?;
        let limit = page.limit.clamp(1, MAX_PAGE);
        let found = self.0.state.lock().unsettled_runs(shards, which, start, limit + 1);
        Ok(rows::ids_page(found, limit))
    }
}

impl WaitTable {
    /// Replaces the note of a run, in both maps.
    fn insert(&mut self, key: Uuid, wait: RecordedWait) {
        self.remove_key(key);
        self.by_time.extend(wait.wake_at.map(|at| (at, key)));
        self.by_run.insert(key, wait);
    }

    /// Removes the wait of a run.
    pub(super) fn remove(&mut self, run_id: &str) {
        if let Some(key) = Key::of(run_id) {
            self.remove_key(key.uuid);
        }
    }

    /// Removes a note from both maps.
    fn remove_key(&mut self, key: Uuid) {
        if let Some(at) = self.by_run.remove(&key).and_then(|wait| wait.wake_at) {
            self.by_time.remove(&(at, key));
        }
    }
}

impl State {
    /// Records a wait, unless the run has no journal, a newer wait is recorded, or the fence is outdated.
    fn note(&mut self, wait: &Wait) {
        let Some(Key { uuid: key, .. }) = Key::of(&wait.run_id) else { return };
        let has_journal =
            StreamId::of_run(&wait.run_id).is_ok_and(|stream| self.streams.contains_key(&stream));
        let is_newest =
            self.waits.by_run.get(&key).is_none_or(|recorded| recorded.version <= wait.version);
        if has_journal && is_newest && self.leases.check(Some(wait.fence)).is_ok() {
            let recorded = RecordedWait {
                run_id: Arc::clone(&wait.run_id),
                shard: wait.fence.shard,
                version: wait.version,
                wake_at: wait.wake_at,
            };
            self.waits.insert(key, recorded);
        }
    }

    /// Returns the due runs after `beyond`, earliest first, and by key at the same time.
    fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Vec<DueRun> {
        let last = beyond.and_then(|run| Some((run.wake_at, Key::of(&run.run_id)?.uuid)));
        let start = last.unwrap_or((Timestamp::MIN, Uuid::nil()));
        let range = self.waits.by_time.range(start..).filter(|entry| last != Some(**entry));
        let due = range.take_while(|(at, _)| *at <= up_to).filter_map(|(at, key)| {
            let wait = self.waits.by_run.get(key)?;
            let is_due = shards.contains(&wait.shard) && self.tables.is_open(&wait.run_id);
            is_due.then(|| DueRun { wake_at: *at, run_id: wait.run_id.to_string() })
        });
        due.take(limit).collect()
    }

    /// Returns the ids of at most `limit` unsettled runs whose keys are greater than `after`.
    fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        after: Option<Uuid>,
        limit: usize,
    ) -> Vec<String> {
        let found = self.tables.open_runs(shards, after).filter(|(key, run_id)| {
            match (self.waits.by_run.get(key), which) {
                (None, Unsettled::Unnoted) => true,
                (Some(wait), Unsettled::Outdated) => StreamId::of_run(run_id)
                    .is_ok_and(|stream| self.version(&stream) > wait.version),
                _ => false,
            }
        });
        found.map(|(_, run_id)| run_id.to_owned()).take(limit).collect()
    }
}
