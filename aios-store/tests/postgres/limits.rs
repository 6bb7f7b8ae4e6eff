//! How long a statement, a lock and a connection may take.

use std::time::Duration;

use aios_core::{failure::Failure, store::Leases};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection};

/// Shorter than anything that would end the wait by itself.
pub(super) const SHORT: Duration = Duration::from_millis(100);

/// Holds a table that the store wants to read, for as long as it is not dropped.
async fn hold(server: &PostgresServer, table: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(&lock).execute(&mut connection).await.unwrap();
    connection
}

/// What a store with these options says that waits for a lock in vain.
pub(super) async fn refusal(server: &PostgresServer, options: PostgresOptions) -> String {
    let schema = server.new_name();
    PostgresStore::connect_with(direct(server).with_schema(&schema).unwrap()).await.unwrap();
    let options = options.with_schema(&schema).unwrap();
    let store = PostgresStore::connect_with(options).await.unwrap();
    let _held = hold(server, &format!("{schema}.leases")).await;
    let error = store.leases().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    Failure::from_error(error.code(), &error).message
}

fn direct(server: &PostgresServer) -> PostgresOptions {
    PostgresOptions::new(&server.url()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_lock_no_longer_than_it_may() {
    let Some(server) = PostgresServer::shared() else { return };
    let message = refusal(server, direct(server).with_lock_timeout(SHORT)).await;
    assert!(message.contains("lock timeout"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_let_a_statement_last_no_longer_than_it_may() {
    let Some(server) = PostgresServer::shared() else { return };
    let message = refusal(server, direct(server).with_statement_timeout(SHORT)).await;
    assert!(message.contains("statement timeout"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_wait_for_a_server_that_says_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://me@{}/db", listener.local_addr().unwrap());
    let options = PostgresOptions::new(&url).unwrap().with_connect_timeout(SHORT);
    let error = PostgresStore::connect_with(options).await.unwrap_err();
    assert_eq!(error.to_string(), "the store did not connect within 100ms");
}
