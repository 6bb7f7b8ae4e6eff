use aios_core::{
    event::Event,
    store::{
        Append, EventStore, EventStoreExt, Leases, OwnerId, PageRequest, ReadModels, RunFilter,
        Shard, StoreError, StreamId,
    },
};
use aios_store::sqlite::{SqliteOptions, SqliteStore};
use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;

const MEBIBYTE: u64 = 1024 * 1024;

fn start(run: &str, filler: usize) -> Append {
    let data = json!({ "version": 1, "input": "x".repeat(filler) });
    let event = Event::new("workflows.deploy.started".parse().unwrap(), "test", &data).unwrap();
    Append::new(StreamId::of_run(run).unwrap(), vec![event])
}

async fn small(folder: &TempDir) -> SqliteStore {
    let options = SqliteOptions::file(folder.path().join("aios.db"));
    SqliteStore::connect_with(options.with_max_database_bytes(MEBIBYTE)).await.unwrap()
}

/// Checks that positions are dense, and that every run in the log has a row.
async fn assert_whole(store: &SqliteStore) {
    let log = store.read_log(0, 10_000).await.unwrap();
    let positions: Vec<_> = log.iter().map(|recorded| recorded.position).collect();
    assert_eq!(positions, (1..=positions.len() as u64).collect::<Vec<_>>());
    let runs = store.runs(&RunFilter::default(), &PageRequest::first(10_000)).await.unwrap();
    assert_eq!(runs.rows.len(), log.len());
    assert_eq!(store.head().await.unwrap(), log.len() as u64);
}

#[tokio::test]
async fn should_answer_every_caller_and_append_all_or_nothing_when_the_disk_is_full() {
    let folder = TempDir::new().unwrap();
    let store = small(&folder).await;
    let mut stored = 0_u64;
    let mut refused = 0;
    for round in 0..40 {
        let appends = (0..20).map(|n| store.append_one(start(&format!("{round}/{n}"), 3000)));
        for result in join_all(appends).await {
            match result {
                Ok(_) => stored += 1,
                Err(StoreError::Full { .. }) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(store.head().await.unwrap(), stored);
    }
    assert!(stored > 20 && refused > 20, "{stored} stored, {refused} refused");
    assert_whole(&store).await;
    assert!(full_error(&store).await.is_retryable());
}

/// Appends an event that does not fit into the database.
async fn full_error(store: &SqliteStore) -> StoreError {
    store.append_one(start("large", 2 * 1024 * 1024)).await.unwrap_err()
}

#[tokio::test]
async fn should_refuse_only_the_call_that_does_not_fit() {
    let folder = TempDir::new().unwrap();
    let store = small(&folder).await;
    let appends = (0..20).map(|n| {
        let filler = if n == 10 { 2 * MEBIBYTE } else { 10 };
        store.append_one(start(&n.to_string(), usize::try_from(filler).unwrap()))
    });
    let results = join_all(appends).await;
    for (n, result) in results.into_iter().enumerate() {
        let code = result.as_ref().map_err(StoreError::code).map(drop);
        assert_eq!(code, if n == 10 { Err("STORE_FULL") } else { Ok(()) }, "{n}");
    }
    assert_whole(&store).await;
}

#[tokio::test]
async fn should_publish_no_head_of_a_transaction_that_failed() {
    let folder = TempDir::new().unwrap();
    let store = small(&folder).await;
    let results = store.append(vec![start("a", 10), start("b", 2 * 1024 * 1024)]).await;
    assert!(results.iter().all(|result| matches!(result, Err(StoreError::Full { .. }))));
    store.compact().await.unwrap();
    assert_whole(&store).await;
}

#[tokio::test]
async fn should_continue_after_a_failed_commit() {
    let folder = TempDir::new().unwrap();
    let store = small(&folder).await;
    let hour = std::time::Duration::from_secs(3600);
    let lease = store
        .acquire(&[Shard::new(1).unwrap()], &OwnerId::new("me"), hour)
        .await
        .unwrap()
        .remove(0);
    store.append_one(start("first", 10)).await.unwrap();
    assert_eq!(full_error(&store).await.code(), "STORE_FULL");
    let results = join_all((0..10).map(|n| {
        let append = start(&format!("later/{n}"), 10).with_fence(lease.fence());
        store.append_one(append)
    }));
    assert!(results.await.into_iter().all(|result| result.is_ok()));
    assert_eq!(store.append_one(start("first", 10)).await.unwrap().version, 2);
    let log = store.read_log(0, 100).await.unwrap();
    assert_eq!(log.last().map(|recorded| recorded.position), Some(12));
}
