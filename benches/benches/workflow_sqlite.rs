//! Workflows on SQLite, compared with a hand-written writer that commits the same rows.
//!
//! Both take turns, each on a fresh database; the medians are compared.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aios_benches::{
    figure, median, micros_each, per_second, ratio,
    sqlite::{Bare, Place, connect, open},
    step,
    workflow::Bench,
};
use aios_core::store::{Append, StreamId};

/// Concurrent runs, and steps of each.
const RUNS: usize = 1000;
const STEPS: usize = 20;
/// Rows per commit of the hand-written writer.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Steps of the single run.
const LONE: usize = 500;
/// Short runs, and the number in flight.
const SHORT: usize = 5000;
const IN_FLIGHT: usize = 200;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    steps(&runtime);
    latency(&runtime);
    short_runs(&runtime);
}

async fn start(place: &Place) -> Bench {
    Bench::start(Arc::new(open(&place.path).await)).await
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
    let bench = start(place).await;
    let elapsed = bench.hold(RUNS, steps).await.release().await;
    bench.stop().await;
    elapsed
}

fn latency(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(micros_each(bare(1, LONE), LONE));
        let place = Place::new();
        ours.push(micros_each(runtime.block_on(lone_run(&place)), LONE));
    }
    ratio("workflow_step_latency/sqlite", median(&mut ours), median(&mut ceiling), "us");
}

async fn lone_run(place: &Place) -> Duration {
    let bench = start(place).await;
    let begin = Instant::now();
    bench.run(LONE).await;
    let elapsed = begin.elapsed();
    bench.stop().await;
    elapsed
}

fn short_runs(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(per_second(SHORT, bare(1, SHORT)));
        let place = Place::new();
        ours.push(per_second(SHORT, runtime.block_on(many_short_runs(&place))));
    }
    ratio("short_runs/sqlite", median(&mut ours), median(&mut ceiling), "runs/s");
}

async fn many_short_runs(place: &Place) -> Duration {
    let bench = start(place).await;
    let elapsed = bench.short_runs(SHORT, IN_FLIGHT).await;
    bench.stop().await;
    elapsed
}

/// How long a hand-written writer takes for the rows of steps, with this many per commit.
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
