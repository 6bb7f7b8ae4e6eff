//! Timers of many runs that are due at the same time.
//!
//! The ceiling is the time that they may take: 3 s for 50,000 timers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_benches::{
    figure, postgres, ratio,
    sqlite::{self, Place},
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::Store;
use aios_tests::postgres::PostgresServer;
use tokio::task::JoinSet;

const RUNS: usize = 50_000;
/// Seconds that the timers of all runs may take.
const LIMIT: f64 = 3.0;
/// Concurrent callers that start runs.
const CALLERS: usize = 200;
/// Time from the start of the first run until the timers are due.
const DELAY: Duration = Duration::from_secs(60);

static FIRED: AtomicUsize = AtomicUsize::new(0);
/// When the last timer fired.
static LAST: Mutex<Timestamp> = Mutex::new(Timestamp::UNIX_EPOCH);

async fn nap(context: WorkflowContext, due: Timestamp) -> Result<(), WorkflowError> {
    let micros = due.as_micros() - context.now().as_micros();
    context.sleep(Duration::from_micros(micros.try_into().unwrap_or(0))).await?;
    // A replay sees the same timer again, but none of these runs leaves memory after it.
    let mut last = LAST.lock().unwrap();
    *last = context.now().max(*last);
    FIRED.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let place = Place::new();
    runtime.block_on(async { measure("sqlite", Arc::new(sqlite::open(&place.path).await)).await });
    let Some(server) = PostgresServer::start() else { return };
    runtime.block_on(async {
        measure("postgres", postgres::open(&server.url(), "timers").await).await;
    });
}

async fn measure(name: &str, store: Arc<dyn Store>) {
    FIRED.store(0, Ordering::Relaxed);
    let runtime = Runtime::builder()
        .store(store)
        .broker(Arc::new(MemoryBroker::new()))
        .workflow("nap", nap)
        .start();
    let runtime = Arc::new(runtime.await.unwrap());
    let due = Timestamp::now() + DELAY;
    start_all(&runtime, due).await;
    let left = due.as_micros() - Timestamp::now().as_micros();
    assert!(left > 0, "the timers are due before all runs have started");
    figure(&format!("workflow_timers/{name}/idle"), left as f64 / 1e6, "s");
    while FIRED.load(Ordering::Relaxed) < RUNS {
        assert!(Timestamp::now() < due + DELAY * 2, "some timers did not fire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = LAST.lock().unwrap().as_micros() - due.as_micros();
    ratio(&format!("workflow_timers/{name}"), took as f64 / 1e6, LIMIT, "s");
    Arc::into_inner(runtime).unwrap().shutdown(DELAY).await.unwrap();
}

async fn start_all(runtime: &Arc<Runtime>, due: Timestamp) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let runtime = Arc::clone(runtime);
        callers.spawn(async move {
            for _ in 0..RUNS / CALLERS {
                runtime.start("nap", &due).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}
