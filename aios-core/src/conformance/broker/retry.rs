//! Events that are delivered again.

use std::time::Duration;

use super::{Capability, Harness, Place};
use crate::retry::RetryPolicy;

/// A failure is counted, and the event is delivered again after the policy's delay.
pub async fn should_retry_after_the_delay_and_count(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(5, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        for attempt in 1..=2 {
            let delivery = reader.expect(1, attempt).await;
            harness.within("retry", delivery.retry(None, "not yet")).await.unwrap();
            reader.none().await;
            harness.pass(harness.delay()).await;
        }
        let delivery = reader.expect(1, 3).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
        harness.pass(harness.delay()).await;
        reader.none().await;
    }
}

/// A handler may choose the delay.
pub async fn should_retry_after_an_explicit_delay(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(5, harness.delay() * 1000);
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        let delivery = reader.expect(1, 1).await;
        harness.within("retry", delivery.retry(Some(harness.delay()), "soon")).await.unwrap();
        reader.none().await;
        harness.pass(harness.delay()).await;
        let delivery = reader.expect(1, 2).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
    }
}

/// A handler may choose a delay of any length.
pub async fn should_not_deliver_before_the_longest_delay(harness: Harness<'_>) {
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness)).await;
        place.publish(&harness, [1]).await;
        let delivery = reader.expect(1, 1).await;
        let retried = delivery.retry(Some(Duration::MAX), "never again");
        harness.within("retry", retried).await.unwrap();
        harness.pass(harness.delay()).await;
        reader.none().await;
    }
}

/// Delays grow according to the policy.
pub async fn should_wait_longer_each_time(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::new()
            .with_delays(harness.delay(), harness.delay() * 8)
            .with_factor(2.0)
            .with_jitter(0.0);
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        let first = reader.expect(1, 1).await;
        harness.within("retry", first.retry(None, "once")).await.unwrap();
        harness.pass(harness.delay()).await;
        let second = reader.expect(1, 2).await;
        harness.within("retry", second.retry(None, "twice")).await.unwrap();
        harness.pass(harness.delay()).await;
        reader.none().await;
        harness.pass(harness.delay()).await;
        let third = reader.expect(1, 3).await;
        harness.within("acknowledge", third.ack()).await.unwrap();
    }
}

/// An event that waits for its next attempt does not block others, however long the wait is.
pub async fn should_not_hold_back_others_while_one_is_delayed(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(5, harness.delay());
        let subscription = place.subscription(&harness).with_retry(policy).with_prefetch(1);
        let mut reader = harness.subscribe(subscription).await;
        place.publish(&harness, 1..=10).await;
        let far = reader.expect(1, 1).await;
        harness.within("retry", far.retry(Some(harness.delay() * 1000), "far")).await.unwrap();
        let near = reader.expect(2, 1).await;
        harness.within("retry", near.retry(None, "near")).await.unwrap();
        assert_eq!(reader.numbers(8).await, Vec::from_iter(3..=10));
        harness.pass(harness.delay()).await;
        let near = reader.expect(2, 2).await;
        harness.within("acknowledge", near.ack()).await.unwrap();
        reader.none().await;
    }
}

/// Releasing does not count as an attempt, however often; retrying does.
pub async fn should_not_count_a_release(harness: Harness<'_>) {
    for place in Place::BOTH {
        let policy = RetryPolicy::fixed(2, harness.delay());
        let mut reader = harness.subscribe(place.subscription(&harness).with_retry(policy)).await;
        place.publish(&harness, [1]).await;
        for _ in 0..30 {
            let delivery = reader.expect(1, 1).await;
            harness.within("release", delivery.release()).await.unwrap();
        }
        let delivery = reader.expect(1, 1).await;
        harness.within("retry", delivery.retry(None, "counted")).await.unwrap();
        harness.pass(harness.delay()).await;
        let delivery = reader.expect(1, 2).await;
        harness.within("release", delivery.release()).await.unwrap();
        let delivery = reader.expect(1, 2).await;
        harness.within("acknowledge", delivery.ack()).await.unwrap();
    }
}

/// An event that was released keeps its place before those that were not delivered yet.
pub async fn should_deliver_a_released_event_before_later_ones(harness: Harness<'_>) {
    if harness.lacks(Capability::Ordering) {
        return;
    }
    for place in Place::BOTH {
        let mut reader = harness.subscribe(place.subscription(&harness).with_prefetch(1)).await;
        place.publish(&harness, 1..=5).await;
        for _ in 0..3 {
            let delivery = reader.expect(1, 1).await;
            harness.within("release", delivery.release()).await.unwrap();
        }
        assert_eq!(reader.numbers(5).await, [1, 2, 3, 4, 5]);
    }
}
