//! The workflow that the benchmarks run, and the ways in which they run it.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::store::Store;
use tokio::{sync::watch, task::JoinSet};

/// How long a runtime may take to stop.
const STOP: Duration = Duration::from_secs(5);

static GATE: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(true));
static RESULT: LazyLock<String> = LazyLock::new(|| "r".repeat(200));

async fn deploy(context: WorkflowContext, steps: usize) -> Result<usize, WorkflowError> {
    for step in 0..steps {
        let build = || async move {
            // The first step keeps its run in memory until all runs have started.
            if step == 0 {
                let mut gate = GATE.subscribe();
                let _ = gate.wait_for(|open| *open).await;
            }
            Ok::<_, TaskError>(RESULT.clone())
        };
        let _: String = context.step("build", build).await?;
    }
    Ok(steps)
}

/// An engine in this process whose runs take steps with results of 200 bytes.
#[derive(Clone, Debug)]
pub struct Bench(Arc<Runtime>);

impl Bench {
    /// Starts the engine.
    pub async fn start(store: Arc<dyn Store>) -> Self {
        let runtime = Runtime::builder()
            .store(store)
            .broker(Arc::new(MemoryBroker::new()))
            .workflow("deploy", deploy)
            .start();
        Self(Arc::new(runtime.await.unwrap()))
    }

    /// The runtime of the engine.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.0
    }

    /// Executes a run with this many steps from its start to its result.
    pub async fn run(&self, steps: usize) {
        let run = self.0.start("deploy", &steps).await.unwrap();
        run.result::<usize>().await.unwrap();
    }

    /// Starts runs that wait before their first step.
    pub async fn hold(&self, runs: usize, steps: usize) -> Held {
        GATE.send_replace(false);
        let mut results = JoinSet::new();
        for _ in 0..runs {
            let run = self.0.start("deploy", &steps).await.unwrap();
            results.spawn(async move { run.result::<usize>().await.unwrap() });
        }
        Held(results)
    }

    /// How long it takes to start runs of one step and to wait for their results, with this many at
    /// a time.
    #[allow(clippy::disallowed_methods, reason = "it measures real time")]
    pub async fn short_runs(&self, runs: usize, in_flight: usize) -> Duration {
        let begin = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            let bench = self.clone();
            callers.spawn(async move {
                for _ in 0..runs / in_flight {
                    bench.run(1).await;
                }
            });
        }
        callers.join_all().await;
        begin.elapsed()
    }

    /// Stops the engine.
    pub async fn stop(self) {
        let runtime = Arc::into_inner(self.0).unwrap();
        runtime.shutdown(STOP).await.unwrap();
    }
}

/// Runs that wait to be released.
#[derive(Debug)]
pub struct Held(JoinSet<usize>);

impl Held {
    /// Releases them, and returns how long they take.
    #[allow(clippy::disallowed_methods, reason = "it measures real time")]
    pub async fn release(self) -> Duration {
        let begin = Instant::now();
        GATE.send_replace(true);
        self.0.join_all().await;
        begin.elapsed()
    }
}
