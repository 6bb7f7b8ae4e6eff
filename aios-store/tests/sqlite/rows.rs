//! Rows that this version would not write.

use aios_core::{
    event::Event,
    store::{Append, EventStoreExt, PageRequest, ReadModels, RunFilter, StreamId},
};
use aios_store::sqlite::{SqliteOptions, SqliteStore};
use futures_util::future::{join, join_all};
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

#[tokio::test]
async fn should_append_while_a_rebuild_meets_an_unreadable_event() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    bad_rows::write(&store).await;
    drop(store);
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE events SET payload = '{\"half' WHERE position = 2", []).unwrap();
    drop(connection);
    let store = SqliteStore::connect_with(SqliteOptions::file(&path)).await.unwrap();
    let before = store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap();
    let appends = (0..300).map(|number| {
        let stream = StreamId::new(format!("orders/{number}")).unwrap();
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        store.append_one(Append::new(stream, vec![event]))
    });
    let (appended, rebuilt) = join(join_all(appends), store.rebuild()).await;
    assert_eq!(rebuilt.unwrap_err().code(), "INVALID_ROW");
    for result in appended {
        result.unwrap();
    }
    let after = store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(before.rows, after.rows, "the rebuild changed nothing");
}
