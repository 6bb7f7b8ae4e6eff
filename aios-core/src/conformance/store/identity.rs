//! Every store has an identity of its own, created with the first question.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::{Capability, harness::Harness};
use crate::store::EventStoreExt;

/// The answer never changes, also for several who ask first at the same time.
pub async fn should_keep_its_identity(harness: Harness<'_>) {
    let answers = join_all((0..20).map(|_| harness.store.id())).await;
    let ids: HashSet<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    harness.store.rebuild().await.unwrap();
    assert!(ids.contains(&harness.store.id().await.unwrap()));
    assert_eq!(harness.stream("system/store").await.len(), 1);
}

/// Whoever opens the same database sees the same identity.
pub async fn should_share_its_identity_with_every_handle(harness: Harness<'_>) {
    if harness.lacks(Capability::SecondHandle) {
        return;
    }
    let other = harness.connect().await;
    assert_eq!(harness.store.id().await.unwrap(), other.id().await.unwrap());
}
