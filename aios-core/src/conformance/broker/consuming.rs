//! The guarantees of a subscription.

use std::{future::poll_fn, pin::pin, task::Poll};

use futures_util::FutureExt;

use super::{
    Harness,
    harness::{number, sorted},
};
use crate::broker::{DeadLetterFilter, Subscription};

/// Each event goes to one consumer of the group, and a busy consumer leaves events to the other.
pub async fn should_share_a_group_between_consumers(harness: Harness<'_>) {
    let other = harness.connect().await;
    let one_at_a_time = || harness.all("g").with_prefetch(1);
    let mut first = harness.subscribe(one_at_a_time()).await;
    let mut second = harness.subscribe_on(&other, one_at_a_time()).await;
    harness.publish(1..=10).await;
    let held = first.next().await;
    let mut numbers = second.numbers(9).await;
    second.none().await;
    numbers.push(number(&held));
    harness.within("acknowledge", held.ack()).await.unwrap();
    assert_eq!(sorted(numbers), Vec::from_iter(1..=10));
    first.none().await;
}

/// No more deliveries than the prefetch are unsettled at a time; settling makes room.
pub async fn should_hold_back_beyond_the_prefetch(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g").with_prefetch(2)).await;
    harness.publish(1..=4).await;
    let first = reader.expect(1, 1).await;
    let second = reader.expect(2, 1).await;
    reader.none().await;
    harness.within("acknowledge", second.ack()).await.unwrap();
    let third = reader.expect(3, 1).await;
    reader.none().await;
    harness.within("acknowledge", first.ack()).await.unwrap();
    harness.within("acknowledge", third.ack()).await.unwrap();
    assert_eq!(reader.numbers(1).await, [4]);
}

/// A handler that disappears does not use up an attempt.
pub async fn should_give_back_a_dropped_delivery(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish([1]).await;
    drop(reader.expect(1, 1).await);
    drop(reader.expect(1, 1).await);
    assert_eq!(reader.numbers(1).await, [1]);
    reader.none().await;
}

/// A delivery is marked as redelivered if a handler released it, if it was unsettled when its
/// connection was lost, or if it was retried or redriven. A first delivery is not.
pub async fn should_mark_redelivered_events(harness: Harness<'_>) {
    let other = harness.connect().await;
    let subscription = || harness.all("g").with_prefetch(1);
    let mut lost = harness.subscribe_on(&other, subscription()).await;
    harness.publish(1..=1).await;
    let released = lost.expect(1, 1).await;
    assert!(!released.redelivered, "it is new");
    harness.within("release", released.release()).await.unwrap();
    let held = lost.expect(1, 1).await;
    assert!(held.redelivered, "it was released");
    drop(other);
    drop(lost);
    drop(held);
    let mut reader = harness.subscribe(subscription()).await;
    let first = reader.expect(1, 1).await;
    assert!(first.redelivered, "its connection was lost");
    // Not before: the broker may notice the lost connection after the next reader has subscribed.
    harness.publish(2..=2).await;
    harness.within("retry", first.retry(Some(harness.delay()), "again")).await.unwrap();
    let second = reader.expect(2, 1).await;
    assert!(!second.redelivered, "it is delivered for the first time");
    harness.within("acknowledge", second.ack()).await.unwrap();
    harness.pass(harness.delay()).await;
    let again = reader.expect(1, 2).await;
    assert!(again.redelivered, "it was retried");
    harness.within("give up", again.dead_letter("unfit")).await.unwrap();
    let letters = harness.dead_letters(harness.group("g")).await;
    harness.within("redrive", letters.redrive(DeadLetterFilter::All)).await.unwrap();
    let redriven = reader.expect(1, 1).await;
    assert!(redriven.redelivered, "it was redriven");
    harness.within("acknowledge", redriven.ack()).await.unwrap();
}

/// Unsettled deliveries of a lost connection go to others, and do not count as an attempt.
pub async fn should_redeliver_unsettled_events_of_a_lost_connection(harness: Harness<'_>) {
    let other = harness.connect().await;
    let mut lost = harness.subscribe_on(&other, harness.all("g").with_prefetch(3)).await;
    harness.publish(1..=5).await;
    let held = [lost.expect(1, 1).await, lost.expect(2, 1).await];
    drop(other);
    drop(lost);
    drop(held);
    let mut reader = harness.subscribe(harness.all("g")).await;
    let mut numbers = Vec::new();
    while numbers.len() < 5 {
        let delivery = reader.next().await;
        assert_eq!(delivery.attempt, 1);
        numbers.push(number(&delivery));
        harness.within("acknowledge", delivery.ack()).await.unwrap();
    }
    assert_eq!(sorted(numbers), Vec::from_iter(1..=5));
    reader.none().await;
}

/// Events that wait inside a subscription go to others when it ends.
pub async fn should_release_prefetched_events_of_a_dropped_subscription(harness: Harness<'_>) {
    let mut first = harness.subscribe(harness.all("g").with_prefetch(50)).await;
    harness.publish(1..=50).await;
    assert_eq!(first.numbers(1).await, [1]);
    let mut second = harness.subscribe(harness.all("g")).await;
    drop(first);
    assert_eq!(sorted(second.numbers(49).await), Vec::from_iter(2..=50));
    second.none().await;
}

/// A call of `subscribe` that is cancelled at any point takes no events.
pub async fn should_leave_no_consumer_of_a_cancelled_subscription(harness: Harness<'_>) {
    // Declares the group, which keeps what is published from now on.
    drop(harness.subscribe(harness.all("g")).await);
    for polls in 0.. {
        let subscribing = harness.broker.subscribe(harness.all("g").with_prefetch(50));
        let subscribed = polled(polls, subscribing).await;
        let is_complete = subscribed.is_some();
        drop(subscribed);
        harness.publish([polls]).await;
        let mut reader = harness.subscribe(harness.all("g")).await;
        assert_eq!(reader.numbers(1).await, [polls]);
        if is_complete {
            break;
        }
    }
}

/// The output of a future that completes within this number of polls after the first. Otherwise it is
/// dropped.
async fn polled<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A delivery remains valid after its subscription has ended.
pub async fn should_settle_after_the_subscription_is_gone(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish([1, 2]).await;
    let first = reader.next().await;
    let second = reader.next().await;
    drop(reader);
    harness.within("acknowledge", first.ack()).await.unwrap();
    harness.within("release", second.release()).await.unwrap();
    let mut reader = harness.subscribe(harness.all("g")).await;
    assert_eq!(reader.numbers(1).await, [2]);
    reader.none().await;
}

/// Waiting for a delivery can be cancelled at any time.
pub async fn should_lose_nothing_when_next_is_cancelled(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    let mut numbers = Vec::new();
    for number in 1..=20 {
        reader.none().await;
        harness.publish([number]).await;
        match reader.deliveries.next().now_or_never() {
            None => numbers.extend(reader.numbers(1).await),
            Some(delivery) => {
                let delivery = delivery.unwrap().unwrap();
                numbers.push(super::harness::number(&delivery));
                harness.within("acknowledge", delivery.ack()).await.unwrap();
            }
        }
    }
    assert_eq!(numbers, Vec::from_iter(1..=20));
}

/// A consumer that does not settle delays neither publishers nor other groups.
pub async fn should_not_let_a_slow_consumer_hurt_others(harness: Harness<'_>) {
    let mut slow = harness.subscribe(harness.all("slow").with_prefetch(1)).await;
    let mut fast = harness.subscribe(harness.all("fast")).await;
    harness.publish([0]).await;
    let held = slow.next().await;
    harness.publish(1..=500).await;
    assert_eq!(fast.numbers(501).await, Vec::from_iter(0..=500));
    harness.within("acknowledge", held.ack()).await.unwrap();
    assert_eq!(slow.numbers(500).await, Vec::from_iter(1..=500));
}

/// A subscription that could never deliver is refused at once.
pub async fn should_refuse_an_invalid_subscription(harness: Harness<'_>) {
    let unbound = Subscription::group(harness.group("g"), []);
    for subscription in [harness.all("g").with_prefetch(0), unbound] {
        let error =
            harness.within("refuse", harness.broker.subscribe(subscription)).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_BROKER_CONFIGURATION");
    }
}
