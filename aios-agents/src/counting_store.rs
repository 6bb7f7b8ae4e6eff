//! A store that tracks the appends of this process.
//!
//! The positions of the log are dense. So an engine that knows which positions this process has written
//! knows that all others are foreign, and reads only those (see `workflow::engine::foreign_appends`). An
//! append whose position is unknown, because its response was lost, counts as foreign: reading it again
//! is harmless, and missing it would not be.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_core::{
    clock::Clock,
    event::{Pattern, Timestamp},
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, EventStore, Lease,
        Leases, Maintenance, OwnerId, Page, PageRequest, ReadModels, RecordedEvent, RunFilter,
        RunRecord, RunSummary, Shard, Store, StoreError, StreamId, TaskFilter, TaskRecord, Waits,
        WorkflowRecord,
    },
};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::measure::{self, Measured, WaitingAppend};

/// Forwards all calls to a store and tracks the appends of this process.
#[derive(Debug)]
pub(crate) struct CountingStore {
    /// The store of the user, to which all calls go.
    inner: Arc<dyn Store>,
    /// Measures how long appends take.
    clock: Arc<dyn Clock>,
    /// Appends that were begun so far, in this process.
    begun: AtomicU64,
    /// Appends that have no result yet.
    in_flight: AtomicU64,
    /// Positions of this process's appends; `None` while no engine watches. An engine that reads
    /// the log removes those that it has passed, so the collection stays small.
    own: Mutex<Option<Positions>>,
}

/// The appends of this process so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendCount {
    /// Number of appends that were begun.
    pub(crate) begun: u64,
    /// Whether an append is in flight.
    pub(crate) is_appending: bool,
}

/// Positions in the log as disjoint, non-adjacent ranges: the last position by the first.
#[derive(Debug, Default)]
struct Positions(BTreeMap<u64, u64>);

impl Positions {
    /// Adds a range, and joins it with those that it touches or overlaps.
    fn insert(&mut self, mut first: u64, mut last: u64) {
        // Usually the range extends the last one.
        if let Some(mut newest) = self.0.last_entry()
            && newest.get().saturating_add(1) == first
        {
            newest.insert(last);
            return;
        }
        // Joins the range that begins before it, and then all that begin within it.
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            (first, last) = (before, last.max(end));
        }
        while let Some((&after, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            self.0.remove(&after);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Whether a position is in one of the ranges.
    fn contains(&self, position: u64) -> bool {
        self.0.range(..=position).next_back().is_some_and(|(_, last)| *last >= position)
    }

    /// The range from the first to the last missing position above `after` and up to `up_to`. Its end is
    /// exclusive.
    fn gap(&self, after: u64, up_to: u64) -> Option<Range<u64>> {
        let covering = |position: u64| {
            let found = self.0.range(..=position).next_back();
            found.filter(|(_, last)| **last >= position).map(|(first, last)| (*first, *last))
        };
        let mut first = after.saturating_add(1);
        let mut last = up_to;
        if let Some((_, end)) = covering(first) {
            first = end.saturating_add(1);
        }
        if let Some((begin, _)) = covering(last) {
            last = begin.saturating_sub(1);
        }
        (first <= last).then(|| first..last.saturating_add(1))
    }

    /// Removes the ranges that end at or before a position. One that goes beyond it stays whole.
    fn remove_up_to(&mut self, up_to: u64) {
        while let Some(range) = self.0.first_entry()
            && *range.get() <= up_to
        {
            range.remove();
        }
    }
}

impl CountingStore {
    /// A store that does not watch positions yet.
    pub(crate) fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { inner, clock, begun: zero(), in_flight: zero(), own: Mutex::new(None) }
    }

    /// Appends to one stream, see [`EventStore::append`].
    pub(crate) async fn append_one(&self, append: Append) -> Result<Appended, StoreError> {
        let _in_flight = InFlight::begin(self);
        let events = length(&append);
        let measured = Measured::of(&append);
        let began = self.clock.elapsed();
        let result = self.inner.append(vec![append]).await.pop();
        let result = result.unwrap_or(Err(StoreError::Closed));
        self.track(events, &result);
        measured.report(&result);
        measure::took(began, &*self.clock);
        result
    }

    /// The appends so far. Reads those in flight before those that were begun.
    pub(crate) fn count(&self) -> AppendCount {
        let is_appending = self.in_flight.load(Ordering::Acquire) > 0;
        AppendCount { begun: self.begun.load(Ordering::Acquire), is_appending }
    }

    /// Begins to track the positions at which this process appends.
    pub(crate) fn watch(&self) {
        *self.own.lock() = Some(Positions::default());
    }

    /// Stops tracking positions.
    pub(crate) fn unwatch(&self) {
        *self.own.lock() = None;
    }

    /// The shortest range of positions above `after` and up to `up_to` that contains all events not known
    /// to be appended by this process.
    pub(crate) fn foreign(&self, after: u64, up_to: u64) -> Option<Range<u64>> {
        self.own.lock().as_ref().and_then(|own| own.gap(after, up_to))
    }

    /// Whether this process is known to have appended the event at a position.
    pub(crate) fn is_own(&self, position: u64) -> bool {
        self.own.lock().as_ref().is_some_and(|own| own.contains(position))
    }

    /// Removes tracked positions up to and including `up_to`.
    pub(crate) fn forget(&self, up_to: u64) {
        if let Some(own) = self.own.lock().as_mut() {
            own.remove_up_to(up_to);
        }
    }

    /// Tracks the positions of an append. A repeated append may repeat one of another process, so it
    /// counts as foreign; reading it without need costs little.
    fn track(&self, events: u64, result: &Result<Appended, StoreError>) {
        if let Ok(Appended { position, repeated: false, .. }) = result
            && let Some(own) = self.own.lock().as_mut()
        {
            own.insert((position + 1).saturating_sub(events), *position);
        }
    }
}

/// Counts an append as in flight until dropped.
///
/// Dropping it also covers a call that is cancelled.
struct InFlight<'a> {
    store: &'a CountingStore,
    _waiting: WaitingAppend,
}

impl<'a> InFlight<'a> {
    /// Counts the append, and shows it in the gauge of waiting appends.
    fn begin(store: &'a CountingStore) -> Self {
        store.in_flight.fetch_add(1, Ordering::AcqRel);
        store.begun.fetch_add(1, Ordering::AcqRel);
        Self { store, _waiting: WaitingAppend::begin() }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.store.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The number of events, as positions are counted.
fn length(append: &Append) -> u64 {
    append.events.len().try_into().unwrap_or(u64::MAX)
}

#[async_trait]
impl EventStore for CountingStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let _in_flight = InFlight::begin(self);
        let counts: Vec<_> = batch.iter().map(|it| (length(it), Measured::of(it))).collect();
        let began = self.clock.elapsed();
        let results = self.inner.append(batch).await;
        // Results are in the order of the batch.
        for ((count, measured), result) in counts.iter().zip(&results) {
            self.track(*count, result);
            measured.report(result);
        }
        measure::took(began, &*self.clock);
        results
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.inner.read_stream(stream, after, limit).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        self.inner.read_streams(streams, limit).await
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.inner.read_log(after, limit).await
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.inner.read_log_except(after, up_to, except).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        self.inner.head().await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.inner.wait_for(after).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.inner.maintenance()
    }
}

#[async_trait]
impl Leases for CountingStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.inner.acquire(shards, owner, time_to_live).await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.inner.renew(leases, time_to_live).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.inner.release(leases).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.inner.leases().await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        self.inner.wait_for_release(seen).await
    }
}

#[async_trait]
impl ReadModels for CountingStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.inner.agents(filter, page).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.inner.tasks(filter, page).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.inner.workflows(page).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.inner.runs(filter, page).await
    }

    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        self.inner.run_summaries(filter, page).await
    }

    async fn touch_agents(
        &self,
        agent_ids: &[String],
        at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.inner.touch_agents(agent_ids, at).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        self.inner.rebuild().await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        self.inner.waits()
    }
}

#[async_trait]
impl Checkpoints for CountingStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.inner.load_checkpoint(reader).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.inner.save_checkpoint(reader, position).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.inner.checkpoints().await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        self.inner.delete_checkpoint(reader).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_find_what_lies_between_what_was_appended_here() {
        let mut own = Positions::default();
        assert_eq!(own.gap(0, 0), None);
        assert_eq!(own.gap(0, 9), Some(1..10));
        for (first, last) in [(3, 4), (8, 9), (1, 2), (7, 7)] {
            own.insert(first, last);
        }
        assert_eq!(own.0, BTreeMap::from([(1, 4), (7, 9)]));
        assert_eq!(own.gap(0, 9), Some(5..7));
        assert_eq!(own.gap(0, 4), None);
        assert_eq!(own.gap(3, 12), Some(5..13));
        assert_eq!(own.gap(9, 12), Some(10..13));
        assert!(own.contains(4) && !own.contains(5) && !own.contains(10));
        own.insert(5, 6);
        assert_eq!((own.gap(0, 9), own.0.len()), (None, 1));
        own.insert(12, 12);
        own.remove_up_to(10);
        assert_eq!(own.0, BTreeMap::from([(12, 12)]));
    }
}
