//! The store as a node sees it: slow, refusing, or with lost responses.

use std::{sync::Arc, time::Duration};

use aios_agents::workflow::journal::RetryScheduled;
use aios_core::{
    catalog::ending,
    clock::Clock,
    event::{Event, EventId, Pattern, Timestamp},
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, DueRun, EventStore,
        Expected, Fence, Lease, Leases, OwnerId, Page, PageRequest, ReadModels, RecordedEvent,
        RunFilter, RunRecord, RunSummary, Shard, StoreError, StreamId, TaskFilter, TaskRecord,
        Unsettled, Wait, Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;

use crate::{executor::Node, plant::Plant, world::World};

/// How long a request waits before it fails.
const PATIENCE: Duration = Duration::from_secs(1);

/// A node's connection to the store.
#[derive(Clone)]
pub struct NodeStore {
    world: Arc<World>,
    node: Node,
    clock: Arc<dyn Clock>,
}

impl NodeStore {
    pub fn new(world: &Arc<World>, node: Node) -> Self {
        // The network uses the clock that never jumps.
        let clock = world.executor.clock(Node::WORLD);
        Self { world: Arc::clone(world), node, clock }
    }

    async fn request(&self, operation: &'static str) -> Result<(), StoreError> {
        let (is_cut, is_refused, delay) = {
            let mut state = self.world.state();
            let rates = state.rates;
            let delay = state.latency();
            let is_refused = state.random.per_mille(rates.refused);
            (state.without_store.contains(&self.node), is_refused, delay)
        };
        if is_cut {
            self.clock.sleep(PATIENCE).await;
            return Err(self.unreachable(operation, "cut off from the store"));
        }
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
        if is_refused {
            return Err(self.unreachable(operation, "the store refuses"));
        }
        Ok(())
    }

    async fn response(&self, operation: &'static str) -> Result<(), StoreError> {
        let is_lost = {
            let mut state = self.world.state();
            let rates = state.rates;
            state.random.per_mille(rates.lost) || state.without_store.contains(&self.node)
        };
        if is_lost {
            self.clock.sleep(PATIENCE).await;
            return Err(self.unreachable(operation, "the store's response is lost"));
        }
        Ok(())
    }

    fn unreachable(&self, operation: &'static str, why: &str) -> StoreError {
        self.world.note(format_args!("{why}: {operation}"));
        StoreError::Timeout { operation, after: PATIENCE }
    }

    /// Commits, and informs the world.
    async fn commit(&self, append: Append) -> Result<Appended, StoreError> {
        let mut append = append;
        let claimed = append.clone();
        if self.world.plants(Plant::NoFenceCheck) {
            append.fence = None;
        }
        if let Some(Fence { shard, epoch }) = append.fence
            && self.world.plants(Plant::FenceOutsideTransaction)
        {
            if !self.world.is_current(shard, epoch) {
                return Err(StoreError::Fenced { shard, epoch });
            }
            let later = self.world.state().random.below(3000);
            self.clock.sleep(Duration::from_millis(later)).await;
            append.fence = None;
        }
        if self.world.plants(Plant::LostRetryCounter) {
            append.events.iter_mut().for_each(forget_attempt);
        }
        if self.world.plants(Plant::ResultRecordedTwice) {
            repeat_results(&mut append);
        }
        let seen = Append { events: append.events.clone(), ..claimed };
        let appended = self.world.store.append(vec![append]).await.pop();
        let appended = appended.unwrap_or(Err(StoreError::Closed))?;
        if !appended.repeated {
            self.world.committed(&seen);
            if self.world.plants(Plant::EntryAfterEnd) {
                self.accept_after_end(&seen);
            }
        }
        Ok(appended)
    }

    /// Accepts an entry after the end of a run, as a store would that does not close its stream.
    fn accept_after_end(&self, append: &Append) {
        let is_end = |event: &&Event| ending(&append.stream, &event.event_type).is_some();
        if let Some(end) = append.events.iter().find(is_end) {
            let late = end.clone().with_id(EventId::generate());
            self.world.committed(&Append::new(append.stream.clone(), vec![late]));
        }
    }

    /// Reports an append as done, and commits it later.
    async fn promise(&self, append: Append, version: u64) -> Result<Appended, StoreError> {
        let events = u64::try_from(append.events.len()).unwrap_or(u64::MAX);
        let position = self.world.store.head().await? + events;
        let later = self.world.state().random.between(5, 50);
        let this = self.clone();
        self.world.executor.spawn(Node::WORLD, async move {
            this.clock.sleep(Duration::from_millis(later)).await;
            let _ = this.commit(append).await;
        });
        Ok(Appended { version: version + events, position, repeated: false })
    }

    /// Leaves an append to the network, which delivers it after the sender has given up. If
    /// possible, that is at the worst time: when another engine has just taken the shard.
    async fn delay(&self, append: Append, fence: Fence) -> StoreError {
        let later = Duration::from_millis(self.world.state().random.between(1000, 30_000));
        let this = self.clone();
        self.world.executor.spawn(Node::WORLD, async move {
            let end = this.clock.elapsed() + later;
            this.clock.sleep(PATIENCE).await;
            while this.clock.elapsed() < end && this.world.is_current(fence.shard, fence.epoch) {
                this.clock.sleep(Duration::from_millis(5)).await;
            }
            let _ = this.commit(append).await;
        });
        self.clock.sleep(PATIENCE).await;
        self.unreachable("append", "the network holds the request up")
    }

    async fn append_one(&self, append: Append) -> Result<Appended, StoreError> {
        if let Some(fence) = append.fence {
            let is_late = {
                let mut state = self.world.state();
                let late = state.rates.late;
                state.random.per_mille(late)
            };
            if is_late {
                return Err(self.delay(append, fence).await);
            }
        }
        match append.expected {
            Expected::Exact(version) if self.world.plants(Plant::VisibleBeforeCommit) => {
                self.promise(append, version).await
            }
            _ => self.commit(append).await,
        }
    }
}

/// Appends results of tasks a second time, under other ids.
fn repeat_results(append: &mut Append) {
    let results = append.events.iter().filter(|it| it.event_type.action() == "task_completed");
    let again: Vec<Event> =
        results.map(|event| event.clone().with_id(EventId::generate())).collect();
    append.events.extend(again);
}

/// Records every attempt as the first.
fn forget_attempt(event: &mut Event) {
    if event.event_type.action() != "retry_scheduled" {
        return;
    }
    let Ok(mut retry) = event.data::<RetryScheduled>() else { return };
    retry.attempt = 1;
    if let Ok(payload) = aios_core::event::Payload::encode(&retry) {
        event.payload = payload;
    }
}

impl std::fmt::Debug for NodeStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NodeStore({})", self.node.0)
    }
}

#[async_trait]
impl EventStore for NodeStore {
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let length = batch.len();
        if let Err(error) = self.request("append").await {
            return vec![Err(error); length];
        }
        let mut results = Vec::with_capacity(length);
        for append in batch {
            results.push(self.append_one(append).await);
        }
        if let Err(error) = self.response("append").await {
            return vec![Err(error); length];
        }
        results
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.request("read a stream").await?;
        let mut found = self.world.store.read_stream(stream, after, limit).await?;
        if self.world.plants(Plant::StaleRead) && found.len() > 1 {
            found.pop();
        }
        self.response("read a stream").await?;
        Ok(found)
    }

    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.request("read the log").await?;
        let found = self.world.store.read_log(after, limit).await?;
        self.response("read the log").await?;
        Ok(found)
    }

    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.request("read the log").await?;
        let found = self.world.store.read_log_except(after, up_to, except).await?;
        if self.world.plants(Plant::EarlyCheckpoint) {
            self.world.store.save_checkpoint("relay", up_to).await?;
        }
        self.response("read the log").await?;
        Ok(found)
    }

    async fn head(&self) -> Result<u64, StoreError> {
        self.request("read the head").await?;
        self.world.store.head().await
    }

    async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        self.request("wait for events").await?;
        let head = self.world.store.wait_for(after).await?;
        self.response("wait for events").await?;
        Ok(head)
    }
}

#[async_trait]
impl Leases for NodeStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.request("take leases").await?;
        let leases = self.world.store.acquire(shards, owner, time_to_live).await?;
        self.world.note(format_args!("takes {} shards", leases.len()));
        self.world.leased(self.node, &leases, true);
        self.response("take leases").await?;
        Ok(leases)
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.request("renew leases").await?;
        let mut renewed = self.world.store.renew(leases, time_to_live).await?;
        if renewed.len() < leases.len() {
            self.world.note(format_args!("renews {} of {} shards", renewed.len(), leases.len()));
            if self.world.plants(Plant::RenewedAfterExpiry) {
                renewed = leases.to_vec();
            }
        }
        self.world.leased(self.node, &renewed, false);
        self.response("renew leases").await?;
        Ok(renewed)
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.request("release leases").await?;
        self.world.store.release(leases).await?;
        self.world.released(self.node, leases);
        self.response("release leases").await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.request("list leases").await?;
        self.world.store.leases().await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        self.request("wait for released leases").await?;
        let count = self.world.store.wait_for_release(seen).await?;
        self.response("wait for released leases").await?;
        Ok(count)
    }
}

#[async_trait]
impl ReadModels for NodeStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.request("list agents").await?;
        self.world.store.agents(filter, page).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.request("list tasks").await?;
        self.world.store.tasks(filter, page).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.request("list workflows").await?;
        self.world.store.workflows(page).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.request("list runs").await?;
        self.world.store.runs(filter, page).await
    }

    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        self.request("list runs").await?;
        self.world.store.run_summaries(filter, page).await
    }

    async fn touch_agents(
        &self,
        agent_ids: &[String],
        at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.request("note agents").await?;
        self.world.store.touch_agents(agent_ids, at).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        self.request("rebuild").await?;
        self.world.store.rebuild().await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
    }
}

#[async_trait]
impl Waits for NodeStore {
    async fn note_waits(&self, waits: &[Wait]) -> Result<(), StoreError> {
        self.request("note waits").await?;
        self.world.store.note_waits(waits).await?;
        self.response("note waits").await
    }

    async fn forget_waits(&self, runs: &[(Arc<str>, Fence)]) -> Result<(), StoreError> {
        self.request("forget waits").await?;
        self.world.store.forget_waits(runs).await?;
        self.response("forget waits").await
    }

    async fn due_runs(
        &self,
        shards: &[Shard],
        beyond: Option<&DueRun>,
        up_to: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRun>, StoreError> {
        self.request("list due runs").await?;
        self.world.store.due_runs(shards, beyond, up_to, limit).await
    }

    async fn unsettled_runs(
        &self,
        shards: &[Shard],
        which: Unsettled,
        page: &PageRequest,
    ) -> Result<Page<String>, StoreError> {
        self.request("list unsettled runs").await?;
        self.world.store.unsettled_runs(shards, which, page).await
    }
}

#[async_trait]
impl Checkpoints for NodeStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<u64, StoreError> {
        self.request("load a checkpoint").await?;
        self.world.store.load_checkpoint(reader).await
    }

    async fn save_checkpoint(&self, reader: &str, position: u64) -> Result<(), StoreError> {
        self.request("save a checkpoint").await?;
        self.world.store.save_checkpoint(reader, position).await?;
        self.response("save a checkpoint").await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.request("list checkpoints").await?;
        self.world.store.checkpoints().await
    }

    async fn delete_checkpoint(&self, reader: &str) -> Result<bool, StoreError> {
        self.request("delete a checkpoint").await?;
        let deleted = self.world.store.delete_checkpoint(reader).await?;
        self.response("delete a checkpoint").await?;
        Ok(deleted)
    }
}
