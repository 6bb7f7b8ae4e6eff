//! Failovers to a standby.

use aios_core::{
    event::Timestamp,
    store::{
        Append, Checkpoints, EventStore, EventStoreExt, Leases, PageRequest, ReadModels, RunFilter,
        Shard, StoreError, StreamId, Unsettled, Waits,
    },
};
use aios_store::postgres::PostgresStore;
use aios_tests::postgres::PostgresServer;
use futures_util::FutureExt;
use sqlx::postgres::PgPoolOptions;

use super::event;

fn stream() -> StreamId {
    StreamId::new("a").unwrap()
}

async fn append(store: &PostgresStore, events: usize) -> u64 {
    let events = (0..events).map(|_| event()).collect();
    store.append_one(Append::new(stream(), events)).await.unwrap().position
}

/// Every read of the store.
async fn reads(store: &PostgresStore) -> Vec<(&'static str, Option<StoreError>)> {
    let (all, page) = (RunFilter::default(), PageRequest::first(10));
    let shards = [Shard::new(1).unwrap()];
    let due = store.due_runs(&shards, None, Timestamp::UNIX_EPOCH, 10);
    vec![
        ("read_log", store.read_log(0, 10).await.err()),
        ("read_log_except", store.read_log_except(0, 10, &[]).await.err()),
        ("read_stream", store.read_stream(&stream(), 0, 10).await.err()),
        ("read_streams", store.read_streams(&[stream()], 10).await.err()),
        ("head", store.head().await.err()),
        ("load_checkpoint", store.load_checkpoint("reader").await.err()),
        ("load_checkpoint", store.load_checkpoint("other reader").await.err()),
        ("checkpoints", store.checkpoints().await.err()),
        ("leases", store.leases().await.err()),
        ("workflows", store.workflows(&page).await.err()),
        ("runs", store.runs(&all, &page).await.err()),
        ("due_runs", due.await.err()),
        ("unnoted", store.unsettled_runs(&shards, Unsettled::Unnoted, &page).await.err()),
        ("outdated", store.unsettled_runs(&shards, Unsettled::Outdated, &page).await.err()),
    ]
}

/// A standby may lag behind. The connections that lead to it are replaced once another server is there.
#[tokio::test(flavor = "multi_thread")]
async fn should_read_nothing_from_a_standby() {
    let Some(server) = PostgresServer::start() else { return };
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    append(&store, 3).await;
    store.save_checkpoint("reader", 2).await.unwrap();
    let mut standby = server.standby();
    let passed_in = || PgPoolOptions::new().connect_lazy(&standby.url()).unwrap();
    for refused in [
        PostgresStore::connect(&standby.url()).boxed(),
        PostgresStore::from_pool(passed_in()).boxed(),
    ] {
        let error = refused.await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(format!("{error:?}").contains("the server is a standby"), "{error:?}");
    }
    server.kill();
    standby.take_place_of(&server);
    for (call, error) in reads(&store).await {
        let error = error.unwrap_or_else(|| panic!("{call} reads from a standby"));
        assert!(error.is_retryable(), "{call}: {error:?}");
        assert!(format!("{error:?}").contains("the server is a standby"), "{call}: {error:?}");
    }
    let waiting = store.wait_for(3).await.unwrap_err();
    assert!(waiting.is_retryable(), "{waiting:?}");
    standby.promote();
    for (call, error) in reads(&store).await {
        assert!(error.is_none(), "{call}: {error:?}");
    }
    assert_eq!(append(&store, 1).await, 4);
}
