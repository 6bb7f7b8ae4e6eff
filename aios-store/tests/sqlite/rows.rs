//! Rows that this version would not write.

use aios_store::sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::fixture::{bad_rows, old_log};

#[tokio::test]
async fn should_rebuild_from_journals_with_events_after_the_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    old_log::write(&store).await;
    drop(store);
    Connection::open(&path).unwrap().execute(old_log::RENAME, []).unwrap();
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    old_log::assert_healed(&store).await;
}

#[tokio::test]
async fn should_list_other_rows_beside_an_unreadable_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    bad_rows::write(&store).await;
    drop(store);
    let connection = Connection::open(&path).unwrap();
    for sql in bad_rows::BREAK {
        assert_eq!(connection.execute(sql, []).unwrap(), 1);
    }
    drop(connection);
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    bad_rows::assert_contained(&store).await;
}
