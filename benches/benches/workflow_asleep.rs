//! The cost of runs that sleep on a timer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_agents::prelude::*;
use aios_benches::{
    figure, ratio,
    sqlite::{Place, open},
};
use aios_broker::memory::MemoryBroker;
use aios_core::clock::VirtualClock;
use tokio::task::JoinSet;

const RUNS: usize = 100_000;
/// Concurrent callers that start runs.
const CALLERS: usize = 200;
const MONTH: Duration = Duration::from_secs(30 * 86_400);

static WOKEN: AtomicUsize = AtomicUsize::new(0);

async fn sleeper(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    context.sleep(MONTH).await?;
    context
        .step("woken", || async {
            WOKEN.fetch_add(1, Ordering::Relaxed);
            Ok::<_, TaskError>(())
        })
        .await
}

#[tokio::main]
async fn main() {
    let place = Place::new();
    let clock = VirtualClock::new(Timestamp::now());
    let runtime = Runtime::builder()
        .store(Arc::new(open(&place.path).await))
        .broker(Arc::new(MemoryBroker::new()))
        .clock(Arc::new(clock.clone()))
        .workflow("sleeper", sleeper)
        .start()
        .await
        .unwrap();
    let runtime = Arc::new(runtime);
    let idle = resident();
    start_all(&runtime).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asleep = resident();
    ratio("workflow_asleep/100000", asleep - idle, 60.0, "MB");

    let begin = Instant::now();
    clock.advance(MONTH + Duration::from_secs(1));
    while WOKEN.load(Ordering::Relaxed) < RUNS {
        assert!(begin.elapsed() < Duration::from_secs(300), "some runs did not wake");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    figure("workflow_wake", RUNS as f64 / begin.elapsed().as_secs_f64(), "runs/s");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(WOKEN.load(Ordering::Relaxed), RUNS, "each run wakes once");
}

async fn start_all(runtime: &Arc<Runtime>) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let runtime = Arc::clone(runtime);
        callers.spawn(async move {
            for _ in 0..RUNS / CALLERS {
                runtime.start("sleeper", &()).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

/// Memory of this process, in MB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}
