//! Workflows on PostgreSQL beside hand-written SQL that inserts the same rows, on a private server
//! with its default settings.
//!
//! Ours and the ceiling take turns, each in a fresh schema; the medians are compared. Either has
//! prepared its statements before the clock runs.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
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
    figure, median,
    postgres::{Bare, open},
    ratio, step,
};
use aios_broker::memory::MemoryBroker;
use aios_core::store::{Append, StreamId};
use aios_tests::postgres::PostgresServer;
use tokio::{sync::watch, task::JoinSet};

/// Runs at once, and steps of each.
const RUNS: usize = 1000;
const STEPS: usize = 20;
/// Rows that the hand-written writer commits at once.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Steps of the run that is alone, and how often it is measured.
const LONE: usize = 200;
const LONE_ROUNDS: usize = 15;
/// Short runs, how many are in flight, and the connections that commit as many rows one by one.
const SHORT: usize = 5000;
const IN_FLIGHT: usize = 200;
const CONNECTIONS: usize = 8;
/// How long an idle runtime is watched.
const IDLE: Duration = Duration::from_secs(20);

/// Counts statements.
const EXTENSION: &str = "pg_stat_statements";

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
    let Some(server) = PostgresServer::start_with(&["shared_preload_libraries=pg_stat_statements"])
    else {
        return;
    };
    server.sql(&format!("CREATE EXTENSION {EXTENSION}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    steps(&runtime, &server);
    latency(&runtime, &server);
    short_runs(&runtime, &server);
    runtime.block_on(idle(&server));
}

async fn start(server: &PostgresServer, schema: &str) -> Runtime {
    Runtime::builder()
        .store(open(&server.url(), schema).await)
        .broker(Arc::new(MemoryBroker::new()))
        .workflow("deploy", deploy)
        .start()
        .await
        .unwrap()
}

/// What many runs at once took; bytes and statements are those of a step.
struct Cost {
    elapsed: Duration,
    statements: f64,
    stored: f64,
    wal: f64,
}

fn steps(runtime: &tokio::runtime::Runtime, server: &PostgresServer) {
    let count = RUNS * STEPS;
    let (mut costs, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        server.sql("CHECKPOINT");
        ceiling.push(per_second(count, runtime.block_on(batches(server, ROWS, count))));
        server.sql("CHECKPOINT");
        costs.push(runtime.block_on(many_runs(server)));
    }
    let middle =
        |figure: fn(&Cost) -> f64| median(&mut costs.iter().map(figure).collect::<Vec<_>>());
    let ours = middle(|cost| per_second(RUNS * STEPS, cost.elapsed));
    ratio("workflow_steps/postgres", ours, median(&mut ceiling), "steps/s");
    figure("workflow_round_trips_per_step/postgres", middle(|cost| cost.statements), "statements");
    figure("workflow_bytes_per_step/postgres", middle(|cost| cost.stored), "bytes");
    figure("workflow_wal_per_step/postgres", middle(|cost| cost.wal), "bytes");
}

async fn many_runs(server: &PostgresServer) -> Cost {
    GATE.send_replace(false);
    let schema = server.new_name();
    let runtime = start(server, &schema).await;
    let log = server.sql("SELECT pg_current_wal_lsn()");
    let mut results = JoinSet::new();
    for _ in 0..RUNS {
        let run = runtime.start("deploy", &STEPS).await.unwrap();
        results.spawn(async move { run.result::<usize>().await.unwrap() });
    }
    server.sql("SELECT pg_stat_statements_reset()");
    let begin = Instant::now();
    GATE.send_replace(true);
    results.join_all().await;
    let elapsed = begin.elapsed();
    let each = (RUNS * STEPS) as f64;
    let cost = Cost {
        elapsed,
        statements: statements(server) / each,
        stored: number(server, &stored(&schema)) / each,
        wal: number(server, &format!("SELECT pg_current_wal_lsn() - '{log}'")) / each,
    };
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    cost
}

/// Statements that were sent since the last reset, but for those that ask for them.
fn statements(server: &PostgresServer) -> f64 {
    let sql = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements \
        WHERE query NOT LIKE '%pg_stat_statements%'";
    number(server, sql)
}

/// What all tables of a schema and their indexes take on the disk.
fn stored(schema: &str) -> String {
    format!(
        "SELECT sum(pg_total_relation_size(c.oid)) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND n.nspname = '{schema}'"
    )
}

fn number(server: &PostgresServer, sql: &str) -> f64 {
    server.sql(sql).parse().unwrap()
}

fn latency(runtime: &tokio::runtime::Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    GATE.send_replace(true);
    for _ in 0..LONE_ROUNDS {
        ceiling.push(micros(runtime.block_on(batches(server, 1, LONE))) / LONE as f64);
        ours.push(micros(runtime.block_on(lone_run(server))) / LONE as f64);
    }
    ratio("workflow_step_latency/postgres", median(&mut ours), median(&mut ceiling), "us");
}

async fn lone_run(server: &PostgresServer) -> Duration {
    let runtime = start(server, &server.new_name()).await;
    finish(&runtime, 1).await;
    let begin = Instant::now();
    finish(&runtime, LONE).await;
    let elapsed = begin.elapsed();
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    elapsed
}

/// Starts a run of so many steps, and waits for its result.
async fn finish(runtime: &Runtime, steps: usize) {
    let run = runtime.start("deploy", &steps).await.unwrap();
    run.result::<usize>().await.unwrap();
}

fn short_runs(runtime: &tokio::runtime::Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    GATE.send_replace(true);
    for _ in 0..ROUNDS {
        ceiling.push(per_second(SHORT, runtime.block_on(single_commits(server))));
        ours.push(per_second(SHORT, runtime.block_on(many_short_runs(server))));
    }
    ratio("short_runs/postgres", median(&mut ours), median(&mut ceiling), "runs/s");
}

async fn many_short_runs(server: &PostgresServer) -> Duration {
    let runtime = Arc::new(start(server, &server.new_name()).await);
    finish(&runtime, 1).await;
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let runtime = Arc::clone(&runtime);
        callers.spawn(async move {
            for _ in 0..SHORT / IN_FLIGHT {
                finish(&runtime, 1).await;
            }
        });
    }
    callers.join_all().await;
    begin.elapsed()
}

/// Prints what a runtime with nothing to do asks of the server.
async fn idle(server: &PostgresServer) {
    let runtime = start(server, &server.new_name()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.sql("SELECT pg_stat_statements_reset()");
    tokio::time::sleep(IDLE).await;
    let minute = 60.0 / IDLE.as_secs_f64();
    figure("idle_queries_per_minute/postgres", statements(server) * minute, "statements");
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// How long a hand-written writer takes for the rows of steps, so many at once.
async fn batches(server: &PostgresServer, at_once: usize, count: usize) -> Duration {
    let mut bare = Bare::open(&server.url(), &server.new_name(), RUNS).await;
    let rows = rows(at_once + count);
    let rows: Vec<&Append> = rows.iter().collect();
    let (first, rows) = rows.split_at(at_once);
    bare.insert(first).await;
    let begin = Instant::now();
    for rows in rows.chunks(at_once) {
        match at_once {
            1 => bare.insert(rows).await,
            _ => bare.commit(rows).await,
        }
    }
    begin.elapsed()
}

/// How long several connections take for as many rows as there are short runs, each a commit.
async fn single_commits(server: &PostgresServer) -> Duration {
    let schema = server.new_name();
    drop(Bare::open(&server.url(), &schema, RUNS).await);
    let each = SHORT / CONNECTIONS + 1;
    let mut writers = Vec::new();
    for number in 0..CONNECTIONS {
        let places = number * each..(number + 1) * each;
        let mut bare = Bare::connect(&server.url(), &schema, RUNS, places).await;
        let rows = rows(each);
        bare.insert(&[&rows[0]]).await;
        writers.push((bare, rows));
    }
    let begin = Instant::now();
    let insert = |(mut bare, rows): (Bare, Vec<Append>)| async move {
        for row in &rows[1..] {
            bare.insert(&[row]).await;
        }
    };
    writers.into_iter().map(insert).collect::<JoinSet<()>>().join_all().await;
    begin.elapsed()
}

fn rows(count: usize) -> Vec<Append> {
    let stream = StreamId::of_run("run").unwrap();
    (0..count).map(|number| Append::new(stream.clone(), vec![step(number / RUNS)])).collect()
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}
