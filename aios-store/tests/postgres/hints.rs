//! Notifications about the appends of other processes.

use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::VirtualClock,
    store::{Append, EventStore, EventStoreExt, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection};

use super::event;

fn append() -> Append {
    Append::new(StreamId::new("a").unwrap(), vec![event()])
}

/// Appends with one store while another one waits. The clock of the waiting store does not move, so it is
/// only woken by notifications.
pub(super) async fn receive_notifications(options: PostgresOptions) {
    let appender = PostgresStore::connect_with(options.clone()).await.unwrap();
    let clock = Arc::new(VirtualClock::default());
    let waiter = PostgresStore::connect_with(options.with_clock(clock)).await.unwrap();
    for position in 1..=5 {
        let waiting = tokio::spawn({
            let waiter = waiter.clone();
            async move { waiter.wait_for(position - 1).await }
        });
        appender.append_one(append()).await.unwrap();
        let woken = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
        assert_eq!(woken.unwrap().unwrap(), position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wake_a_task_that_waits_in_another_process() {
    let Some(options) = super::options() else { return };
    receive_notifications(options).await;
}

/// Number of calls of statements that match a pattern.
fn calls(server: &PostgresServer, like: &str) -> u64 {
    let sql =
        format!("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '{like}'");
    server.sql(&sql).parse().unwrap()
}

const APPEND: &str = r#"SELECT%"aios".append%($1, %"#;

const NOTIFY: &str = "%pg_notify(%";

/// A server that counts statements, and a store.
async fn counted() -> Option<(PostgresServer, PostgresStore)> {
    let server = PostgresServer::start_with(&["shared_preload_libraries=pg_stat_statements"])?;
    server.sql("CREATE EXTENSION pg_stat_statements");
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    Some((server, store))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_at_most_one_hint_per_batch() {
    let Some((server, store)) = counted().await else { return };
    for _ in 0..20 {
        let results = join_all((0..50).map(|_| store.append_one(append()))).await;
        assert!(results.iter().all(Result::is_ok));
    }
    while calls(&server, NOTIFY) == 0 {
        tokio::task::yield_now().await;
    }
    let batches = calls(&server, APPEND);
    let hints = calls(&server, NOTIFY);
    assert!(hints <= batches && batches < 1000, "{hints} hints, {batches} batches");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_send_cancelled_appends() {
    let Some((server, store)) = counted().await else { return };
    store.append_one(append()).await.unwrap();
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let lock = "BEGIN; LOCK TABLE aios.events IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append_one(append()).await }
    });
    while server.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        let cancelled = store.append_one(append());
        tokio::time::timeout(Duration::from_millis(20), cancelled).await.unwrap_err();
    }
    connection.close().await.unwrap();
    assert_eq!(appending.await.unwrap().unwrap().position, 2);
    store.close().await.unwrap();
    assert_eq!(calls(&server, APPEND), 2);
}

/// As in a failover to a server that lagged behind. Positions that were read are given to other events.
#[tokio::test(flavor = "multi_thread")]
async fn should_fail_readers_of_a_log_that_has_lost_events() {
    let Some((server, store)) = counted().await else { return };
    for _ in 0..3 {
        store.append_one(append()).await.unwrap();
    }
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(3).await }
    });
    server.sql("DELETE FROM aios.events WHERE position > 1");
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), "STORE_LOST_EVENTS");
    assert_eq!(store.wait_for(0).await.unwrap_err().code(), "STORE_LOST_EVENTS");
}

/// The log grows past what was known before a poll sees that it had become shorter.
#[tokio::test(flavor = "multi_thread")]
async fn should_fail_readers_when_an_append_gets_a_position_that_was_known() {
    let Some((server, store)) = counted().await else { return };
    for _ in 0..3 {
        store.append_one(append()).await.unwrap();
    }
    server.sql("DELETE FROM aios.events WHERE position > 1");
    let appended = store.append_one(Append::new(append().stream, vec![event(), event(), event()]));
    assert_eq!(appended.await.unwrap().position, 4);
    assert_eq!(store.wait_for(3).await.unwrap_err().code(), "STORE_LOST_EVENTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_readers_when_a_known_position_has_another_event() {
    let Some((server, store)) = counted().await else { return };
    for _ in 0..3 {
        store.append_one(append()).await.unwrap();
    }
    server.sql("DELETE FROM aios.events WHERE position > 1");
    let other = PostgresStore::connect(&server.url()).await.unwrap();
    for _ in 0..3 {
        other.append_one(append()).await.unwrap();
    }
    assert_eq!(store.wait_for(3).await.unwrap_err().code(), "STORE_LOST_EVENTS");
    assert_eq!(other.wait_for(3).await.unwrap(), 4);
}
