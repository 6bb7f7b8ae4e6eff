//! A store that counts what this process appended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_core::{
    event::{Pattern, Timestamp},
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoints, EventStore, Lease, Leases, Owner,
        Page, PageRequest, ReadModels, RecordedEvent, RunFilter, RunRecord, RunSummary, Shard,
        Store, StoreError, StreamId, TaskFilter, TaskRecord, WorkflowRecord,
    },
};
use async_trait::async_trait;

/// Forwards everything, and counts what this process appends.
#[derive(Debug)]
pub(crate) struct CountedStore {
    inner: Arc<dyn Store>,
    claimed: AtomicU64,
    in_flight: AtomicU64,
    newest: AtomicU64,
}

/// What this process appended so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// Events that it appended or is appending.
    pub(crate) claimed: u64,
    /// Whether it is appending now.
    pub(crate) is_moving: bool,
}

impl CountedStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { inner, claimed: zero(), in_flight: zero(), newest: zero() }
    }

    /// Appends to one stream, see [`EventStore::append`].
    pub(crate) async fn append_one(&self, append: Append) -> Result<Appended, StoreError> {
        let newest = self.newest.load(Ordering::Acquire);
        let mut claim = Claim::new(self, length(&append));
        let result = self.inner.append(vec![append]).await.pop();
        let result = result.unwrap_or(Err(StoreError::Closed));
        claim.prove(claim.unproved, newest, &result);
        result
    }

    pub(crate) fn count(&self) -> Count {
        let is_moving = self.in_flight.load(Ordering::Acquire) > 0;
        Count { claimed: self.claimed.load(Ordering::Acquire), is_moving }
    }
}

/// Events that are being appended. What is not proved when it is dropped counts as foreign: looking
/// for what others appended in vain costs little, and missing it much.
struct Claim<'a> {
    store: &'a CountedStore,
    unproved: u64,
}

impl<'a> Claim<'a> {
    fn new(store: &'a CountedStore, events: u64) -> Self {
        store.in_flight.fetch_add(1, Ordering::AcqRel);
        store.claimed.fetch_add(events, Ordering::AcqRel);
        Self { store, unproved: events }
    }

    /// So many of the events landed, unless the result shows otherwise: a position that was taken
    /// before the call, when the newest one was `newest`, is that of a repetition.
    fn prove(&mut self, events: u64, newest: u64, result: &Result<Appended, StoreError>) {
        if let Ok(appended) = result
            && appended.position > newest
        {
            self.store.newest.fetch_max(appended.position, Ordering::AcqRel);
            self.unproved -= events;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.claimed.fetch_sub(self.unproved, Ordering::AcqRel);
        self.store.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

fn length(append: &Append) -> u64 {
    append.events.len().try_into().unwrap_or(u64::MAX)
}

#[async_trait]
impl EventStore for CountedStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let counts: Vec<u64> = batch.iter().map(length).collect();
        let newest = self.newest.load(Ordering::Acquire);
        let mut claim = Claim::new(self, counts.iter().sum());
        let results = self.inner.append(batch).await;
        for (count, result) in counts.iter().zip(&results) {
            claim.prove(*count, newest, result);
        }
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
}

#[async_trait]
impl Leases for CountedStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &Owner,
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
}

#[async_trait]
impl ReadModels for CountedStore {
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
}

#[async_trait]
impl Checkpoints for CountedStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.inner.load_checkpoint(reader).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.inner.save_checkpoint(reader, position).await
    }
}
