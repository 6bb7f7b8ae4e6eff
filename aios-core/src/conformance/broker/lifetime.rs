//! The lifetimes of groups.

use super::{Capability, Harness};
use crate::broker::Publish;

/// Nothing remains of a temporary group, neither its route nor its events.
pub async fn should_drop_a_temporary_group_with_its_last_subscription(harness: Harness<'_>) {
    if harness.lacks(Capability::Temporary) || harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let mut first = harness.subscribe(harness.all("g").temporary()).await;
    let second = harness.subscribe(harness.all("g").temporary()).await;
    drop(second);
    harness.quiet().await;
    harness.publish(1..=2).await;
    assert_eq!(first.numbers(1).await, [1]);
    drop(first);
    until_unroutable(&harness).await;
    harness.subscribe(harness.all("g").temporary()).await.none().await;
}

/// A group keeps the lifetime it was declared with.
pub async fn should_refuse_another_lifetime(harness: Harness<'_>) {
    if harness.lacks(Capability::Temporary) {
        return;
    }
    let mut reader = harness.subscribe(harness.all("g")).await;
    let answer = harness.broker.subscribe(harness.all("g").temporary());
    let error = harness.within("refuse", answer).await.unwrap_err();
    assert_eq!(error.code(), "INCOMPATIBLE_SUBSCRIPTION");
    harness.publish([1]).await;
    assert_eq!(reader.numbers(1).await, [1]);
}

async fn until_unroutable(harness: &Harness<'_>) {
    for _ in 0..20 {
        let publish = Publish::new(harness.event("thing.happened", 9)).with_required_route();
        match &harness.try_publish(vec![publish]).await[0] {
            Err(error) => return assert_eq!(error.code(), "UNROUTABLE"),
            Ok(()) => harness.quiet().await,
        }
    }
    panic!("the temporary group does not go");
}
