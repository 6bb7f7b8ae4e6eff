//! How long groups live.

use super::{Capability, Scene};
use crate::broker::Publish;

/// Nothing is left of a temporary group, neither its route nor its events.
pub async fn should_drop_a_temporary_group_with_its_last_subscription(scene: Scene<'_>) {
    if scene.lacks(Capability::Temporary) || scene.lacks(Capability::RequiredRoute) {
        return;
    }
    let mut first = scene.subscribe(scene.all("g").temporary()).await;
    let second = scene.subscribe(scene.all("g").temporary()).await;
    drop(second);
    scene.quiet().await;
    scene.publish(1..=2).await;
    assert_eq!(first.numbers(1).await, [1]);
    drop(first);
    until_unroutable(&scene).await;
    scene.subscribe(scene.all("g").temporary()).await.none().await;
}

/// A group keeps the lifetime it was declared with.
pub async fn should_refuse_another_lifetime(scene: Scene<'_>) {
    if scene.lacks(Capability::Temporary) {
        return;
    }
    let mut reader = scene.subscribe(scene.all("g")).await;
    let answer = scene.broker.subscribe(scene.all("g").temporary());
    let error = scene.within("refuse", answer).await.unwrap_err();
    assert_eq!(error.code(), "INCOMPATIBLE_SUBSCRIPTION");
    scene.publish([1]).await;
    assert_eq!(reader.numbers(1).await, [1]);
}

async fn until_unroutable(scene: &Scene<'_>) {
    for _ in 0..20 {
        let publish = Publish::new(scene.event("thing.happened", 9)).with_required_route();
        match &scene.try_publish(vec![publish]).await[0] {
            Err(error) => return assert_eq!(error.code(), "UNROUTABLE"),
            Ok(()) => scene.quiet().await,
        }
    }
    panic!("the temporary group does not go");
}
