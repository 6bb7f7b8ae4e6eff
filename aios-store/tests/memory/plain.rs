//! A store that has only the required methods of the ports passes the suite.

use std::{sync::Arc, time::Duration};

use aios_core::{
    conformance::store::{Capability, StoreFixture},
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, EventStore, Lease,
        Leases, OwnerId, Page, PageRequest, ReadModels, RecordedEvent, RunFilter, RunRecord, Shard,
        Store, StoreError, StreamId, TaskFilter, TaskRecord, WorkflowRecord,
    },
};
use aios_store::memory::MemoryStore;
use async_trait::async_trait;

use super::MemoryFixture;

/// Only the required methods of the ports, forwarded to a store.
#[derive(Debug)]
struct Plain(MemoryStore);

#[async_trait]
impl EventStore for Plain {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        self.0.append(batch).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.0.read_stream(stream, after, limit).await
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.0.read_log(after, limit).await
    }

    async fn head(&self) -> Result<u64, StoreError> {
        self.0.head().await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.0.wait_for(after).await
    }
}

#[async_trait]
impl Leases for Plain {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.0.acquire(shards, owner, time_to_live).await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.0.renew(leases, time_to_live).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.0.release(leases).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.0.leases().await
    }
}

#[async_trait]
impl ReadModels for Plain {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.0.agents(filter, page).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.0.tasks(filter, page).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.0.workflows(page).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.0.runs(filter, page).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        self.0.rebuild().await
    }
}

#[async_trait]
impl Checkpoints for Plain {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.0.load_checkpoint(reader).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.0.save_checkpoint(reader, position).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.0.checkpoints().await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        self.0.delete_checkpoint(reader).await
    }
}

struct PlainFixture(MemoryFixture);

#[async_trait]
impl StoreFixture for PlainFixture {
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Plain(self.0.store.clone())))
    }

    async fn pass(&self, duration: Duration) {
        self.0.pass(duration).await;
    }

    fn lease_time(&self) -> Duration {
        self.0.lease_time()
    }

    async fn overdue(&self) {
        self.0.overdue().await;
    }

    fn too_many_bytes(&self) -> usize {
        self.0.too_many_bytes()
    }

    fn lacks(&self) -> &[Capability] {
        &[
            Capability::SignsOfLife,
            Capability::Maintenance,
            Capability::Durability,
            Capability::Waits,
            Capability::ReleaseNotifications,
        ]
    }
}

mod conformance {
    aios_core::store_conformance!(super::PlainFixture(super::MemoryFixture::new()));
}
