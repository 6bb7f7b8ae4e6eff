//! Removal of old runs from the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_core::{
    event::{Event, EventId},
    store::{
        Append, Checkpoints, EventStore, EventStoreExt, PageRequest, ReadModels, RunFilter,
        StreamId,
    },
};
use aios_store::postgres::{ExpiredEvents, PostgresOptions, PostgresStore, Retention};
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fixture::retention::PauseClock;

async fn open(server: &PostgresServer, schema: &str) -> PostgresStore {
    let options = PostgresOptions::new(&server.url()).with_schema(schema);
    PostgresStore::connect_with(options).await.unwrap()
}

async fn append(store: &PostgresStore, run: &str, action: &str, data: Value) {
    let event_type = format!("workflows.deploy.{action}").parse().unwrap();
    let event = Event::new(event_type, "test", &data).unwrap();
    store.append_one(Append::new(StreamId::of_run(run).unwrap(), vec![event])).await.unwrap();
}

/// Appends finished runs of three events each, and an open run of two events.
async fn runs(store: &PostgresStore, ended: usize) {
    append(store, "live", "started", json!({"version": 1})).await;
    for run in 0..ended {
        let run = format!("run-{run}");
        append(store, &run, "started", json!({"version": 1})).await;
        append(store, &run, "step_completed", json!({"operation": 1})).await;
        append(store, &run, "completed", json!({"result": 1})).await;
    }
    append(store, "live", "step_completed", json!({"operation": 1})).await;
}

async fn listed(store: &PostgresStore) -> usize {
    store.runs(&RunFilter::default(), &PageRequest::first(100)).await.unwrap().rows.len()
}

mod cases {
    use aios_tests::postgres::PostgresServer;

    crate::fixture::retention::retention_cases!(match PostgresServer::shared() {
        Some(server) => super::open(server, &server.new_name()).await,
        None => return,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn should_archive_events_unchanged() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let store = open(server, &schema).await;
    runs(&store, 1).await;
    let policy = Retention::new(Duration::ZERO).with_expired(ExpiredEvents::Archive);
    assert_eq!(store.expire_runs(&policy).await.unwrap(), 1);
    let sql = format!(
        "SELECT position, stream, version, type, payload FROM {schema}.archived_events ORDER BY 1"
    );
    let archived = server.sql(&sql);
    let last = "4|runs/run-0|3|workflows.deploy.completed|{\"result\":1}";
    assert_eq!((archived.lines().count(), archived.lines().last()), (3, Some(last)));
}

/// Follows the log, saves a checkpoint after each event, and returns the ids of all events.
async fn follow(store: Arc<PostgresStore>, done: Arc<AtomicBool>) -> Vec<EventId> {
    let (mut seen, mut last) = (Vec::new(), 0);
    let mut subscription = Arc::clone(&store).subscribe(0);
    while !(done.load(Ordering::SeqCst) && last == store.head().await.unwrap()) {
        let next = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await;
        let Ok(recorded) = next else { continue };
        let recorded = recorded.unwrap();
        assert_eq!(recorded.position, last + 1);
        last = recorded.position;
        seen.push(recorded.event.id);
        store.save_checkpoint("reader", last).await.unwrap();
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_affect_concurrent_appends_and_readers() {
    let Some(server) = PostgresServer::shared() else { return };
    let store = Arc::new(open(server, &server.new_name()).await);
    store.save_checkpoint("reader", 0).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn(follow(Arc::clone(&store), Arc::clone(&done)));
    let appending: JoinSet<()> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            async move {
                for run in 0..50 {
                    let run = format!("{writer}/{run}");
                    append(&store, &run, "started", json!({"version": 1})).await;
                    append(&store, &run, "completed", json!({"result": 1})).await;
                }
            }
        })
        .collect();
    let appending = tokio::spawn(appending.join_all());
    let policy = Retention::new(Duration::ZERO).with_pause(Duration::ZERO);
    let mut removed = 0;
    while !appending.is_finished() {
        removed += store.expire_runs(&policy).await.unwrap();
    }
    appending.await.unwrap();
    done.store(true, Ordering::SeqCst);
    let seen = reading.await.unwrap();
    removed += store.expire_runs(&policy).await.unwrap();
    assert_eq!((seen.len(), store.head().await.unwrap()), (400, 400));
    // The run with the last event of the log is kept.
    assert_eq!((removed, listed(&store).await), (199, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_examine_each_kept_run_once() {
    let Some(server) = PostgresServer::shared() else { return };
    let clock = Arc::new(PauseClock::default());
    let options = PostgresOptions::new(&server.url()).with_schema(&server.new_name());
    let store = PostgresStore::connect_with(options.with_clock(Arc::clone(&clock) as _)).await;
    crate::fixture::retention::should_examine_each_kept_run_once(&store.unwrap(), clock).await;
}

/// The function that pages through the ended runs is inlined, so that its plan is seen.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_a_page_of_ended_runs_from_a_range_of_an_index() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let _store = open(server, &schema).await;
    let plan = server.sql(&format!(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
         EXPLAIN SELECT * FROM {schema}.ended_runs(now(), now(), '00000000-0000-0000-0000-000000000001', 7)"
    ));
    assert!(plan.contains("Scan using idx_workflow_runs_ended"), "{plan}");
    let range = plan.lines().find(|line| line.contains("Index Cond")).unwrap_or_default();
    assert!(range.contains("updated_at < ") && range.contains("ROW(updated_at, id) > "), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}
