//! Servers that are read-only for a while, such as a former primary after a failover.

use std::time::Duration;

use aios_core::store::{Append, Checkpoints, EventStore, EventStoreExt, StreamId};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;

use super::event;

const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE usename = 'writer' AND pid <> pg_backend_pid()";

/// A server, and a store whose sessions are all read-only.
async fn read_only_store() -> Option<(PostgresServer, PostgresStore)> {
    let server = PostgresServer::start()?;
    server.sql("CREATE ROLE writer SUPERUSER LOGIN");
    let url = server.url().replace("aios:secret", "writer");
    let options = PostgresOptions::new(&url);
    let options = options.with_append_timeout(Duration::from_secs(600));
    let store = PostgresStore::connect_with(options).await.unwrap();
    store.append_one(append()).await.unwrap();
    server.sql("ALTER ROLE writer SET default_transaction_read_only = on");
    server.sql(TERMINATE);
    join_all((0..10).map(|_| store.head())).await;
    Some((server, store))
}

fn append() -> Append {
    Append::new(StreamId::new("a").unwrap(), vec![event()])
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replace_read_only_connections_when_it_appends() {
    let Some((server, store)) = read_only_store().await else { return };
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append_one(append()).await }
    });
    let refused =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'writer' AND query LIKE '%append%'";
    while server.sql(refused) == "0" && server.sql("SELECT count(*) FROM aios.events") == "1" {
        tokio::task::yield_now().await;
    }
    server.sql("ALTER ROLE writer RESET default_transaction_read_only");
    assert_eq!(appending.await.unwrap().unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replace_read_only_connections_for_any_statement() {
    let Some((server, store)) = read_only_store().await else { return };
    let error = store.save_checkpoint("reader", 1).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    join_all((0..10).map(|_| store.head())).await;
    server.sql("ALTER ROLE writer RESET default_transaction_read_only");
    store.save_checkpoint("reader", 1).await.unwrap();
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), 1);
    assert_eq!(store.append_one(append()).await.unwrap().version, 2);
}
