//! Faults of a database that the check of a store finds.

use std::path::Path;

use aios_core::{
    event::Event,
    store::{Append, EventStore, PageRequest, ReadModels, RunFilter, StreamId},
};
use aios_store::{
    VerifyFault,
    sqlite::{SqliteOptions, SqliteStore},
    verify,
};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::connect_with(SqliteOptions::file(path)).await.unwrap()
}

async fn start(store: &SqliteStore, runs: usize) {
    let start = |run| {
        let event_type = "workflows.deploy.started".parse().unwrap();
        let event = Event::new(event_type, "test", &json!({ "version": 1 })).unwrap();
        Append::new(StreamId::of_run(&format!("r{run}")).unwrap(), vec![event])
    };
    let appended = store.append((0..runs).map(start).collect()).await;
    assert!(appended.iter().all(Result::is_ok));
}

fn change(path: &Path, sql: &str, changed: usize) {
    assert_eq!(Connection::open(path).unwrap().execute(sql, []).unwrap(), changed);
}

#[tokio::test]
async fn should_find_rows_that_are_missing_after_a_full_page() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = open(&path).await;
    start(&store, 1002).await;
    let page = store.runs(&RunFilter::default(), &PageRequest::first(1000)).await.unwrap();
    let rest = store.runs(&RunFilter::default(), &page.next.unwrap()).await.unwrap().rows;
    drop(store);
    let ids = format!("('{}', '{}')", rest[0].id, rest[1].id);
    change(&path, &format!("DELETE FROM workflow_runs WHERE external_id IN {ids}"), 2);
    let found = verify(&open(&path).await, |_, _| ()).await.unwrap();
    let [VerifyFault::ReadModel { table: "workflow_runs", id, .. }] = &*found.faults else {
        panic!("{found:?}")
    };
    assert_eq!(*id, rest[0].id);
}

#[tokio::test]
async fn should_list_events_that_cannot_be_read_beside_other_faults() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("aios.db");
    let store = open(&path).await;
    start(&store, 300).await;
    drop(store);
    let broken = [3, 4, 150, 300];
    change(
        &path,
        "UPDATE events SET payload = '{\"half' WHERE position IN (3, 4, 150, 300)",
        broken.len(),
    );
    change(&path, "DELETE FROM events WHERE position = 200", 1);
    let found = verify(&open(&path).await, |_, _| ()).await.unwrap();
    let unreadable = found.faults.iter().filter_map(|fault| match fault {
        VerifyFault::Unreadable { position, .. } => Some(*position),
        _ => None,
    });
    assert_eq!(unreadable.collect::<Vec<_>>(), broken);
    let gaps = found.faults.iter().filter_map(|fault| match fault {
        VerifyFault::Gap { from, to, .. } => Some((*from, *to)),
        _ => None,
    });
    assert_eq!(gaps.collect::<Vec<_>>(), [(200, 200)]);
    assert_eq!((found.events, found.unreadable, found.gaps), (295, 4, 1));
    let text = found.faults[0].to_string();
    assert!(text.starts_with("the event at position 3 can't be read: "), "{text}");
}
