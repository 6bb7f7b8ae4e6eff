//! Temporary ownership of shards.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{join, join_all},
};

use super::{Capability, harness::Harness};
use crate::store::{Epoch, Lease, OwnerId, Shard};

fn shards(leases: &[Lease]) -> BTreeSet<u16> {
    leases.iter().map(|lease| lease.shard.number()).collect()
}

/// Shards without a previous owner begin with epoch 1.
pub async fn should_take_free_shards_under_the_first_epoch(harness: Harness<'_>) {
    let leases = harness.acquire(&[0, 63, Shard::RELAY.number()], "first").await;
    assert_eq!(shards(&leases), BTreeSet::from([0, 63, Shard::RELAY.number()]));
    for lease in leases {
        assert_eq!((lease.epoch, lease.owner), (Epoch(1), OwnerId::new("first")));
    }
}

/// A shard that is owned is left out, without an error.
pub async fn should_leave_out_shards_of_another_owner(harness: Harness<'_>) {
    harness.take(1, "first").await;
    let leases = harness.acquire(&[1, 2], "second").await;
    assert_eq!(shards(&leases), BTreeSet::from([2]));
}

/// An owner that asks again, in time or late, keeps its epoch.
pub async fn should_keep_the_epoch_of_an_owner(harness: Harness<'_>) {
    let first = harness.take(1, "first").await;
    assert_eq!(harness.take(1, "first").await.epoch, first.epoch);
    harness.let_leases_expire().await;
    let again = harness.take(1, "first").await;
    assert_eq!(again.epoch, first.epoch);
    assert!(again.expires_at > first.expires_at);
}

/// Each change of owner increments the epoch by one.
pub async fn should_take_over_an_expired_lease_under_the_next_epoch(harness: Harness<'_>) {
    for (epoch, owner) in (1..).zip(["first", "second", "first"]) {
        assert_eq!(harness.take(1, owner).await.epoch, Epoch(epoch));
        harness.let_leases_expire().await;
    }
}

/// A renewed lease lasts its full duration from now on.
pub async fn should_renew_from_now_on(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    let renewed =
        harness.store.renew(std::slice::from_ref(&lease), harness.lease_time() * 3).await.unwrap();
    assert_eq!((renewed.len(), renewed[0].epoch), (1, lease.epoch));
    assert!(renewed[0].expires_at > lease.expires_at);
    harness.let_leases_expire().await;
    assert!(harness.acquire(&[1], "second").await.is_empty());
}

/// A lease that another owner holds now is left out.
pub async fn should_not_renew_a_lost_lease(harness: Harness<'_>) {
    let leases = harness.acquire(&[1, 2], "first").await;
    harness.let_leases_expire().await;
    harness.take(1, "second").await;
    let renewed = harness.store.renew(&leases, harness.lease_time()).await.unwrap();
    assert_eq!(shards(&renewed), BTreeSet::from([2]));
    let never = Lease { shard: Shard::new(9).unwrap(), ..leases[0].clone() };
    assert!(harness.store.renew(&[never], harness.lease_time()).await.unwrap().is_empty());
}

/// Renewing late succeeds while no other owner took the shard.
pub async fn should_renew_an_expired_lease_that_was_not_taken(harness: Harness<'_>) {
    let lease = harness.take(1, "first").await;
    harness.let_leases_expire().await;
    let renewed = harness.store.renew(&[lease], harness.lease_time()).await.unwrap();
    assert_eq!(shards(&renewed), BTreeSet::from([1]));
    assert!(harness.acquire(&[1], "second").await.is_empty());
}

/// A released shard is free at once.
pub async fn should_hand_over_what_was_released(harness: Harness<'_>) {
    let leases = harness.acquire(&[1, 2], "first").await;
    harness.store.release(&leases).await.unwrap();
    assert!(harness.store.leases().await.unwrap().is_empty());
    let taken = harness.acquire(&[1, 2], "second").await;
    assert_eq!(shards(&taken), BTreeSet::from([1, 2]));
    assert!(taken.iter().all(|lease| lease.epoch == Epoch(2)));
}

/// A caller that waits for leases is notified of a release at once, even of one before the wait.
pub async fn should_notify_of_releases(harness: Harness<'_>) {
    if harness.lacks(Capability::ReleaseNotifications) {
        return;
    }
    let leases = harness.acquire(&[1, 2], "first").await;
    let mut waiting = pin!(harness.store.wait_for_release(0));
    assert!(waiting.as_mut().now_or_never().is_none());
    let (seen, released) = join(waiting, harness.store.release(&leases)).await;
    released.unwrap();
    let seen = seen.unwrap();
    assert!(seen > 0);
    assert_eq!(harness.store.wait_for_release(0).await.unwrap(), seen);
    assert!(harness.store.wait_for_release(seen).now_or_never().is_none());
}

/// A release through one handle wakes another one.
pub async fn should_notify_other_handles_of_releases(harness: Harness<'_>) {
    if harness.lacks(Capability::SecondHandle) || harness.lacks(Capability::ReleaseNotifications) {
        return;
    }
    let other = harness.connect().await;
    let mut waiting = pin!(other.wait_for_release(0));
    // The first notifications may arrive before the other handle listens.
    loop {
        let lease = harness.take(1, "first").await;
        harness.store.release(&[lease]).await.unwrap();
        if let Some(seen) = waiting.as_mut().now_or_never() {
            return assert!(seen.unwrap() > 0);
        }
        harness.pass(Duration::from_millis(20)).await;
    }
}

/// An owner that lost a shard can't release it.
pub async fn should_not_release_a_shard_that_another_owner_took(harness: Harness<'_>) {
    let lost = harness.take(1, "first").await;
    harness.let_leases_expire().await;
    harness.take(1, "second").await;
    harness.store.release(&[lost]).await.unwrap();
    assert!(harness.acquire(&[1], "third").await.is_empty());
}

/// The list contains the current leases, with owner and epoch.
pub async fn should_list_what_has_not_expired(harness: Harness<'_>) {
    assert!(harness.store.leases().await.unwrap().is_empty());
    harness.take(1, "first").await;
    harness.let_leases_expire().await;
    let held = harness.acquire(&[2, 3], "second").await;
    let mut listed = harness.store.leases().await.unwrap();
    listed.sort_by_key(|lease| lease.shard);
    assert_eq!(listed, held);
}

/// Concurrent owners share the shards; no shard has two owners.
pub async fn should_assign_each_shard_to_one_of_many_owners(harness: Harness<'_>) {
    let all: Vec<u16> = (0..64).collect();
    let names: Vec<_> = (0..8).map(|rival| format!("rival-{rival}")).collect();
    let taken = join_all(names.iter().map(|name| harness.acquire(&all, name))).await.concat();
    assert_eq!((taken.len(), shards(&taken).len()), (64, 64));
}

/// The names of owners may contain any character. U+001A is the one with which an adapter escapes others.
pub async fn should_keep_nul_characters_in_names_of_owners(harness: Harness<'_>) {
    if harness.lacks(Capability::NulCharacters) {
        return;
    }
    let owners = ["\0", "a\0", "a\u{1a}", "a\u{1a}0"];
    let mut leases = Vec::new();
    for (shard, owner) in (0..).zip(owners) {
        let lease = harness.take(shard, owner).await;
        assert_eq!(lease.owner.as_str(), owner);
        assert!(harness.acquire(&[shard], "a").await.is_empty(), "{owner:?} has it");
        assert_eq!(harness.take(shard, owner).await.epoch, lease.epoch, "{owner:?}");
        leases.push(lease);
    }
    let listed = harness.store.leases().await.unwrap();
    assert!(listed.iter().map(|lease| lease.owner.as_str()).eq(owners), "{listed:?}");
    let renewed = harness.store.renew(&leases, harness.lease_time()).await.unwrap();
    assert!(renewed.iter().map(|lease| lease.owner.as_str()).eq(owners), "{renewed:?}");
    harness.store.release(&renewed).await.unwrap();
    assert!(harness.store.leases().await.unwrap().is_empty());
}
