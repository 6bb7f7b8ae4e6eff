//! `PostgresStore`, compared with hand-written SQL that inserts the same rows into the same tables
//! under the same lock, on a private server with its default settings.
//!
//! Both take turns, each in a fresh schema, so that both see the same machine; the medians are
//! compared.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aios_benches::{
    median,
    postgres::{Bare, appends, callers, open},
    ratio,
};
use aios_core::store::{Append, EventStore, EventStoreExt};
use aios_tests::postgres::PostgresServer;
use tokio::runtime::Runtime;

/// Concurrent callers, each with its own stream.
const CALLERS: usize = 1000;
/// Events of each caller, appended one at a time.
const EVENTS: usize = 60;
/// Rows the hand-written writer inserts in one transaction.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Single appends, and as many hand-written ones, in turns.
const LONE: usize = 3000;
const PROCESSES: usize = 4;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if arguments.next().as_deref() == Some("writer") {
        let arguments: Vec<String> = arguments.collect();
        return writer(&runtime, &arguments[0], &arguments[1], arguments[2].parse().unwrap());
    }
    let Some(server) = PostgresServer::start() else { return };
    throughput(&runtime, &server);
    latency(&runtime, &server);
    size(&runtime, &server);
    processes(&runtime, &server);
}

fn throughput(runtime: &Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let appends = appends(CALLERS, EVENTS);
        ceiling.push(rate(runtime.block_on(batches(server, &server.new_name(), &appends))));
        ours.push(rate(runtime.block_on(async {
            let store = open(&server.url(), &server.new_name()).await;
            callers(&store, appends).await
        })));
        server.sql("CHECKPOINT");
    }
    ratio("store_append/postgres", median(&mut ours), median(&mut ceiling), "events/s");
}

fn latency(runtime: &Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    let store = runtime.block_on(open(&server.url(), &server.new_name()));
    let mut bare = runtime.block_on(Bare::open(&server.url(), &server.new_name(), 1));
    for append in appends(1, LONE).remove(0) {
        let start = Instant::now();
        runtime.block_on(bare.insert(&[&append]));
        ceiling.push(micros(start.elapsed()));
        let start = Instant::now();
        runtime.block_on(store.append_one(append)).unwrap();
        ours.push(micros(start.elapsed()));
    }
    ratio("store_append_latency/postgres", median(&mut ours), median(&mut ceiling), "us");
}

/// Prints the disk space per event.
fn size(runtime: &Runtime, server: &PostgresServer) {
    for events in [EVENTS, EVENTS * 3] {
        let schema = server.new_name();
        server.sql("CHECKPOINT");
        let store = runtime.block_on(open(&server.url(), &schema));
        let before = server.sql("SELECT pg_current_wal_lsn()");
        runtime.block_on(callers(&store, appends(CALLERS, events)));
        let stored = CALLERS * events;
        let wal = format!("SELECT round((pg_current_wal_lsn() - '{before}') / {stored}.0)");
        let tables = "sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n \
            ON n.oid = c.relnamespace WHERE c.relkind = 'r'";
        let bytes = format!("SELECT round({} / {stored}.0)", "(SELECT TABLES)");
        let tables = format!("(SELECT {tables} AND n.nspname = '{schema}')");
        let bytes = server.sql(&bytes.replace("(SELECT TABLES)", &tables));
        let wal = server.sql(&wal);
        println!("FIGURE store_bytes_per_event/postgres events={stored} bytes={bytes} wal={wal}");
    }
}

/// The total throughput of several processes that append to one log, compared with that of a single
/// process.
fn processes(runtime: &Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ceiling.push(in_processes(runtime, server, 1));
        ours.push(in_processes(runtime, server, PROCESSES));
        server.sql("CHECKPOINT");
    }
    ratio("store_append_processes/postgres", median(&mut ours), median(&mut ceiling), "events/s");
}

/// Each writer reports when it is ready, begins on command, and is awaited.
fn in_processes(runtime: &Runtime, server: &PostgresServer, count: usize) -> f64 {
    let schema = server.new_name();
    runtime.block_on(async { open(&server.url(), &schema).await.close().await.unwrap() });
    let events = EVENTS * PROCESSES / count;
    let mut writers: Vec<Child> = (0..count).map(|_| spawn(server, &schema, events)).collect();
    writers.iter_mut().for_each(read_line);
    let start = Instant::now();
    writers.iter_mut().for_each(|writer| drop(writer.stdin.take()));
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    rate(start.elapsed()) * PROCESSES as f64
}

fn spawn(server: &PostgresServer, schema: &str, events: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["writer", &server.url(), schema, &events.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn read_line(writer: &mut Child) {
    let mut byte = [0];
    std::io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut byte).unwrap();
}

fn writer(runtime: &Runtime, url: &str, schema: &str, events: usize) {
    let store = runtime.block_on(open(url, schema));
    let appends = appends(CALLERS, events);
    println!();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    runtime.block_on(callers(&store, appends));
}

async fn batches(server: &PostgresServer, schema: &str, appends: &[Vec<Append>]) -> Duration {
    let mut bare = Bare::open(&server.url(), schema, CALLERS).await;
    let rows: Vec<&Append> =
        (0..EVENTS).flat_map(|number| appends.iter().map(move |own| &own[number])).collect();
    let start = Instant::now();
    for rows in rows.chunks(ROWS) {
        bare.commit(rows).await;
    }
    start.elapsed()
}

fn rate(elapsed: Duration) -> f64 {
    (CALLERS * EVENTS) as f64 / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}
