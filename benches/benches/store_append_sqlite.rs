//! `SqliteStore` beside a hand-written loop that inserts the same rows into the same tables.
//!
//! Ours and the ceiling take turns, each on a fresh database, so that both see the same machine; the
//! medians are compared.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_benches::ratio;
use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStoreExt, StreamId},
};
use aios_store::sqlite::{SqliteOptions, SqliteStore};
use rusqlite::{Connection, Statement, params};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Callers at the same time, each with a stream of its own.
const CALLERS: usize = 1000;
/// Events of each caller, one after the other.
const EVENTS: usize = 40;
/// Rows the hand-written loop inserts in one transaction.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Lone appends, and as many bare ones, in turns.
const LONE: usize = 2000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    throughput(&runtime);
    latency(&runtime);
    runtime.block_on(size());
}

fn throughput(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let appends = appends(CALLERS, EVENTS);
        let place = Place::new();
        ceiling.push(rate(loop_of_inserts(&place.path, &appends)));
        let place = Place::new();
        ours.push(rate(runtime.block_on(callers(&place.path, appends))));
    }
    ratio("store_append/sqlite", median(&mut ours), median(&mut ceiling), "events/s");
}

fn latency(runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    let (store_place, loop_place) = (Place::new(), Place::new());
    let store = runtime.block_on(open(&store_place.path));
    let connection = connect(&loop_place.path);
    let mut bare = Bare::new(&connection);
    for append in appends(1, LONE).remove(0) {
        let start = Instant::now();
        bare.begin();
        bare.insert(&append);
        bare.commit();
        ceiling.push(micros(start.elapsed()));
        let start = Instant::now();
        runtime.block_on(store.append_one(append)).unwrap();
        ours.push(micros(start.elapsed()));
    }
    ratio("store_append_latency/sqlite", median(&mut ours), median(&mut ceiling), "us");
}

/// Prints what an event costs in the file, for a small and a larger log.
async fn size() {
    for events in [EVENTS / 2, EVENTS * 2] {
        let place = Place::new();
        callers(&place.path, appends(CALLERS, events)).await;
        let bytes = std::fs::metadata(&place.path).unwrap().len();
        let stored = (CALLERS * events) as u64;
        println!("FIGURE store_bytes_per_event/sqlite events={stored} bytes={}", bytes / stored);
    }
}

/// Every caller appends its events one at a time; how long all of them take.
async fn callers(path: &Path, appends: Vec<Vec<Append>>) -> Duration {
    let store = Arc::new(open(path).await);
    let count = appends.iter().map(Vec::len).sum();
    let ids: Arc<[EventId]> = (0..count).map(|_| EventId::generate()).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for appends in appends {
        let (store, ids, next) = (Arc::clone(&store), Arc::clone(&ids), Arc::clone(&next));
        callers.spawn(async move {
            for mut append in appends {
                // Ids are made when something happens, so they come nearly in order.
                append.events[0].id = ids[next.fetch_add(1, Ordering::Relaxed)].clone();
                store.append_one(append).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    start.elapsed()
}

fn loop_of_inserts(path: &Path, appends: &[Vec<Append>]) -> Duration {
    let connection = connect(path);
    let mut bare = Bare::new(&connection);
    let rows: Vec<&Append> =
        (0..EVENTS).flat_map(|number| appends.iter().map(move |own| &own[number])).collect();
    let start = Instant::now();
    for rows in rows.chunks(ROWS) {
        bare.begin();
        rows.iter().for_each(|append| bare.insert(append));
        bare.commit();
    }
    start.elapsed()
}

/// A connection with the store's own tables and settings.
fn connect(path: &Path) -> Connection {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.block_on(open(path)));
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA foreign_keys = OFF;
             INSERT INTO event_types (id, name) VALUES (1, 'workflows.deploy.step_completed');
             INSERT INTO event_sources (id, name) VALUES (1, 'engine-1');",
        )
        .unwrap();
    connection
}

/// What somebody would write by hand who needs nothing but the rows.
struct Bare<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    insert_stream: Statement<'c>,
    insert_event: Statement<'c>,
    streams: HashMap<StreamId, (i64, i64)>,
    position: i64,
}

impl<'c> Bare<'c> {
    fn new(connection: &'c Connection) -> Self {
        let insert_event = "
            INSERT INTO events (position, id, stream_id, version, type_id, source_id, created_at,
                                external_id, metadata, payload)
            VALUES (?1, ?2, ?3, ?4, 1, 1, ?5, NULL, NULL, ?6)";
        let insert_stream = "INSERT INTO streams (name) VALUES (?1)";
        Self {
            begin: connection.prepare("BEGIN IMMEDIATE").unwrap(),
            commit: connection.prepare("COMMIT").unwrap(),
            insert_stream: connection.prepare(insert_stream).unwrap(),
            insert_event: connection.prepare(insert_event).unwrap(),
            streams: HashMap::new(),
            position: 0,
        }
    }

    fn begin(&mut self) {
        self.begin.execute([]).unwrap();
    }

    fn commit(&mut self) {
        self.commit.execute([]).unwrap();
    }

    fn insert(&mut self, append: &Append) {
        let event = &append.events[0];
        if !self.streams.contains_key(&append.stream) {
            let id = self.insert_stream.insert([append.stream.as_str()]).unwrap();
            self.streams.insert(append.stream.clone(), (id, 0));
        }
        let (stream, version) = self.streams.get_mut(&append.stream).unwrap();
        (*version, self.position) = (*version + 1, self.position + 1);
        let key = event.id.key();
        let row = params![
            self.position,
            &key.as_bytes()[..],
            *stream,
            *version,
            event.timestamp.as_micros(),
            event.payload.as_str(),
        ];
        self.insert_event.execute(row).unwrap();
    }
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::connect_with(SqliteOptions::file(path)).await.unwrap()
}

/// Step events of as many runs as there are callers, made in the order in which they are appended.
fn appends(callers: usize, events: usize) -> Vec<Vec<Append>> {
    let streams: Vec<_> =
        (0..callers).map(|_| StreamId::of_run(&EventId::generate().to_string()).unwrap()).collect();
    let mut appends: Vec<Vec<Append>> = vec![Vec::new(); callers];
    for operation in 0..events {
        for (own, stream) in appends.iter_mut().zip(&streams) {
            own.push(Append::new(stream.clone(), vec![step(operation)]));
        }
    }
    appends
}

fn step(operation: usize) -> Event {
    let data = json!({ "operation": operation, "name": "build", "result": "r".repeat(200) });
    Event::new("workflows.deploy.step_completed".parse().unwrap(), "engine-1", &data).unwrap()
}

struct Place {
    path: PathBuf,
    _folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self { path: folder.path().join("aios.db"), _folder: folder }
    }
}

fn rate(elapsed: Duration) -> f64 {
    f64::from(u32::try_from(CALLERS * EVENTS).unwrap()) / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
