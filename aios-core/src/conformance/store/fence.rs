//! Only the owner of a shard appends under it.

use super::scene::{Scene, events, stream};
use crate::store::{Append, Epoch, Fence, Shard, StoreError};

fn fenced(name: &str, fence: Fence) -> Append {
    Append::new(stream(name), events([1])).with_fence(fence)
}

fn is_fenced(error: &StoreError, fence: Fence) -> bool {
    matches!(error, StoreError::Fenced { shard, epoch }
        if (*shard, *epoch) == (fence.shard, fence.epoch))
}

/// The owner appends under its epoch.
pub async fn should_let_the_owner_append(scene: Scene<'_>) {
    let lease = scene.take(1, "first").await;
    scene.try_append(fenced("a", lease.fence())).await.unwrap();
}

/// An engine that slept through its lease is refused from then on.
pub async fn should_refuse_an_owner_that_lost_its_shard(scene: Scene<'_>) {
    let lost = scene.take(1, "first").await;
    scene.let_leases_expire().await;
    let taken = scene.take(1, "second").await;
    let error = scene.try_append(fenced("a", lost.fence())).await.unwrap_err();
    assert!(is_fenced(&error, lost.fence()), "{error:?}");
    scene.try_append(fenced("a", taken.fence())).await.unwrap();
    scene.let_leases_expire().await;
    assert!(scene.try_append(fenced("a", lost.fence())).await.is_err());
    assert_eq!(scene.log().await.len(), 1);
}

/// An expired lease still proves ownership, until another owner takes the shard.
pub async fn should_let_the_owner_append_while_nobody_took_the_shard(scene: Scene<'_>) {
    let lease = scene.take(1, "first").await;
    scene.let_leases_expire().await;
    scene.try_append(fenced("a", lease.fence())).await.unwrap();
}

/// No lease, no proof.
pub async fn should_refuse_a_shard_that_was_never_owned(scene: Scene<'_>) {
    for epoch in [0, 1] {
        let fence = Fence { shard: Shard(5), epoch: Epoch(epoch) };
        let error = scene.try_append(fenced("a", fence)).await.unwrap_err();
        assert!(is_fenced(&error, fence), "{error:?}");
    }
}

/// A made-up epoch is no proof.
pub async fn should_refuse_an_epoch_that_has_not_come(scene: Scene<'_>) {
    let lease = scene.take(1, "first").await;
    for epoch in [0, lease.epoch.0 + 1, u64::MAX] {
        let fence = Fence { epoch: Epoch(epoch), ..lease.fence() };
        let error = scene.try_append(fenced("a", fence)).await.unwrap_err();
        assert!(is_fenced(&error, fence), "{error:?}");
    }
}

/// A fenced append fails alone, and its neighbours land where they would without it.
pub async fn should_fence_off_one_append_alone(scene: Scene<'_>) {
    let lost = scene.take(1, "first").await;
    scene.let_leases_expire().await;
    let taken = scene.take(1, "second").await;
    let batch = vec![
        fenced("a", taken.fence()),
        fenced("b", lost.fence()),
        Append::new(stream("c"), events([2])),
    ];
    let answers = scene.store.append(batch).await;
    assert!(answers[0].is_ok() && answers[1].is_err());
    assert_eq!(answers[2].as_ref().unwrap().position, 2);
}
