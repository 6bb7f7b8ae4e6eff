//! A database that an earlier version wrote.

use aios_store::sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::fixture::old_schema;

#[tokio::test]
async fn should_read_back_what_an_earlier_version_wrote() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../fixture/old/sqlite.sql")).unwrap();
    drop(old);
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    old_schema::check(&store).await;
}
