use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use aios_core::{
    event::Timestamp,
    store::{
        DueRun, Fence, Page, PageRequest, Shard, StoreError, StreamId, Unsettled, Wait, Waits,
    },
};
use async_trait::async_trait;
use uuid::Uuid;

use super::{MemoryStore, State};
use crate::rows::{self, Key};

/// What is noted of runs that wait, by key.
#[derive(Debug, Default)]
pub(super) struct WaitTable {
    by_run: HashMap<Uuid, Noted>,
    by_time: BTreeSet<(Timestamp, Uuid)>,
}

#[derive(Debug)]
struct Noted {
    run_id: Arc<str>,
    shard: Shard,
    version: u64,
    wake_at: Option<Timestamp>,
}

#[async_trait]
impl Waits for MemoryStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        let mut state = self.state();
        waits.iter().for_each(|wait| state.note(wait));
        Ok(())
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        let mut state = self.state();
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
        Ok(self.state().due_runs(shards, beyond, up_to, limit))
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        let start = rows::key_after(page)?;
        let found = self.state().unsettled(shards, which, start, page.limit.saturating_add(1));
        Ok(rows::ids_page(found, page.limit))
    }
}

impl WaitTable {
    fn insert(&mut self, key: Uuid, noted: Noted) {
        self.remove_key(key);
        self.by_time.extend(noted.wake_at.map(|at| (at, key)));
        self.by_run.insert(key, noted);
    }

    /// Forgets what is noted of a run.
    pub(super) fn remove(&mut self, run_id: &str) {
        if let Some(key) = Key::of(run_id) {
            self.remove_key(key.uuid);
        }
    }

    fn remove_key(&mut self, key: Uuid) {
        if let Some(at) = self.by_run.remove(&key).and_then(|noted| noted.wake_at) {
            self.by_time.remove(&(at, key));
        }
    }
}

impl State {
    fn note(&mut self, wait: &Wait) {
        let Some(Key { uuid: key, .. }) = Key::of(&wait.run_id) else { return };
        let has_journal =
            StreamId::of_run(&wait.run_id).is_ok_and(|stream| self.streams.contains_key(&stream));
        let is_later =
            self.waits.by_run.get(&key).is_none_or(|noted| noted.version <= wait.version);
        if has_journal && is_later && self.leases.check(Some(wait.fence)).is_ok() {
            let (run_id, shard) = (Arc::clone(&wait.run_id), wait.fence.shard);
            let (version, wake_at) = (wait.version, wait.wake_at);
            self.waits.insert(key, Noted { run_id, shard, version, wake_at });
        }
    }

    fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Vec<DueRun> {
        let last = beyond.and_then(|run| Some((run.wake_at, Key::of(&run.run_id)?.uuid)));
        let start = last.unwrap_or((Timestamp::MIN, Uuid::nil()));
        let range = self.waits.by_time.range(start..).filter(|place| last != Some(**place));
        let due = range.take_while(|(at, _)| *at <= up_to).filter_map(|(at, key)| {
            let noted = self.waits.by_run.get(key)?;
            let is_due = shards.contains(&noted.shard) && self.tables.goes_on(&noted.run_id);
            is_due.then(|| DueRun { wake_at: *at, run_id: noted.run_id.to_string() })
        });
        due.take(limit).collect()
    }

    /// The ids of at most so many runs, after a key.
    fn unsettled(
        &self,
        shards: &[Shard],
        which: Unsettled,
        after: Option<Uuid>,
        limit: usize,
    ) -> Vec<String> {
        let found = self.tables.going_on(shards, after).filter(|(key, run_id)| {
            match (self.waits.by_run.get(key), which) {
                (None, Unsettled::Unnoted) => true,
                (Some(noted), Unsettled::Outdated) => StreamId::of_run(run_id)
                    .is_ok_and(|stream| self.version(&stream) > noted.version),
                _ => false,
            }
        });
        found.map(|(_, run_id)| run_id.to_owned()).take(limit).collect()
    }
}
