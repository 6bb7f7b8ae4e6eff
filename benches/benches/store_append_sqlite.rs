//! `SqliteStore`, compared with a hand-written loop that inserts the same rows into the same
//! tables.
//!
//! Both take turns, each on a fresh database, so that both see the same machine; the medians are
//! compared.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_benches::{
    figure, median, ratio,
    sqlite::{Bare, Place, connect, open},
    step,
};
use aios_core::{
    event::EventId,
    store::{Append, EventStoreExt, StreamId},
};
use tokio::task::JoinSet;

/// Concurrent callers, each with its own stream.
const CALLERS: usize = 1000;
/// Events of each caller, appended one at a time.
const EVENTS: usize = 40;
/// Rows the hand-written loop inserts in one transaction.
const ROWS: usize = 500;
const ROUNDS: usize = 5;
/// Single appends, and as many hand-written ones, in turns.
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
        bare.transaction([&append]);
        ceiling.push(micros(start.elapsed()));
        let start = Instant::now();
        runtime.block_on(store.append_one(append)).unwrap();
        ours.push(micros(start.elapsed()));
    }
    ratio("store_append_latency/sqlite", median(&mut ours), median(&mut ceiling), "us");
}

/// Prints the file space per event, for a small and a larger log.
async fn size() {
    for events in [EVENTS / 2, EVENTS * 2] {
        let place = Place::new();
        callers(&place.path, appends(CALLERS, events)).await;
        let bytes = std::fs::metadata(&place.path).unwrap().len();
        let stored = (CALLERS * events) as u64;
        figure(&format!("store_bytes_per_event/sqlite/{stored}"), (bytes / stored) as f64, "bytes");
    }
}

/// Every caller appends its events one at a time; returns how long all of them take.
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
                // Ids are created when something happens, so they arrive nearly in order.
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
        bare.transaction(rows.iter().copied());
    }
    start.elapsed()
}

/// Step events of one run per caller, created in the order in which they are appended.
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

fn rate(elapsed: Duration) -> f64 {
    f64::from(u32::try_from(CALLERS * EVENTS).unwrap()) / elapsed.as_secs_f64()
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}
