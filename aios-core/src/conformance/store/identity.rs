//! Every store has an identity of its own, created with the first question.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::{Capability, scene::Scene};
use crate::store::EventStoreExt;

/// The answer never changes, also for several who ask first at the same time.
pub async fn should_keep_its_identity(scene: Scene<'_>) {
    let answers = join_all((0..20).map(|_| scene.store.id())).await;
    let ids: HashSet<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    scene.store.rebuild().await.unwrap();
    assert!(ids.contains(&scene.store.id().await.unwrap()));
    assert_eq!(scene.stream("system/store").await.len(), 1);
}

/// Whoever opens the same database sees the same identity.
pub async fn should_share_its_identity_with_every_handle(scene: Scene<'_>) {
    if scene.lacks(Capability::SecondHandle) {
        return;
    }
    let other = scene.connect().await;
    assert_eq!(scene.store.id().await.unwrap(), other.id().await.unwrap());
}
