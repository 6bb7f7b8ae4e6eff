//! Closing a store, and opening it again.

use std::collections::BTreeMap;

use futures_util::future::{join, join_all};

use super::{
    Capability,
    harness::{Harness, events, stream},
};
use crate::store::{
    Append, Epoch, EventStoreExt, OwnerId, PageRequest, RecordedEvent, RunFilter, Shard, StoreError,
};

/// Everything that was answered before the store was closed, and what it had accepted by then, is
/// there when it is opened again.
pub async fn should_keep_what_it_answered_before_it_was_closed(harness: Harness<'_>) {
    if harness.lacks(Capability::Durability) {
        return;
    }
    let harness = &harness;
    let lease = harness.take(1, "owner").await;
    harness.store.save_checkpoint("reader", 7).await.unwrap();
    let first = harness.append("s/0", events(0..5)).await;
    let writers = (0..40_u64).map(|number| async move {
        let append = Append::new(stream(&format!("s/{}", number % 7)), events([number]));
        let id = append.events[0].id.clone();
        (id, harness.try_append(append).await)
    });
    let (answers, closed) = join(join_all(writers), harness.store.close()).await;
    closed.unwrap();

    let store = harness.connect().await;
    let log = store.read_log(0, 1_000).await.unwrap();
    let place = |read: RecordedEvent| (read.event.id, (read.version, read.position));
    let stored: BTreeMap<_, _> = log.into_iter().map(place).collect();
    assert!(stored.values().any(|place| *place == (first.version, first.position)));
    for (id, answer) in answers {
        match answer {
            Ok(at) => assert_eq!(stored.get(&id), Some(&(at.version, at.position))),
            Err(error) => assert_eq!(error.code(), "STORE_CLOSED", "{error:?}"),
        }
    }
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), 7);
    // An owner that was closed may have lost its leases, but no epoch is used again.
    harness.let_leases_expire().await;
    let (shards, owner) = ([lease.shard], OwnerId::new("next owner"));
    let taken = store.acquire(&shards, &owner, harness.lease_time()).await.unwrap();
    assert_eq!(taken[0].epoch, Epoch(lease.epoch.0 + 1));
    let next = store.append_one(Append::new(stream("after"), events([1]))).await.unwrap();
    assert_eq!(next.position, stored.len() as u64 + 1);
}

/// Calls that come after the store was closed say so, and change nothing.
pub async fn should_refuse_calls_after_it_was_closed(harness: Harness<'_>) {
    if harness.lacks(Capability::Durability) {
        return;
    }
    let store = &harness.store;
    harness.append("a", events([1])).await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    let (shards, owner) = ([Shard::new(1).unwrap()], OwnerId::new("late"));
    let (all, page) = (RunFilter::default(), PageRequest::first(1));
    let late = Append::new(stream("a"), events([2]));
    let answers: [(&str, Option<StoreError>); 9] = [
        ("append", harness.try_append(late).await.err()),
        ("read_log", store.read_log(0, 10).await.err()),
        ("read_stream", store.read_stream(&stream("a"), 0, 10).await.err()),
        ("head", store.head().await.err()),
        ("acquire", store.acquire(&shards, &owner, harness.lease_time()).await.err()),
        ("leases", store.leases().await.err()),
        ("load_checkpoint", store.load_checkpoint("reader").await.err()),
        ("save_checkpoint", store.save_checkpoint("reader", 1).await.err()),
        ("runs", store.runs(&all, &page).await.err()),
    ];
    for (call, error) in answers {
        assert_eq!(error.as_ref().map(StoreError::code), Some("STORE_CLOSED"), "{call}: {error:?}");
    }
    let store = harness.connect().await;
    assert_eq!(store.read_log(0, 10).await.unwrap().len(), 1);
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), 0);
}
