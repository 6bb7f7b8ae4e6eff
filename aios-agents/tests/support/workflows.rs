//! A runtime in memory, and agents for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_store::{
    memory::MemoryStore,
    postgres::{PostgresOptions, PostgresStore},
};

/// The longest that a test waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Answers twice the number, and counts how often it was asked.
#[derive(Clone, Default)]
pub(crate) struct Doubler(pub(crate) Arc<AtomicU32>);

impl Agent for Doubler {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, number: u64) -> Result<u64, TaskError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(number * 2)
    }
}

/// A store that outlives runtimes: in memory, or where [`elsewhere`] points if the test's runtime
/// can wait for it.
pub(crate) fn store() -> Arc<dyn Store> {
    let handle = tokio::runtime::Handle::try_current();
    let waits = handle
        .as_ref()
        .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    match (waits, handle) {
        (true, Ok(handle)) => tokio::task::block_in_place(|| handle.block_on(elsewhere())),
        _ => None,
    }
    .unwrap_or_else(|| Arc::new(MemoryStore::new()))
}

/// A store whose appends have to be awaited, unlike those of the one in memory.
pub(crate) async fn sqlite() -> Arc<dyn Store> {
    match elsewhere().await {
        Some(store) => store,
        None => {
            Arc::new(aios_store::sqlite::SqliteStore::connect("sqlite::memory:").await.unwrap())
        }
    }
}

/// A separate store on the PostgreSQL database that `AIOS_ENGINE_POSTGRES` names, if any: the
/// engine gives the same guarantees there.
async fn elsewhere() -> Option<Arc<dyn Store>> {
    #[allow(clippy::disallowed_methods, reason = "tests are told so where to run")]
    let url = std::env::var("AIOS_ENGINE_POSTGRES").ok()?;
    Some(Arc::new(postgres(&url).await))
}

/// A store in its own schema.
pub(crate) async fn postgres(url: &str) -> PostgresStore {
    let schema = format!("t{}", fresh_name());
    let options = PostgresOptions::new(url).with_schema(&schema);
    PostgresStore::connect_with(options.with_max_connections(4)).await.unwrap()
}

/// A name that no other store has.
fn fresh_name() -> String {
    aios_core::event::EventId::generate().to_string().replace('-', "")
}

/// A runtime on that store, with its own broker and a lease that a loaded machine can renew in time.
pub(crate) fn runtime(store: &Arc<dyn Store>) -> RuntimeBuilder {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(15));
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
}

/// Retries quickly.
pub(crate) fn quick(attempts: u32) -> RetryPolicy {
    RetryPolicy::fixed(attempts, Duration::from_millis(5))
}

/// The result of a run, within the time limit of a test.
pub(crate) async fn result<T: serde::de::DeserializeOwned>(run: &RunHandle) -> Result<T, RunError> {
    tokio::time::timeout(PATIENCE, run.result()).await.expect("the run should end")
}

/// Waits until a condition holds, within the time limit of a test.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
            #[allow(clippy::disallowed_methods, reason = "a test waits for the real engine")]
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The actions of a run's journal, in order.
pub(crate) async fn actions(run: &RunHandle) -> Vec<String> {
    let journal = run.journal(0, 1000).await.unwrap();
    journal.iter().map(|recorded| recorded.event.event_type.action().to_owned()).collect()
}
