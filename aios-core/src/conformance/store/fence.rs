//! Only the owner of a shard appends under it.

use futures_util::future::{join, join_all};

use super::harness::{Harness, events, stream};
use crate::{
    store::{Append, Epoch, Fence, OwnerId, Shard, StoreError},
    yield_now,
};

fn fenced(name: &str, fence: Fence) -> Append {
    Append::new(stream(name), events([1])).with_fence(fence)
}

fn is_fenced(error: &StoreError, fence: Fence) -> bool {
    matches!(error, StoreError::Fenced { shard, epoch }
        if (*shard, *epoch) == (fence.shard, fence.epoch))
}

/// The owner appends under its epoch.
pub async fn should_let_the_owner_append(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    harness.try_append(fenced("a", lease.fence())).await.unwrap();
}

/// An engine that missed the end of its lease is refused from then on.
pub async fn should_refuse_an_owner_that_lost_its_shard(harness: Harness<'_>) {
    let lost = harness.take(1, "first").await;
    harness.let_leases_expire().await;
    let taken = harness.take(1, "second").await;
    let error = harness.try_append(fenced("a", lost.fence())).await.unwrap_err();
    assert!(is_fenced(&error, lost.fence()), "{error:?}");
    harness.try_append(fenced("a", taken.fence())).await.unwrap();
    harness.let_leases_expire().await;
    assert!(harness.try_append(fenced("a", lost.fence())).await.is_err());
    assert_eq!(harness.log().await.len(), 1);
}

/// An expired lease still proves ownership, until another owner takes the shard.
pub async fn should_let_the_owner_append_until_another_takes_the_shard(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    harness.let_leases_expire().await;
    harness.try_append(fenced("a", lease.fence())).await.unwrap();
}

/// Without a lease there is no proof.
pub async fn should_refuse_a_shard_that_was_never_owned(harness: Harness<'_>) {
    for epoch in [0, 1] {
        let fence = Fence { shard: Shard::new(5).unwrap(), epoch: Epoch(epoch) };
        let error = harness.try_append(fenced("a", fence)).await.unwrap_err();
        assert!(is_fenced(&error, fence), "{error:?}");
    }
}

/// An invented epoch is not a proof.
pub async fn should_refuse_a_future_epoch(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    for epoch in [0, lease.epoch.0 + 1, u64::MAX] {
        let fence = Fence { epoch: Epoch(epoch), ..lease.fence() };
        let error = harness.try_append(fenced("a", fence)).await.unwrap_err();
        assert!(is_fenced(&error, fence), "{error:?}");
    }
}

/// A fenced-off append fails alone, and the others get the positions that they would have without
/// it.
pub async fn should_fence_off_one_append_alone(harness: Harness<'_>) {
    let lost = harness.take(1, "first").await;
    harness.let_leases_expire().await;
    let taken = harness.take(1, "second").await;
    let batch = vec![
        fenced("a", taken.fence()),
        fenced("b", lost.fence()),
        Append::new(stream("c"), events([2])),
    ];
    let answers = harness.store.append(batch).await;
    assert!(answers[0].is_ok() && answers[1].is_err());
    assert_eq!(answers[2].as_ref().unwrap().position, 2);
}

/// Another owner takes the shard while the previous one appends: once it has it, nothing more is
/// stored under the old epoch.
pub async fn should_store_nothing_of_an_owner_after_another_one_took_the_shard(
    harness: Harness<'_>,
) {
    let harness = &harness;
    let lost = harness.take(1, "first").await.fence();
    harness.let_leases_expire().await;
    let writers = (0..8).map(|writer| async move {
        for _ in 0..100 {
            match harness.try_append(fenced(&format!("s/{writer}"), lost)).await {
                Ok(_) => yield_now().await,
                Err(error) => return assert!(is_fenced(&error, lost), "{error:?}"),
            }
        }
    });
    let taking = async {
        let other = harness.another().await;
        other.wait_for(20).await.unwrap();
        let (shards, owner) = ([Shard::new(1).unwrap()], OwnerId::new("second"));
        let taken = other.acquire(&shards, &owner, harness.lease_time()).await.unwrap();
        assert_eq!(taken.len(), 1);
        harness.log().await.len()
    };
    let (_, stored) = join(join_all(writers), taking).await;
    assert_eq!(harness.log().await.len(), stored);
}
