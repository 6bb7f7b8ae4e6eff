//! The cost of a takeover while many runs wait, the latency of a signal to one of them, and the
//! rate at which due timers fire. On PostgreSQL; arguments: the number of waiting runs and of
//! timers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_benches::{figure, median, postgres::open};
use aios_broker::memory::MemoryBroker;
use aios_core::{event::EventId, store::Shard};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

/// Settings without which the benchmark would measure the writing of a million runs.
const SETTINGS: [&str; 3] = ["fsync=off", "max_wal_size=8GB", "shared_buffers=512MB"];
/// Runs that are copied in one statement.
const COPIES: usize = 20_000;
/// Runs of each kind that must resume at the takeover, and signals that are measured.
const SOME: usize = 30;
/// Concurrent callers that start runs.
const CALLERS: usize = 500;
const STOP: Duration = Duration::from_secs(10);

/// Copies of the template run `$3`, with these ids in these shards, registered as waiting.
const COPY: &str = "\
    WITH template AS (
        SELECT e.* FROM aios.events e JOIN aios.streams s ON s.id = e.stream_id
        WHERE s.name = 'runs/' || $3
    ), head AS (
        SELECT max(position) AS position, (SELECT count(*) FROM template) AS length
        FROM aios.events
    ), n AS (
        SELECT id, shard, row_number() OVER () - 1 AS place
        FROM unnest($1::uuid[], $2::integer[]) AS u (id, shard)
    ), s AS (
        INSERT INTO aios.streams (name) SELECT 'runs/' || id FROM n RETURNING id, name
    ), e AS (
        INSERT INTO aios.events (
            id, position, stream_id, created_at, version, type_id, source_id, payload, metadata
        )
        SELECT
            gen_random_uuid(), h.position + n.place * h.length + t.version, s.id, t.created_at,
            t.version, t.type_id, t.source_id, t.payload, replace(t.metadata, $3, n.id::text)
        FROM n JOIN s ON s.name = 'runs/' || n.id CROSS JOIN template t CROSS JOIN head h
    ), r AS (
        INSERT INTO aios.workflow_runs (
            id, workflow, workflow_version, shard, status, position, created_at, updated_at
        )
        SELECT n.id, 'waiting', 1, n.shard, 'running', h.position, now(), now()
        FROM n CROSS JOIN head h
    )
    INSERT INTO aios.run_waits (shard, id, stream_id, version)
    SELECT n.shard, n.id, s.id, h.length
    FROM n JOIN s ON s.name = 'runs/' || n.id CROSS JOIN head h";

static WOKEN: AtomicUsize = AtomicUsize::new(0);

async fn waiting(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    context.signal("go").await
}

async fn sleeper(context: WorkflowContext, until: Timestamp) -> Result<(), WorkflowError> {
    context.sleep(until.duration_since(context.now())).await?;
    WOKEN.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn engine(url: &str) -> Runtime {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(3));
    Runtime::builder()
        .store(open(url, "aios").await)
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
        .workflow("waiting", waiting)
        .workflow("sleeper", sleeper)
        .start()
        .await
        .unwrap()
}

async fn client(url: &str) -> Runtime {
    let builder = Runtime::builder().store(open(url, "aios").await);
    builder.broker(Arc::new(MemoryBroker::new())).client_only().start().await.unwrap()
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|it| it.parse().ok()).collect();
    let runs = numbers.first().copied().unwrap_or(100_000);
    let timers = numbers.get(1).copied().unwrap_or(50_000);
    let Some(server) = PostgresServer::start_with(&SETTINGS) else { return };
    let url = server.url();
    let ids = fill(&url, runs).await;
    server.sql("VACUUM ANALYZE");
    let client = client(&url).await;
    take_over(&url, &client, &server, &ids).await;
    let engine = engine(&url).await;
    figure("recovery/signal_during", signals(&client, &ids, 1).await, "ms");
    tokio::time::sleep(Duration::from_secs(5)).await;
    figure("recovery/signal", signals(&client, &ids, 2).await, "ms");
    fire(&engine, timers).await;
    engine.shutdown(STOP).await.unwrap();
}

/// Runs that wait for a signal, and their ids.
async fn fill(url: &str, runs: usize) -> Vec<String> {
    let first = engine(url).await;
    let template = first.start("waiting", &()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.shutdown(STOP).await.unwrap();
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut filled = Vec::with_capacity(runs);
    while filled.len() < runs {
        let keys: Vec<_> = (0..COPIES).map(|_| EventId::generate().key()).collect();
        let ids: Vec<String> = keys.iter().map(|key| EventId::from(*key).to_string()).collect();
        let shards: Vec<i32> = ids.iter().map(|id| Shard::of(id).number().into()).collect();
        let copy = sqlx::query(COPY).bind(&keys).bind(&shards).bind(template.id());
        copy.execute(&mut connection).await.unwrap();
        filled.extend(ids);
    }
    filled
}

/// How long runs take to resume at a takeover: some are not registered as waiting, and some
/// received a signal while no engine owned them.
async fn take_over(url: &str, client: &Runtime, server: &PostgresServer, ids: &[String]) {
    let (active, signaled) = (some(ids, 3), some(ids, 4));
    for id in active.iter().chain(&signaled) {
        client.handle(id).await.unwrap().signal("go", &1).await.unwrap();
    }
    let list = active.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    server.sql(&format!("DELETE FROM aios.run_waits WHERE id IN ({list})"));
    let before = resident();
    let begin = Instant::now();
    let engine = engine(url).await;
    figure("recovery/open", begin.elapsed().as_secs_f64(), "s");
    for (name, runs) in [("recovery/active", active), ("recovery/signaled", signaled)] {
        let results = runs.iter().map(|id| async {
            client.handle(id).await.unwrap().result::<u64>().await.unwrap();
        });
        join_all(results).await;
        figure(name, begin.elapsed().as_secs_f64(), "s");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    figure("recovery/memory", resident() - before, "MB");
    engine.shutdown(STOP).await.unwrap();
}

/// A sample of the runs, different for each seed.
fn some(ids: &[String], seed: usize) -> Vec<String> {
    let step = (ids.len() / SOME).max(1);
    ids.iter().skip(seed * step / 8).step_by(step).take(SOME).cloned().collect()
}

/// The median time from a signal of another process to the result there, for a sample of the runs.
async fn signals(client: &Runtime, ids: &[String], seed: usize) -> f64 {
    let mut took = Vec::new();
    for id in some(ids, seed) {
        let run = client.handle(&id).await.unwrap();
        let begin = Instant::now();
        run.signal("go", &2).await.unwrap();
        run.result::<u64>().await.unwrap();
        took.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    median(&mut took)
}

/// How long it takes until all timers have fired that are due at the same time.
async fn fire(engine: &Runtime, timers: usize) {
    let pause = Duration::from_secs(10 + u64::try_from(timers).unwrap() / 2000);
    let due = Timestamp::now() + pause;
    let begin = Instant::now();
    let builders = (0..timers).map(|_| engine.start("sleeper", &due)).collect::<Vec<_>>();
    let queue = Arc::new(Mutex::new(builders));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let queue = Arc::clone(&queue);
        callers.spawn(async move {
            loop {
                let Some(start) = queue.lock().unwrap().pop() else { return };
                start.await.unwrap();
            }
        });
    }
    callers.join_all().await;
    figure("recovery/start", timers as f64 / begin.elapsed().as_secs_f64(), "runs/s");
    let rest = due.duration_since(Timestamp::now());
    assert!(!rest.is_zero(), "starting took longer than the timers");
    tokio::time::sleep(rest).await;
    let begin = Instant::now();
    while WOKEN.load(Ordering::Relaxed) < timers {
        assert!(begin.elapsed() < Duration::from_secs(300), "some timers did not fire");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    figure("recovery/fire", begin.elapsed().as_secs_f64(), "s");
    assert_eq!(WOKEN.load(Ordering::Relaxed), timers, "each timer fires once");
}

/// Memory of this process, in MB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}
