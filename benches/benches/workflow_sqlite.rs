//! Workflows on SQLite beside a hand-written writer that commits the same rows.
//!
//! Ours and the ceiling take turns, each on a fresh database; the medians are compared.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aios_agents::prelude::*;
use aios_benches::{
    figure, median, ratio,
    sqlite::{Bare, Place, connect, open},
    step,
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::{Append, StreamId};
use tokio::{sync::watch, task::JoinSet};

/// Runs at once, and steps of each.
const RUNS: usize = 1000;
const STEPS: usize = 20;
/// Rows that the hand-written writer commits at once.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Steps of the run that is alone.
const LONE: usize = 500;
/// Short runs, and how many are in flight.
const SHORT: usize = 5000;
const IN_FLIGHT: usize = 200;

static GATE: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));
static RESULT: LazyLock<String> = LazyLock::new(|| "r".repeat(200));

async fn deploy(context: WorkflowContext, steps: usize) -> Result<usize, WorkflowError> {
    // Waiting for the gate is no operation; it only keeps the runs in memory until all are there.
    let mut gate = GATE.subscribe();
    let _ = gate.wait_for(|open| *open).await;
    for _ in 0..steps {
        let _: String =
            context.step("build", || async { Ok::<_, TaskError>(RESULT.clone()) }).await?;
    }
    Ok(steps)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    steps(&runtime);
    latency(&runtime);
    short_runs(&runtime);
}

async fn start(place: &Place) -> Runtime {
    Runtime::builder()
        .store(Arc::new(open(&place.path).await))
        .broker(Arc::new(MemoryBroker::new()))
        .workflow("deploy", deploy)
        .start()
        .await
        .unwrap()
}

fn steps(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(per_second(RUNS * STEPS, bare(ROWS, RUNS * STEPS)));
        let place = Place::new();
        ours.push(per_second(RUNS * STEPS, runtime.block_on(many_runs(&place, STEPS))));
    }
    ratio("workflow_steps/sqlite", median(&mut ours), median(&mut ceiling), "steps/s");
    // The same for every step, however many there are.
    for steps in [STEPS, STEPS * 3] {
        let place = Place::new();
        runtime.block_on(many_runs(&place, steps));
        let bytes = std::fs::metadata(&place.path).unwrap().len() as f64;
        let name = format!("workflow_bytes_per_step/sqlite/{steps}");
        figure(&name, bytes / (RUNS * steps) as f64, "bytes");
    }
}

async fn many_runs(place: &Place, steps: usize) -> Duration {
    GATE.send_replace(false);
    let runtime = start(place).await;
    let mut results = JoinSet::new();
    for _ in 0..RUNS {
        let run = runtime.start("deploy", &steps).await.unwrap();
        results.spawn(async move { run.result::<usize>().await.unwrap() });
    }
    let begin = Instant::now();
    GATE.send_replace(true);
    results.join_all().await;
    let elapsed = begin.elapsed();
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    elapsed
}

fn latency(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    GATE.send_replace(true);
    for _ in 0..ROUNDS {
        ceiling.push(micros(bare(1, LONE)) / LONE as f64);
        let place = Place::new();
        ours.push(micros(runtime.block_on(lone_run(&place))) / LONE as f64);
    }
    ratio("workflow_step_latency/sqlite", median(&mut ours), median(&mut ceiling), "us");
}

async fn lone_run(place: &Place) -> Duration {
    let runtime = start(place).await;
    let begin = Instant::now();
    let run = runtime.start("deploy", &LONE).await.unwrap();
    run.result::<usize>().await.unwrap();
    let elapsed = begin.elapsed();
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    elapsed
}

fn short_runs(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    GATE.send_replace(true);
    for _ in 0..ROUNDS {
        ceiling.push(per_second(SHORT, bare(1, SHORT)));
        let place = Place::new();
        ours.push(per_second(SHORT, runtime.block_on(many_short_runs(&place))));
    }
    ratio("short_runs/sqlite", median(&mut ours), median(&mut ceiling), "runs/s");
}

async fn many_short_runs(place: &Place) -> Duration {
    let runtime = Arc::new(start(place).await);
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let runtime = Arc::clone(&runtime);
        callers.spawn(async move {
            for _ in 0..SHORT / IN_FLIGHT {
                let run = runtime.start("deploy", &1).await.unwrap();
                run.result::<usize>().await.unwrap();
            }
        });
    }
    callers.join_all().await;
    begin.elapsed()
}

/// How long a hand-written writer takes for the rows of steps, so many at once.
fn bare(at_once: usize, rows: usize) -> Duration {
    let place = Place::new();
    let connection = connect(&place.path);
    let mut bare = Bare::new(&connection);
    let streams: Vec<_> =
        (0..RUNS.min(rows)).map(|run| StreamId::of_run(&format!("run-{run}")).unwrap()).collect();
    let rows: Vec<Append> = streams
        .iter()
        .cycle()
        .take(rows)
        .enumerate()
        .map(|(number, stream)| Append::new(stream.clone(), vec![step(number / RUNS)]))
        .collect();
    let begin = Instant::now();
    for rows in rows.chunks(at_once) {
        bare.transaction(rows);
    }
    begin.elapsed()
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}
