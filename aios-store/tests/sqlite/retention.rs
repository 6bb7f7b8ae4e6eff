//! Removal of old runs from the log, and of the free space from the file.

use std::{path::Path, sync::Arc, time::Duration};

use aios_core::{
    event::Event,
    store::{Append, EventStore, EventStoreExt, StreamId},
};
use aios_store::{
    ExpiredEvents, Retention,
    sqlite::{SqliteOptions, SqliteStore},
};
use futures_util::future::join;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::retention::PauseClock;

crate::fixture::retention::retention_cases!(SqliteStore::connect("sqlite::memory:").await.unwrap());

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::connect_with(SqliteOptions::file(path)).await.unwrap()
}

fn append(stream: &str, event_type: &str, filler: usize) -> Append {
    let data = json!({ "version": 1, "result": "x".repeat(filler) });
    let event = Event::new(event_type.parse().unwrap(), "test", &data).unwrap();
    Append::new(StreamId::new(stream).unwrap(), vec![event])
}

/// Appends finished runs with 10 KB of payload each, and another event.
async fn fill(store: &SqliteStore, runs: usize) {
    for run in 0..runs {
        let stream = format!("runs/{run}");
        store.append_one(append(&stream, "workflows.deploy.started", 0)).await.unwrap();
        store.append_one(append(&stream, "workflows.deploy.completed", 10_000)).await.unwrap();
    }
    store.append_one(append("orders", "orders.order.placed", 0)).await.unwrap();
}

fn every_run() -> Retention {
    Retention::new(Duration::ZERO).with_pause(Duration::ZERO)
}

#[tokio::test]
async fn should_archive_events_unchanged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = open(&path).await;
    fill(&store, 1).await;
    let policy = every_run().with_expired(ExpiredEvents::Archive);
    assert_eq!(store.expire_runs(&policy).await.unwrap(), 1);
    drop(store);
    let connection = Connection::open(&path).unwrap();
    let sql = "SELECT stream, version, type, payload FROM archived_events ORDER BY position";
    let mut find = connection.prepare(sql).unwrap();
    let archived: Vec<(String, i64, String, String)> = find
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let (started, completed) = (&archived[0], &archived[1]);
    assert_eq!((&*started.0, started.1, &*started.2), ("runs/0", 1, "workflows.deploy.started"));
    assert_eq!(
        (completed.1, completed.3.len()),
        (2, 10_000 + r#"{"result":"","version":1}"#.len())
    );
    let incarnations = "SELECT count(DISTINCT incarnation) FROM archived_events";
    assert_eq!(connection.query_row(incarnations, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_compact_while_events_are_appended() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = open(&path).await;
    fill(&store, 300).await;
    assert_eq!(store.expire_runs(&every_run()).await.unwrap(), 300);
    let appending = async {
        for _ in 0..50 {
            store.append_one(append("orders", "orders.order.placed", 10)).await.unwrap();
        }
    };
    let (freed, ()) = join(store.compact(), appending).await;
    assert!(freed.unwrap() > 4_000_000);
    store.compact().await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1_000_000);
    assert_eq!(store.read_log(0, 100).await.unwrap().len(), 51);
    drop(store);
    let store = open(&path).await;
    assert_eq!(store.head().await.unwrap(), 651);
    let in_memory = SqliteStore::connect("sqlite::memory:").await.unwrap();
    in_memory.compact().await.unwrap();
    assert_eq!(in_memory.compact().await.unwrap(), 0, "nothing is left to free");
}

#[tokio::test]
async fn should_examine_each_kept_run_once() {
    let clock = Arc::new(PauseClock::default());
    let options = SqliteOptions::memory().with_clock(Arc::clone(&clock) as _);
    let store = SqliteStore::connect_with(options).await.unwrap();
    crate::fixture::retention::should_examine_each_kept_run_once(&store, clock).await;
}
