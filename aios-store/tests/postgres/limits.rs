//! Timeouts of statements, locks and connections.

use std::time::Duration;

use aios_core::{
    failure::Failure,
    store::{Append, EventStoreExt, Leases, ReadModels, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection};

use super::event;

/// Shorter than every other timeout.
pub(super) const SHORT: Duration = Duration::from_millis(100);

/// Locks a table until the connection is dropped.
async fn lock_table(server: &PostgresServer, table: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(&lock).execute(&mut connection).await.unwrap();
    connection
}

/// Returns the error message of a store with these options that does not get a lock.
pub(super) async fn lock_error(server: &PostgresServer, options: PostgresOptions) -> String {
    let schema = server.new_name();
    PostgresStore::connect_with(direct(server).with_schema(&schema)).await.unwrap();
    let options = options.with_schema(&schema);
    let store = PostgresStore::connect_with(options).await.unwrap();
    let _lock = lock_table(server, &format!("{schema}.leases")).await;
    let error = store.leases().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    Failure::from_error(error.code(), &error).message
}

fn direct(server: &PostgresServer) -> PostgresOptions {
    PostgresOptions::new(&server.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_waiting_for_a_lock_after_the_timeout() {
    let Some(server) = PostgresServer::shared() else { return };
    let message = lock_error(server, direct(server).with_lock_timeout(SHORT)).await;
    assert!(message.contains("lock timeout"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_statement_after_the_timeout() {
    let Some(server) = PostgresServer::shared() else { return };
    let message = lock_error(server, direct(server).with_statement_timeout(SHORT)).await;
    assert!(message.contains("statement timeout"), "{message}");
}

/// A role or a database may have this limit, which ends the session.
#[tokio::test(flavor = "multi_thread")]
async fn should_migrate_and_rebuild_whatever_the_limit_of_idle_transactions() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let url = format!("{}&options=-c%20idle_in_transaction_session_timeout%3D1", server.url());
    let options = PostgresOptions::new(&url).with_schema(&schema);
    let store = PostgresStore::connect_with(options).await.unwrap();
    store.append_one(Append::new(StreamId::new("a").unwrap(), vec![event()])).await.unwrap();
    store.rebuild().await.unwrap();
}

/// Deleting the rows of a large table takes longer than other statements.
#[tokio::test(flavor = "multi_thread")]
async fn should_rebuild_large_tables_whatever_the_limit_of_statements() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let options = direct(server).with_schema(&schema);
    let store = PostgresStore::connect_with(options.clone()).await.unwrap();
    store.append_one(Append::new(StreamId::new("a").unwrap(), vec![event()])).await.unwrap();
    let store = PostgresStore::connect_with(options.with_statement_timeout(SHORT)).await.unwrap();
    server.sql(&format!(
        "CREATE FUNCTION {schema}.sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep(3); RETURN NULL;
         END $$;
         CREATE TRIGGER sleep BEFORE DELETE ON {schema}.agents
         FOR EACH STATEMENT EXECUTE FUNCTION {schema}.sleep()"
    ));
    store.rebuild().await.unwrap();
}

/// An end of the session, a fault of the server's disk or a statement that is not prepared there does not
/// concern the statement.
#[tokio::test(flavor = "multi_thread")]
async fn should_append_although_the_session_can_not() {
    let Some(server) = PostgresServer::shared() else { return };
    for code in ["25P03", "25P04", "26000", "58000", "58030"] {
        let schema = server.new_name();
        let options = direct(server).with_schema(&schema);
        let store = PostgresStore::connect_with(options).await.unwrap();
        // A sequence counts rolled back transactions too.
        server.sql(&format!(
            "CREATE SEQUENCE {schema}.attempts;
             CREATE FUNCTION {schema}.interrupt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('{schema}.attempts') < 3 THEN RAISE 'no' USING ERRCODE = '{code}'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER interrupt BEFORE INSERT ON {schema}.events
             FOR EACH ROW EXECUTE FUNCTION {schema}.interrupt()"
        ));
        let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
        assert_eq!(store.append_one(append).await.unwrap().version, 1, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_connecting_to_a_silent_server_after_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://me@{}/db", listener.local_addr().unwrap());
    let options = PostgresOptions::new(&url).with_connect_timeout(SHORT);
    let error = PostgresStore::connect_with(options).await.unwrap_err();
    assert_eq!(error.to_string(), "the store did not connect within 100ms");
}
