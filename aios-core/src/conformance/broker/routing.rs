//! The receivers of an event.

use super::{Capability, Harness};
use crate::broker::{Publish, Subscription};

/// Each group gets each event.
pub async fn should_deliver_to_every_group(harness: Harness<'_>) {
    let mut readers = Vec::new();
    for name in ["a", "b", "c"] {
        readers.push(harness.subscribe(harness.all(name)).await);
    }
    harness.publish(1..=3).await;
    for reader in &mut readers {
        assert_eq!(reader.numbers(3).await, [1, 2, 3]);
        reader.none().await;
    }
}

/// A group gets the types its patterns match and no others.
pub async fn should_follow_patterns(harness: Harness<'_>) {
    for (index, (pattern, numbers)) in [
        ("order.placed", &[1][..]),
        ("order.*", &[1, 2]),
        ("*.placed", &[1, 3]),
        ("#", &[1, 2, 3]),
        ("#.placed", &[1, 3]),
        ("*", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let group = harness.group(&format!("g{index}"));
        let subscription = Subscription::group(group, [harness.pattern(pattern)]);
        let mut reader = harness.subscribe(subscription).await;
        let types = [("order.placed", 1), ("order.paid", 2), ("bid.placed", 3)];
        harness
            .publish_events(types.map(|(kind, number)| harness.event(kind, number)).into())
            .await;
        assert_eq!(reader.numbers(numbers.len()).await, numbers, "{pattern}");
        reader.none().await;
    }
}

/// Patterns that overlap do not multiply events.
pub async fn should_deliver_once_however_many_patterns_match(harness: Harness<'_>) {
    let patterns = ["#", "thing.*", "thing.happened"].map(|pattern| harness.pattern(pattern));
    let mut reader = harness.subscribe(Subscription::group(harness.group("g"), patterns)).await;
    harness.publish([1]).await;
    assert_eq!(reader.numbers(1).await, [1]);
    reader.none().await;
}

/// Another subscription to a group adds its patterns.
pub async fn should_add_patterns_to_a_group(harness: Harness<'_>) {
    let subscription =
        |pattern| Subscription::group(harness.group("g"), [harness.pattern(pattern)]);
    let mut first = harness.subscribe(subscription("order.placed")).await;
    harness.publish_events(vec![harness.event("order.paid", 1)]).await;
    first.none().await;
    drop(harness.subscribe(subscription("order.paid")).await);
    harness.quiet().await;
    harness
        .publish_events(vec![harness.event("order.paid", 2), harness.event("order.placed", 3)])
        .await;
    assert_eq!(first.numbers(2).await, [2, 3]);
}

/// A group keeps events until a consumer subscribes.
pub async fn should_keep_events_while_no_consumer_is_subscribed(harness: Harness<'_>) {
    harness.declare(harness.all("g")).await;
    harness.publish(1..=100).await;
    let numbers = harness.subscribe(harness.all("g")).await.numbers(100).await;
    assert_eq!(numbers, Vec::from_iter(1..=100));
}

/// An event without subscribers is an error only where a route is required.
pub async fn should_report_an_unroutable_event(harness: Harness<'_>) {
    if harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let event = harness.event("thing.happened", 1);
    let event_type = event.event_type.to_string();
    let missing = harness.mailbox("missing");
    let required = Publish::new(event.clone()).with_required_route();
    let batch = vec![required.clone(), required.with_mailbox(missing), Publish::new(event)];
    let answers = harness.try_publish(batch).await;
    for answer in &answers[..2] {
        let error = answer.as_ref().unwrap_err();
        assert_eq!(error.code(), "UNROUTABLE");
        assert!(error.to_string().contains(&event_type), "{error}");
    }
    assert!(answers[2].is_ok());
}

/// A group that waits for its consumers counts as a subscriber.
pub async fn should_count_a_durable_group_without_consumer_as_route(harness: Harness<'_>) {
    harness.declare(harness.all("g")).await;
    let publish = Publish::new(harness.event("thing.happened", 1)).with_required_route();
    assert!(harness.try_publish(vec![publish]).await[0].is_ok());
    assert_eq!(harness.subscribe(harness.all("g")).await.numbers(1).await, [1]);
}

/// One event that fails does not affect the others of its batch.
pub async fn should_answer_in_the_order_of_the_batch(harness: Harness<'_>) {
    if harness.lacks(Capability::RequiredRoute) {
        return;
    }
    let subscription = Subscription::group(harness.group("g"), [harness.pattern("thing.*")]);
    let mut reader = harness.subscribe(subscription).await;
    let batch = [("thing.a", 1), ("other.a", 2), ("thing.b", 3), ("other.b", 4), ("thing.c", 5)];
    let batch = batch.map(|(kind, n)| Publish::new(harness.event(kind, n)).with_required_route());
    let answers = harness.try_publish(batch.into()).await;
    let taken: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true, false, true]);
    assert_eq!(reader.numbers(3).await, [1, 3, 5]);
}
