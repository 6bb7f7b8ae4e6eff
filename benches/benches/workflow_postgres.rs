//! Workflows on PostgreSQL, compared with hand-written SQL that inserts the same rows, on a private
//! server with its default settings.
//!
//! Both take turns, each in a fresh schema; the medians are compared. Both prepare their statements
//! before the measurement.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::time::{Duration, Instant};

use aios_benches::{
    figure, median, micros_each, per_second,
    postgres::{Bare, open},
    ratio, step,
    workflow::Bench,
};
use aios_core::store::{Append, StreamId};
use aios_tests::postgres::PostgresServer;
use tokio::task::JoinSet;

/// Concurrent runs, and steps of each.
const RUNS: usize = 1000;
const STEPS: usize = 20;
/// Rows per commit of the hand-written writer.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Steps of the single run, and how often it is measured.
const LONE: usize = 200;
const LONE_ROUNDS: usize = 15;
/// Short runs, the number in flight, and the connections that commit as many rows one by one.
const SHORT: usize = 5000;
const IN_FLIGHT: usize = 200;
const CONNECTIONS: usize = 8;
/// How long an idle runtime is observed.
const IDLE: Duration = Duration::from_secs(20);

/// Counts statements.
const EXTENSION: &str = "pg_stat_statements";

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

async fn start(server: &PostgresServer, schema: &str) -> Bench {
    Bench::start(open(&server.url(), schema).await).await
}

/// The cost of many concurrent runs; bytes and statements are per step.
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
    let schema = server.new_name();
    let bench = start(server, &schema).await;
    let log = server.sql("SELECT pg_current_wal_lsn()");
    let runs = bench.hold(RUNS, STEPS).await;
    server.sql("SELECT pg_stat_statements_reset()");
    let elapsed = runs.release().await;
    let each = (RUNS * STEPS) as f64;
    let cost = Cost {
        elapsed,
        statements: statements(server) / each,
        stored: number(server, &stored(&schema)) / each,
        wal: number(server, &format!("SELECT pg_current_wal_lsn() - '{log}'")) / each,
    };
    bench.stop().await;
    cost
}

/// Statements that were sent since the last reset, except those that query the count.
fn statements(server: &PostgresServer) -> f64 {
    let sql = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements \
        WHERE query NOT LIKE '%pg_stat_statements%'";
    number(server, sql)
}

/// The disk space of all tables of a schema and their indexes.
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
    for _ in 0..LONE_ROUNDS {
        ceiling.push(micros_each(runtime.block_on(batches(server, 1, LONE)), LONE));
        ours.push(micros_each(runtime.block_on(lone_run(server)), LONE));
    }
    ratio("workflow_step_latency/postgres", median(&mut ours), median(&mut ceiling), "us");
}

async fn lone_run(server: &PostgresServer) -> Duration {
    let bench = start(server, &server.new_name()).await;
    bench.run(1).await;
    let begin = Instant::now();
    bench.run(LONE).await;
    let elapsed = begin.elapsed();
    bench.stop().await;
    elapsed
}

fn short_runs(runtime: &tokio::runtime::Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(per_second(SHORT, runtime.block_on(single_commits(server))));
        ours.push(per_second(SHORT, runtime.block_on(many_short_runs(server))));
    }
    ratio("short_runs/postgres", median(&mut ours), median(&mut ceiling), "runs/s");
}

async fn many_short_runs(server: &PostgresServer) -> Duration {
    let bench = start(server, &server.new_name()).await;
    bench.run(1).await;
    let elapsed = bench.short_runs(SHORT, IN_FLIGHT).await;
    bench.stop().await;
    elapsed
}

/// Prints how many statements an idle runtime sends to the server.
async fn idle(server: &PostgresServer) {
    let bench = start(server, &server.new_name()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.sql("SELECT pg_stat_statements_reset()");
    tokio::time::sleep(IDLE).await;
    let minute = 60.0 / IDLE.as_secs_f64();
    figure("idle_queries_per_minute/postgres", statements(server) * minute, "statements");
    bench.stop().await;
}

/// How long a hand-written writer takes for the rows of steps, with this many per commit.
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

/// How long several connections take to commit as many rows as there are short runs, one per
/// commit.
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
