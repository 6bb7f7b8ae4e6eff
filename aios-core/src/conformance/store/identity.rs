//! Every store has its own identity, which is created when it is first requested.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::{Capability, harness::Harness};
use crate::store::EventStoreExt;

/// The identity never changes, even if several callers request it first at the same time.
pub async fn should_keep_its_identity(harness: Harness<'_>) {
    let answers = join_all((0..20).map(|_| harness.store.id())).await;
    let ids: HashSet<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    harness.store.rebuild().await.unwrap();
    assert!(ids.contains(&harness.store.id().await.unwrap()));
    assert_eq!(harness.stream("system/store").await.len(), 1);
}

/// All handles of the same database see the same identity.
pub async fn should_share_its_identity_with_every_handle(harness: Harness<'_>) {
    if harness.lacks(Capability::SecondHandle) {
        return;
    }
    let other = harness.connect().await;
    assert_eq!(harness.store.id().await.unwrap(), other.id().await.unwrap());
}
