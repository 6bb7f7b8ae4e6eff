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
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
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

/// The recorded waits of runs, by the key of the run and the shard under whose fence each was noted.
/// A run may have one per shard, as in the SQL stores.
///
/// `by_time` is an index on `by_run`: it has one entry for each wait with a wake-up time, so that due runs
/// are found without a scan. Both are only changed together.
#[derive(Debug, Default)]
pub(super) struct WaitTable {
    by_run: BTreeMap<(Uuid, Shard), RecordedWait>,
    by_time: BTreeSet<(Timestamp, Uuid, Shard)>,
}

/// The note of one run.
#[derive(Debug)]
struct RecordedWait {
    /// The id as it was written; the maps are by key.
    run_id: Arc<str>,
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
                state.waits.remove(run_id, fence.shard);
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
    /// Replaces the note of a run under a shard, in both maps.
    fn insert(&mut self, key: Uuid, shard: Shard, wait: RecordedWait) {
        self.remove_key(key, shard);
        self.by_time.extend(wait.wake_at.map(|at| (at, key, shard)));
        self.by_run.insert((key, shard), wait);
    }

    /// Removes the wait of a run under a shard.
    pub(super) fn remove(&mut self, run_id: &str, shard: Shard) {
        if let Some(key) = Key::of(run_id) {
            self.remove_key(key.uuid, shard);
        }
    }

    /// Removes a note from both maps.
    fn remove_key(&mut self, key: Uuid, shard: Shard) {
        if let Some(at) = self.by_run.remove(&(key, shard)).and_then(|wait| wait.wake_at) {
            self.by_time.remove(&(at, key, shard));
        }
    }
}

impl State {
    /// Records a wait, unless the run has no journal, a newer wait is recorded, or the fence is outdated.
    fn note(&mut self, wait: &Wait) {
        let Some(Key { uuid: key, .. }) = Key::of(&wait.run_id) else { return };
        let has_journal =
            StreamId::of_run(&wait.run_id).is_ok_and(|stream| self.streams.contains_key(&stream));
        let shard = wait.fence.shard;
        let recorded = self.waits.by_run.get(&(key, shard));
        let is_newest = recorded.is_none_or(|recorded| recorded.version <= wait.version);
        if has_journal && is_newest && self.leases.check(Some(wait.fence)).is_ok() {
            let recorded = RecordedWait {
                run_id: Arc::clone(&wait.run_id),
                version: wait.version,
                wake_at: wait.wake_at,
            };
            self.waits.insert(key, shard, recorded);
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
        // The relay is the last of all shards.
        let start =
            last.map_or(Bound::Unbounded, |(at, key)| Bound::Excluded((at, key, Shard::RELAY)));
        let range = self.waits.by_time.range((start, Bound::Unbounded));
        let due = range.take_while(|(at, ..)| *at <= up_to).filter_map(|(at, key, shard)| {
            let wait = self.waits.by_run.get(&(*key, *shard))?;
            let is_due = shards.contains(shard) && self.tables.is_open(&wait.run_id);
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
        match which {
            Unsettled::Unnoted => {
                let open = self.tables.open_runs(shards, after);
                let unnoted = open.filter(|(key, run_id)| {
                    !self.waits.by_run.contains_key(&(**key, Shard::of(run_id)))
                });
                unnoted.map(|(_, run_id)| run_id.to_owned()).take(limit).collect()
            }
            Unsettled::Outdated => {
                let waits = self.waits.by_run.iter().filter(|((key, shard), wait)| {
                    shards.contains(shard)
                        && after.is_none_or(|after| *key > after)
                        && self.is_outdated(wait)
                });
                waits.map(|(_, wait)| wait.run_id.to_string()).take(limit).collect()
            }
        }
    }

    /// Whether a run is open and its journal has an event after its wait.
    fn is_outdated(&self, wait: &RecordedWait) -> bool {
        self.tables.is_open(&wait.run_id)
            && StreamId::of_run(&wait.run_id)
                .is_ok_and(|stream| self.version(&stream) > wait.version)
    }
}
