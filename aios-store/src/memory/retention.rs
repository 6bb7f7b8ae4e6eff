//! Retention in memory: the same conditions as in the SQL stores, evaluated under the lock of
//! appends.

use std::time::Duration;

use aios_core::{
    event::Timestamp,
    store::{Expirable, ExpirePage, Expired, Maintenance, Shard, StoreError, StreamId},
};
use async_trait::async_trait;

use super::{MemoryStore, State};
use crate::retention::{ExpireRuns, ExpiredRuns, Place, Retention};

impl MemoryStore {
    /// Removes finished runs that are older than the policy allows from the log and the read models,
    /// and returns the number of removed runs. [`Retention`] lists the runs that are kept. A store in
    /// memory has no archive: the events are deleted, whatever [`ExpiredEvents`](super::ExpiredEvents)
    /// says.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each batch is removed as a whole. Call again to continue.
    pub async fn expire_runs(&self, policy: &Retention) -> Result<u64, StoreError> {
        policy.expire_runs(self, &*self.0.clock).await
    }

    /// Removes streams that are needed for a time only and whose last event is older than the policy
    /// allows, and returns their number; see [`Retention`].
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if the policy is invalid.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each batch is removed as a whole. Call again to continue.
    pub async fn expire_streams(
        &self,
        what: Expirable,
        policy: &Retention,
    ) -> Result<u64, StoreError> {
        policy.expire(self, &*self.0.clock, what).await
    }
}

#[async_trait]
impl Maintenance for MemoryStore {
    async fn expire(&self, page: &ExpirePage) -> Result<Expired, StoreError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().expire_streams(page, now))
    }
}

#[async_trait]
impl ExpireRuns for MemoryStore {
    async fn expire_page(
        &self,
        policy: &Retention,
        after: Option<Place>,
    ) -> Result<ExpiredRuns, StoreError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().expire(policy, after, now))
    }
}

impl State {
    /// Examines a page of ended runs, oldest first, and removes the expired ones.
    fn expire(&mut self, policy: &Retention, after: Option<Place>, now: Timestamp) -> ExpiredRuns {
        let passed = self.passed();
        let before = older(policy.older_than, now);
        let mut page = self.tables.ended(after, before).take(policy.examined() as usize);
        let (mut expired, mut examined, mut next) = (Vec::new(), 0, None);
        while expired.len() < usize::from(policy.batch_size)
            && let Some((place, run_id)) = page.next()
        {
            (examined, next) = (examined + 1, Some(place));
            expired.extend(self.expired_stream(run_id, passed).map(|it| (run_id.to_owned(), it)));
        }
        drop(page);
        let is_full =
            examined == policy.examined() || expired.len() == usize::from(policy.batch_size);
        let has_freed = expired.iter().any(|(run_id, _)| self.tables.ends_chain(run_id));
        for (run_id, stream) in &expired {
            self.remove_run(run_id, stream);
        }
        let removed = expired.len().try_into().unwrap_or(u64::MAX);
        ExpiredRuns { removed, has_freed, next: next.filter(|_| is_full) }
    }

    /// The journal of a run that has ended, if the run can be removed.
    fn expired_stream(&self, run_id: &str, passed: u64) -> Option<StreamId> {
        let stream = StreamId::of_run(run_id).ok()?;
        let last = self.streams.get(&stream)?.positions.last()?;
        (*last <= passed && !self.tables.is_needed(run_id)).then_some(stream)
    }

    /// The position up to which events can be removed: passed by every checkpoint, and before the
    /// last event of the log, because the next position is derived from it. Without a checkpoint,
    /// only the latter limits it.
    fn passed(&self) -> u64 {
        let passed = self.checkpoints.values().min().copied().unwrap_or(u64::MAX);
        passed.min(self.head().saturating_sub(1))
    }

    /// Examines a page of streams in the order of their names, and removes the expired ones.
    fn expire_streams(&mut self, page: &ExpirePage, now: Timestamp) -> Expired {
        let passed = self.passed();
        let before = older(page.older_than, now);
        let prefix = page.what.prefix();
        // The prefix alone is no name of such a stream.
        let after = page.after.as_deref().map_or(prefix, |after| after.max(prefix));
        let names =
            self.streams.keys().filter(|id| id.as_str().starts_with(prefix) && id.as_str() > after);
        let mut names: Vec<_> = names.cloned().collect();
        names.sort_unstable();
        names.truncate(usize::from(page.limit));
        let next = names.last().map(|last| last.as_str().to_owned());
        names.retain(|name| self.is_expired(page.what, name, passed, before));
        names.iter().for_each(|stream| self.remove_stream(stream));
        Expired { removed: names.len().try_into().unwrap_or(u64::MAX), next }
    }

    /// Whether the last event of a stream is old enough and passed by all readers, and the run that
    /// the stream belongs to, if there is one, has ended.
    fn is_expired(&self, what: Expirable, id: &StreamId, passed: u64, before: Timestamp) -> bool {
        let last = self.streams.get(id).and_then(|stream| stream.positions.last());
        let last = last.filter(|last| **last <= passed).and_then(|last| self.log.get(last));
        let run = what.run_of(id.as_str());
        last.is_some_and(|last| last.event.timestamp < before)
            && !run.is_some_and(|run| self.tables.is_open(run))
    }

    /// Removes a run from the log, the read models and the waits.
    fn remove_run(&mut self, run_id: &str, stream: &StreamId) {
        self.remove_stream(stream);
        self.tables.remove_run(run_id);
        self.waits.remove(run_id, Shard::of(run_id));
    }

    /// Removes a stream, its events and their ids. The ids can be used again, which is why
    /// repeating an append to a removed run stores its events again.
    fn remove_stream(&mut self, stream: &StreamId) {
        for position in self.streams.remove(stream).unwrap_or_default().positions {
            if let Some(recorded) = self.log.remove(&position) {
                self.ids.remove(&recorded.event.id.key());
            }
        }
    }
}

/// The oldest time that is kept.
fn older(than: Duration, now: Timestamp) -> Timestamp {
    let age = i64::try_from(than.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(age))
}
