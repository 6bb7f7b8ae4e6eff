//! Opening a database: migrations, options and errors.

use std::{process::Command, time::Duration};

use aios_core::{
    failure::Failure,
    store::{Append, EventStore, EventStoreExt, ReadModels, StoreError, StreamId},
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use sqlx::{
    Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinSet;

use super::{event, options};

#[tokio::test(flavor = "multi_thread")]
async fn should_migrate_once_when_many_open_at_the_same_time() {
    let Some(options) = options() else { return };
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        opening.spawn(PostgresStore::connect_with(options.clone()));
    }
    for (number, store) in (1..).zip(opening.join_all().await) {
        let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
        let appended = store.unwrap().append_one(append).await.unwrap();
        assert_eq!(appended.version, number);
    }
}

/// The key of the lock for a purpose: `migrate`, or `append`.
fn lock(purpose: &str, schema: &str) -> i64 {
    let bytes = format!("aios:{purpose}:{schema}").into_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}

/// The migrations of a large log take longer than any other statement, and so does the wait for another
/// process that migrates.
#[tokio::test(flavor = "multi_thread")]
async fn should_migrate_for_longer_than_the_statement_timeout() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    let options = options.with_statement_timeout(Duration::from_millis(500));
    let options = options.with_lock_timeout(Duration::from_millis(500));
    let mut other = PgConnection::connect(&server.url()).await.unwrap();
    let lock = format!("SELECT pg_advisory_lock({})", lock("migrate", &schema));
    other.execute(&*lock).await.unwrap();
    let migrating = tokio::spawn(async move {
        other.execute("SELECT pg_sleep(4)").await.unwrap();
        other.close().await.unwrap();
    });
    let store = PostgresStore::connect_with(options).await.unwrap();
    assert!(migrating.is_finished());
    assert_eq!(store.head().await.unwrap(), 0);
}

/// A word that SQL reserves is a valid name of a schema.
#[tokio::test(flavor = "multi_thread")]
async fn should_accept_a_reserved_word_as_the_schema() {
    let Some(server) = PostgresServer::shared() else { return };
    for schema in ["order", "user"] {
        let options = PostgresOptions::new(&server.url()).with_schema(schema);
        let store = PostgresStore::connect_with(options.clone()).await.unwrap();
        let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
        assert_eq!(store.append_one(append).await.unwrap().position, 1);
        store.rebuild().await.unwrap();
        let again = PostgresStore::connect_with(options).await.unwrap();
        assert_eq!(again.read_log(0, 10).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_database_that_cannot_hold_every_text() {
    let Some(server) = PostgresServer::shared() else { return };
    for (encoding, is_refused) in [("LATIN1", true), ("SQL_ASCII", false)] {
        let name = server.new_name();
        server.sql(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' \
             TEMPLATE template0"
        ));
        let options = PostgresOptions::new(&format!("{}&dbname={name}", server.url()));
        match PostgresStore::connect_with(options).await {
            Ok(_) => assert!(!is_refused, "{encoding}"),
            Err(error) => {
                assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{encoding}: {error:?}");
                assert!(is_refused && error.to_string().contains("LATIN1"), "{error}");
            }
        }
    }
}

/// A server with a database that an earlier version wrote.
fn old_server() -> Option<PostgresServer> {
    let server = PostgresServer::start()?;
    server.script(include_str!("../fixture/old/postgres.sql"));
    Some(server)
}

/// Opens a session and runs statements in it.
async fn session(server: &PostgresServer, sql: &str) -> PgConnection {
    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    session.execute(sql).await.unwrap();
    session
}

/// Waits until this many sessions wait for a lock of this type on a table, or for any lock of this type.
async fn wait_for_waiting(server: &PostgresServer, lock: &str, sessions: &str) {
    let sql = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND {lock}");
    while server.sql(&sql) != sessions {
        tokio::task::yield_now().await;
    }
}

/// A migration and an append of a running process lock the same tables in different orders.
#[tokio::test(flavor = "multi_thread")]
async fn should_migrate_while_other_processes_append() {
    let Some(server) = old_server() else { return };
    let mut reader = session(&server, "BEGIN; SELECT FROM aios.archived_events").await;
    let opening = tokio::spawn(PostgresStore::connect_with(PostgresOptions::new(&server.url())));
    wait_for_waiting(&server, "relation = 'aios.archived_events'::regclass", "1").await;
    let mut appender = session(&server, "SET deadlock_timeout = '1h'").await;
    let append = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({}); LOCK aios.events IN ROW EXCLUSIVE MODE; \
         UPDATE aios.workflow_runs SET position = position; COMMIT",
        lock("append", "aios")
    );
    let appending = tokio::spawn(async move { appender.execute(&*append).await });
    wait_for_waiting(&server, "true", "2").await;
    let held = server.sql("SELECT locktype FROM pg_locks WHERE NOT granted ORDER BY locktype");
    reader.execute("COMMIT").await.unwrap();
    opening.await.unwrap().unwrap();
    appending.await.unwrap().unwrap();
    assert_eq!(held, "advisory\nrelation");
}

/// The server resolves a deadlock by ending the session that has waited for a second.
#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_a_migration_that_was_ended_because_of_a_deadlock() {
    let Some(server) = old_server() else { return };
    let mut reader = session(&server, "BEGIN; SELECT FROM aios.archived_events").await;
    let opening = tokio::spawn(PostgresStore::connect_with(PostgresOptions::new(&server.url())));
    wait_for_waiting(&server, "relation = 'aios.archived_events'::regclass", "1").await;
    let lock = "SET deadlock_timeout = '1h'; BEGIN; SELECT FROM aios.events";
    let mut other = session(&server, lock).await;
    let reading =
        tokio::spawn(async move { other.execute("SELECT FROM aios.workflow_runs; COMMIT").await });
    wait_for_waiting(&server, "relation = 'aios.workflow_runs'::regclass", "1").await;
    reader.execute("COMMIT").await.unwrap();
    opening.await.unwrap().unwrap();
    reading.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_newer_schema() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    PostgresStore::connect_with(options.clone()).await.unwrap().close().await.unwrap();
    let sql = format!("INSERT INTO {schema}.migrations (version, name) VALUES (4711, 'later')");
    assert_eq!(server.sql(&sql), "");
    let error = PostgresStore::connect_with(options).await.unwrap_err();
    assert_eq!(error.code(), "NEWER_SCHEMA");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_use_a_pool_and_leave_it_open() {
    let Some(server) = PostgresServer::shared() else { return };
    let pool = PgPoolOptions::new().connect(&server.url()).await.unwrap();
    let options = PostgresOptions::from_pool(pool.clone()).with_schema(&server.new_name());
    let store = PostgresStore::connect_with(options).await.unwrap();
    let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
    assert_eq!(store.append_one(append).await.unwrap().position, 1);
    store.close().await.unwrap();
    assert!(!pool.is_closed());
    assert_eq!(store.head().await.unwrap_err().code(), "STORE_CLOSED");
}

/// A store on a pool of that many connections.
async fn on_pool(server: &PostgresServer, connections: u32) -> Result<PostgresStore, StoreError> {
    let pool = PgPoolOptions::new().max_connections(connections).connect(&server.url()).await;
    let options = PostgresOptions::from_pool(pool.unwrap()).with_schema(&server.new_name());
    PostgresStore::connect_with(options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_pool_that_is_too_small_to_read_and_append() {
    let Some(server) = PostgresServer::shared() else { return };
    let error = on_pool(server, 1).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
    assert!(error.to_string().contains("at least 2"), "{error}");
    let store = on_pool(server, 2).await.unwrap();
    let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
    store.append_one(append).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_to_append_on_an_old_snapshot() {
    let Some(server) = PostgresServer::shared() else { return };
    let connect: PgConnectOptions = server.url().parse().unwrap();
    let connect = connect.options([("default_transaction_isolation", r"repeatable\ read")]);
    let pool = PgPoolOptions::new().connect_with(connect).await.unwrap();
    let options = PostgresOptions::from_pool(pool).with_schema(&server.new_name());
    let store = PostgresStore::connect_with(options).await.unwrap();
    let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
    let error = store.append_one(append).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_BACKEND", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_open_by_scheme_and_report_a_refused_connection() {
    let Some(server) = PostgresServer::shared() else { return };
    assert_eq!(aios_store::connect(&server.url()).await.unwrap().head().await.unwrap(), 0);
    let error = aios_store::connect("postgres://aios@127.0.0.1:1/none").await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let message = Failure::from_error(error.code(), &error).message;
    assert!(message.contains("onnection refused"), "{message}");
    assert!(message.contains("127.0.0.1:1"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_a_missing_database_once_and_how_to_create_it() {
    let Some(server) = PostgresServer::shared() else { return };
    let url = server.url().replace("/postgres?", "/missing?");
    let error = PostgresStore::connect(&url).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    let message = Failure::from_error(error.code(), &error).message;
    assert!(message.contains("createdb missing") && !message.contains(" line "), "{message}");
    assert_eq!(message.matches("does not exist").count(), 1, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_use_an_empty_schema_that_the_role_owns() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    server.sql(&format!("CREATE ROLE {schema} LOGIN"));
    let url = server.url().replace("aios:secret", &schema);
    let options = PostgresOptions::new(&url).with_schema(&schema);
    let error = PostgresStore::connect_with(options.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_BACKEND", false));
    server.sql(&format!("CREATE SCHEMA {schema} AUTHORIZATION {schema}"));
    let store = PostgresStore::connect_with(options).await.unwrap();
    let append = Append::new(StreamId::new("a").unwrap(), vec![event()]);
    assert_eq!(store.append_one(append).await.unwrap().position, 1);
}

/// Logical replication copies rows, and leaves sequences where they were.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_the_numbers_of_names_after_a_logical_replication() {
    let Some(server) = PostgresServer::shared() else { return };
    let (schema, role) = (server.new_name(), server.new_name());
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    let store = PostgresStore::connect_with(options.clone()).await.unwrap();
    store.append_one(Append::new(StreamId::new("a").unwrap(), vec![event()])).await.unwrap();
    store.close().await.unwrap();
    server.sql(&format!(
        "ALTER SEQUENCE {schema}.streams_id_seq RESTART;
         ALTER SEQUENCE {schema}.event_types_id_seq RESTART;
         ALTER SEQUENCE {schema}.event_sources_id_seq RESTART;
         CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
    ));
    let url = server.url().replace("aios:secret", &role);
    let service = PostgresOptions::new(&url).with_schema(&schema);
    let error = PostgresStore::connect_with(service.clone()).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{error}");
    assert!(error.to_string().contains("the owner of the schema"), "{error}");
    PostgresStore::connect_with(options).await.unwrap();
    let store = PostgresStore::connect_with(service).await.unwrap();
    let mut other = event();
    other.event_type = "orders.order.paid".parse().unwrap();
    other.source = "another".into();
    let append = Append::new(StreamId::new("b").unwrap(), vec![event(), other]);
    assert_eq!(store.append_one(append).await.unwrap().position, 3);
}

const URL: &str = "AIOS_TEST_BARE_URL";

/// The process that the next test starts.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started as a process by another test"]
async fn opening_process() {
    #[allow(clippy::disallowed_methods, reason = "the parent process sets the variable")]
    let Ok(url) = std::env::var(URL) else { return };
    aios_store::connect(&url).await.unwrap().head().await.unwrap();
}

#[test]
fn should_ignore_the_environment_variables_of_libpq() {
    let Some(server) = PostgresServer::shared() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "postgres::opening::opening_process"]);
    command.env(URL, format!("postgres://postgres:x@127.0.0.1:{}", server.port()));
    for (name, value) in [
        ("PGDATABASE", "elsewhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "nowhere.pem"),
        ("PGAPPNAME", "another"),
        ("PGPASSFILE", "nowhere"),
    ] {
        command.env(name, value);
    }
    server.sql("CREATE ROLE postgres SUPERUSER LOGIN");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
