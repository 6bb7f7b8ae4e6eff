//! A store, or a wrapper around one, that has only the required methods. Only optimisations are
//! missing.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::Broker,
    store::{
        AgentFilter, AgentRecord, Append, Appended, Checkpoint, Checkpoints, EventStore, Lease,
        Leases, OwnerId, Page, PageRequest, ReadModels, RecordedEvent, RunFilter, RunRecord, Shard,
        StoreError, StreamId, TaskFilter, TaskRecord, WorkflowRecord,
    },
};
use async_trait::async_trait;

use crate::support::workflows::{Doubler, PATIENCE, actions, eventually, result, store};

/// Wraps a store as a program would that was written before the ports gained methods.
#[derive(Debug)]
struct Lean(Arc<dyn Store>);

#[async_trait]
impl EventStore for Lean {
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
impl Leases for Lean {
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
impl ReadModels for Lean {
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
impl Checkpoints for Lean {
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

/// A task, a timer and a signal, in sequence.
async fn all(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    let doubled: u64 = context.task("doubler", &number).await?;
    context.sleep(Duration::from_millis(300)).await?;
    let more: u64 = context.signal("more").await?;
    context.sleep(Duration::from_millis(300)).await?;
    Ok(doubled + more)
}

fn build(store: &Arc<dyn Store>, broker: &Arc<dyn Broker>) -> RuntimeBuilder {
    let lean: Arc<dyn Store> = Arc::new(Lean(Arc::clone(store)));
    let options = EngineOptions::new()
        .with_lease_time(Duration::from_millis(800))
        .with_eviction_delay(Duration::ZERO);
    let builder = Runtime::builder().store(lean).broker(Arc::clone(broker));
    builder.engine_options(options).agent("doubler", Doubler::default()).workflow("all", all)
}

const RUNS: u64 = 20;

async fn waits_for_a_signal(run: &RunHandle) -> bool {
    actions(run).await.iter().any(|action| action == "timer_fired")
}

/// Runs wait, are handed over and found again, and lose neither timers nor signals.
#[tokio::test(flavor = "multi_thread")]
async fn should_run_everything_on_a_store_with_only_the_required_methods() {
    let (store, broker): (_, Arc<dyn Broker>) = (store(), Arc::new(MemoryBroker::new()));
    let before = build(&store, &broker).start().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..RUNS {
        ids.push(before.start("all", &number).await.unwrap().id().to_owned());
    }
    for id in &ids {
        let run = before.handle(id).await.unwrap();
        eventually("it waits", || async { waits_for_a_signal(&run).await }).await;
    }
    before.shutdown(PATIENCE).await.unwrap();
    let outside = build(&store, &broker).client_only().start().await.unwrap();
    let (first, rest) = ids.split_at(ids.len() / 2);
    for id in first {
        outside.handle(id).await.unwrap().signal("more", &100_u64).await.unwrap();
    }
    let after = build(&store, &broker).start().await.unwrap();
    for id in rest {
        outside.handle(id).await.unwrap().signal("more", &100_u64).await.unwrap();
    }
    for (number, id) in (0..RUNS).zip(&ids) {
        let run = after.handle(id).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), number * 2 + 100);
        let elsewhere = outside.handle(id).await.unwrap();
        assert_eq!(result::<u64>(&elsewhere).await.unwrap(), number * 2 + 100);
    }
    assert_eq!(after.failure(), None);
    after.shutdown(PATIENCE).await.unwrap();
}

/// An engine takes over from one that has stopped, without any notification.
#[tokio::test(flavor = "multi_thread")]
async fn should_take_over_without_a_notification_of_the_release() {
    let (store, broker): (_, Arc<dyn Broker>) = (store(), Arc::new(MemoryBroker::new()));
    let (one, two) = (build(&store, &broker), build(&store, &broker));
    let one = one.start().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..RUNS {
        ids.push(one.start("all", &number).await.unwrap().id().to_owned());
    }
    let two = two.start().await.unwrap();
    for id in &ids {
        let run = two.handle(id).await.unwrap();
        eventually("it waits", || async { waits_for_a_signal(&run).await }).await;
    }
    one.shutdown(PATIENCE).await.unwrap();
    for (number, id) in (0..RUNS).zip(&ids) {
        let run = two.handle(id).await.unwrap();
        run.signal("more", &1_u64).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), number * 2 + 1);
    }
    two.shutdown(PATIENCE).await.unwrap();
}

/// More than an engine reads in any case.
const MANY: u64 = 1_200;

async fn signalled(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    context.signal("go").await
}

/// A new owner reads every run if the store has no index of waiting runs.
#[tokio::test(flavor = "multi_thread")]
async fn should_find_signals_sent_while_no_engine_owned_the_runs() {
    let (store, broker): (_, Arc<dyn Broker>) = (store(), Arc::new(MemoryBroker::new()));
    let open = || build(&store, &broker).workflow("signalled", signalled);
    let before = open().start().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..MANY {
        ids.push(before.start("signalled", &()).await.unwrap().id().to_owned());
    }
    before.shutdown(PATIENCE).await.unwrap();
    let outside = open().client_only().start().await.unwrap();
    for (number, id) in (0..MANY).zip(&ids) {
        outside.handle(id).await.unwrap().signal("go", &number).await.unwrap();
    }
    let after = open().start().await.unwrap();
    for (number, id) in (0..MANY).zip(&ids) {
        assert_eq!(result::<u64>(&after.handle(id).await.unwrap()).await.unwrap(), number);
    }
    after.shutdown(PATIENCE).await.unwrap();
}
