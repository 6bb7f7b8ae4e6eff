//! `PostgresStore` beside hand-written SQL that inserts the same rows into the same tables under the
//! same lock, on a private server with its default settings.
//!
//! Ours and the ceiling take turns, each in a fresh schema, so that both see the same machine; the
//! medians are compared.

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
    sync::Arc,
    time::{Duration, Instant},
};

use aios_benches::ratio;
use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStoreExt, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{runtime::Runtime, task::JoinSet};
use uuid::Uuid;

/// Callers at the same time, each with a stream of its own.
const CALLERS: usize = 1000;
/// Events of each caller, one after the other.
const EVENTS: usize = 60;
/// Rows the hand-written writer inserts in one transaction.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Lone appends, and as many bare ones, in turns.
const LONE: usize = 3000;
const PROCESSES: usize = 4;
/// Key of the lock; any will do, because each schema has a lock of its own.
const LOCK: i64 = 1;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let (Some("writer"), Some(url), Some(schema)) =
        (arguments.next().as_deref(), arguments.next(), arguments.next())
    {
        return writer(&runtime, &url, &schema);
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
    let mut bare = runtime.block_on(Bare::open(server, &server.new_name(), 1));
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

/// Prints what an event costs on the disk.
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

/// The sum of what several processes append to one log, beside what one of them does.
fn processes(runtime: &Runtime, server: &PostgresServer) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ceiling.push(in_processes(runtime, server, 1));
        ours.push(in_processes(runtime, server, PROCESSES));
    }
    ratio("store_append_processes/postgres", median(&mut ours), median(&mut ceiling), "events/s");
}

/// Each writer says when it is ready, begins when it is told to, and is waited for.
fn in_processes(runtime: &Runtime, server: &PostgresServer, count: usize) -> f64 {
    let schema = server.new_name();
    runtime.block_on(async { open(&server.url(), &schema).await.close().await });
    let mut writers: Vec<Child> = (0..count).map(|_| spawn(server, &schema)).collect();
    writers.iter_mut().for_each(read_line);
    let start = Instant::now();
    writers.iter_mut().for_each(|writer| drop(writer.stdin.take()));
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    rate(start.elapsed()) * count as f64
}

fn spawn(server: &PostgresServer, schema: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["writer", &server.url(), schema]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn read_line(writer: &mut Child) {
    let mut byte = [0];
    std::io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut byte).unwrap();
}

fn writer(runtime: &Runtime, url: &str, schema: &str) {
    let store = runtime.block_on(open(url, schema));
    let appends = appends(CALLERS, EVENTS);
    println!();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    runtime.block_on(callers(&store, appends));
}

async fn open(url: &str, schema: &str) -> Arc<PostgresStore> {
    let options = PostgresOptions::new(url).unwrap().with_schema(schema).unwrap();
    Arc::new(PostgresStore::connect_with(options).await.unwrap())
}

/// Every caller appends its events one at a time; how long all of them take.
async fn callers(store: &Arc<PostgresStore>, appends: Vec<Vec<Append>>) -> Duration {
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for appends in appends {
        let store = Arc::clone(store);
        callers.spawn(async move {
            for append in appends {
                store.append_one(append).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    start.elapsed()
}

async fn batches(server: &PostgresServer, schema: &str, appends: &[Vec<Append>]) -> Duration {
    let mut bare = Bare::open(server, schema, CALLERS).await;
    let rows: Vec<&Append> =
        (0..EVENTS).flat_map(|number| appends.iter().map(move |own| &own[number])).collect();
    let start = Instant::now();
    for rows in rows.chunks(ROWS) {
        bare.commit(rows).await;
    }
    start.elapsed()
}

/// What somebody would write by hand who checks nothing.
struct Bare {
    connection: PgConnection,
    insert: String,
    streams: usize,
    inserted: usize,
}

impl Bare {
    async fn open(server: &PostgresServer, schema: &str, streams: usize) -> Self {
        open(&server.url(), schema).await.close().await;
        let mut connection = PgConnection::connect(&server.url()).await.unwrap();
        for sql in [
            format!(
                "INSERT INTO {schema}.streams (name) SELECT 'runs/' || generate_series(1, {streams})"
            ),
            format!(
                "INSERT INTO {schema}.event_types (name) VALUES ('workflows.bench.step_completed')"
            ),
            format!("INSERT INTO {schema}.event_sources (name) VALUES ('bench')"),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        let insert = format!(
            "INSERT INTO {schema}.events (id, position, stream_id, created_at, version, type_id, source_id, payload) \
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::text[])"
        );
        Self { connection, insert, streams, inserted: 0 }
    }

    async fn commit(&mut self, rows: &[&Append]) {
        sqlx::raw_sql("BEGIN").execute(&mut self.connection).await.unwrap();
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
        lock.execute(&mut self.connection).await.unwrap();
        self.insert(rows).await;
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await.unwrap();
    }

    /// By itself this is one INSERT and its COMMIT.
    async fn insert(&mut self, rows: &[&Append]) {
        let events: Vec<&Event> = rows.iter().map(|append| &append.events[0]).collect();
        let places = self.inserted..self.inserted + rows.len();
        self.inserted = places.end;
        let number = |number: usize| i64::try_from(number).unwrap();
        let (streams, ones) = (self.streams, vec![1_i32; rows.len()]);
        let versions = places.clone().map(|place| i32::try_from(place / streams + 1).unwrap());
        sqlx::query(AssertSqlSafe(self.insert.clone()))
            .bind(events.iter().map(|event| event.id.key()).collect::<Vec<Uuid>>())
            .bind(places.clone().map(|place| number(place + 1)).collect::<Vec<i64>>())
            .bind(places.map(|place| number(place % streams + 1)).collect::<Vec<i64>>())
            .bind(events.iter().map(|event| event.timestamp.as_micros()).collect::<Vec<i64>>())
            .bind(versions.collect::<Vec<i32>>())
            .bind(&ones)
            .bind(&ones)
            .bind(events.iter().map(|event| event.payload.as_str()).collect::<Vec<&str>>())
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// The events of each caller, with 200 bytes of data.
fn appends(callers: usize, events: usize) -> Vec<Vec<Append>> {
    let data = json!({"operation": 1, "result": "x".repeat(170)});
    let event = || Event::new("workflows.bench.step_completed".parse().unwrap(), "bench", &data);
    (0..callers)
        .map(|_| {
            let stream = StreamId::of_run(&EventId::generate().to_string()).unwrap();
            (0..events).map(|_| Append::new(stream.clone(), vec![event().unwrap()])).collect()
        })
        .collect()
}

fn rate(elapsed: Duration) -> f64 {
    (CALLERS * EVENTS) as f64 / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
