use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use aios_core::{
    event::Event,
    store::{
        Append, Appended, Checkpoints, Epoch, EventStore, EventStoreExt, Leases, OwnerId,
        PageRequest, ReadModels, RunFilter, Shard, StoreError, StreamId,
    },
};
use aios_store::sqlite::{SqliteOptions, SqliteStore};
use serde_json::json;
use tempfile::TempDir;

fn database_path() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios ü.db");
    (folder, path)
}

async fn open(path: &PathBuf) -> Result<SqliteStore, StoreError> {
    SqliteStore::connect_with(SqliteOptions::file(path)).await
}

fn start(run: &str) -> Append {
    let event_type = "workflows.deploy.started".parse().unwrap();
    let event = Event::new(event_type, "test", &json!({ "version": 1 })).unwrap();
    Append::new(StreamId::of_run(run).unwrap(), vec![event])
}

#[tokio::test]
async fn should_keep_everything_when_opened_again() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    let append = start("r1");
    let first = store.append_one(append.clone()).await.unwrap();
    store.save_checkpoint("reader", 7).await.unwrap();
    let log = store.read_log(0, 10).await.unwrap();
    drop(store);
    let store = open(&path).await.unwrap();
    assert_eq!(store.read_log(0, 10).await.unwrap(), log);
    let repeated = Appended { repeated: true, ..first };
    assert_eq!(store.append_one(append).await.unwrap(), repeated);
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), 7);
    assert_eq!(store.append_one(start("r1")).await.unwrap().version, 2);
    let runs = store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(runs.rows.len(), 1);
}

#[tokio::test]
async fn should_release_the_file_when_it_is_closed_although_it_is_still_held() {
    let (_folder, path) = database_path();
    let store = Arc::new(open(&path).await.unwrap());
    let held = Arc::clone(&store);
    let waiting = tokio::spawn(async move { held.wait_for(1).await });
    let held = Arc::clone(&store);
    let to_be_released = tokio::spawn(async move { held.wait_for_release(0).await });
    let appended = store.append_one(start("r1")).await.unwrap();
    assert_eq!(appended.position, 1);
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(StoreError::Closed)));
    assert!(matches!(to_be_released.await.unwrap(), Err(StoreError::Closed)));
    assert!(matches!(store.append_one(start("r2")).await, Err(StoreError::Closed)));
    assert!(matches!(store.read_log(0, 1).await, Err(StoreError::Closed)));
    assert!(matches!(store.head().await, Err(StoreError::Closed)));
    assert!(matches!(store.load_checkpoint("reader").await, Err(StoreError::Closed)));
    let again = open(&path).await.unwrap();
    assert_eq!(again.read_log(0, 10).await.unwrap().len(), 1);
    // The files of the closed store are gone, and do not disturb the open one.
    drop(store);
    assert_eq!(again.append_one(start("r2")).await.unwrap().position, 2);
    assert!(matches!(open(&path).await, Err(StoreError::Locked { .. })));
}

#[tokio::test]
async fn should_commit_what_it_accepted_before_it_was_closed() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    let appends = (0..100).map(|number| store.append_one(start(&format!("r{number}"))));
    let all = futures_util::future::join_all(appends);
    let (appended, closed) = futures_util::join!(all, store.close());
    closed.unwrap();
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    assert_eq!(open(&path).await.unwrap().head().await.unwrap(), 100);
}

#[tokio::test]
async fn should_free_the_shards_of_a_process_that_died_and_still_fence_it_off() {
    let (_folder, path) = database_path();
    let (shards, hour) = ([Shard::new(1).unwrap()], Duration::from_secs(3600));
    let store = open(&path).await.unwrap();
    let lost = store.acquire(&shards, &OwnerId::new("first"), hour).await.unwrap().remove(0);
    drop(store);
    let store = open(&path).await.unwrap();
    assert!(store.leases().await.unwrap().is_empty());
    let taken = store.acquire(&shards, &OwnerId::new("second"), hour).await.unwrap();
    assert_eq!(taken[0].epoch, Epoch(2));
    let error = store.append_one(start("r1").with_fence(lost.fence())).await.unwrap_err();
    assert_eq!(error.code(), "FENCED");
}

#[tokio::test]
async fn should_refuse_a_second_owner_of_the_file() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(&error, StoreError::Locked { database } if database.contains("aios ü.db")));
    store.append_one(start("r1")).await.unwrap();
    drop(store);
    open(&path).await.unwrap();
}

#[tokio::test]
async fn should_wait_for_the_lock_of_the_file() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    let options = SqliteOptions::file(&path).with_lock_wait(Duration::from_secs(60));
    let waiting = tokio::spawn(SqliteStore::connect_with(options));
    tokio::task::yield_now().await;
    drop(store);
    let store = waiting.await.unwrap().unwrap();
    store.append_one(start("r1")).await.unwrap();
}

#[tokio::test]
async fn should_report_a_file_that_is_not_a_database() {
    let (_folder, path) = database_path();
    fs::write(&path, "This is a text file and not a database. ".repeat(200)).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error:?}");
}

/// The text of a statement, here of the whole migration, tells a user nothing.
#[tokio::test]
async fn should_report_the_database_of_another_program_without_sql() {
    let (_folder, path) = database_path();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE events (number INTEGER)").unwrap();
    drop(other);
    let error = open(&path).await.unwrap_err();
    let chain = aios_core::Chain(&error).to_string();
    assert!(chain.contains("migrate the database: table events already exists"), "{chain}");
    assert!(!chain.contains("CREATE TABLE"), "{chain}");
}

#[tokio::test]
async fn should_report_a_damaged_file() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    for number in 0..200 {
        store.append_one(start(&format!("r{number}"))).await.unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = match open(&path).await {
        Ok(store) => store.read_log(0, 1000).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn should_refuse_and_not_change_a_newer_database() {
    let (_folder, path) = database_path();
    drop(open(&path).await.unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let sql = "INSERT INTO aios_migrations (version, name, created_at) VALUES (999, 'later', 0)";
    connection.execute(sql, []).unwrap();
    drop(connection);
    let error = open(&path).await.unwrap_err();
    assert!(matches!(&error, StoreError::NewerSchema { found: 999, .. }), "{error:?}");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'events'";
    assert_eq!(connection.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test]
async fn should_connect_by_url() {
    let (_folder, path) = database_path();
    let url = format!("sqlite://{}", path.display());
    let store = aios_store::connect(&url).await.unwrap();
    Arc::clone(&store).append(vec![start("r1")]).await.remove(0).unwrap();
    drop(store);
    assert_eq!(SqliteStore::connect(&url).await.unwrap().head().await.unwrap(), 1);
}

#[tokio::test]
async fn should_show_the_log_in_a_readable_form() {
    let (_folder, path) = database_path();
    let store = open(&path).await.unwrap();
    let mut append = start("r1");
    append.events[0].timestamp = "2024-01-01T00:00:00.000042Z".parse().unwrap();
    let id = append.events[0].id.to_string();
    store.append_one(append).await.unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let sql = "SELECT concat_ws(' ', position, id, stream, version, type, source, created_at, data)
               FROM event_log";
    let line: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    let rest =
        r#"runs/r1 1 workflows.deploy.started test 2024-01-01T00:00:00.000042Z {"version":1}"#;
    assert_eq!(line, format!("1 {id} {rest}"));
}
