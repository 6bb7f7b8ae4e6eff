//! The guarantees of publishing.

use futures_util::future::join_all;

use super::{Capability, Harness, harness::sorted};
use crate::{
    broker::{Publish, Subscription},
    event::Payload,
};

/// An event over the size limit is refused, and the others of its batch are accepted.
pub async fn should_refuse_an_event_that_is_too_large(harness: Harness<'_>) {
    if harness.lacks(Capability::SizeLimit) {
        return;
    }
    let mut reader = harness.subscribe(harness.all("g")).await;
    let mut large = harness.event("thing.happened", 1);
    large.payload = Payload::encode(&"x".repeat(harness.too_many_bytes())).unwrap();
    let batch = [harness.event("thing.happened", 2), large, harness.event("thing.happened", 3)];
    let answers = harness.try_publish(batch.map(Publish::new).into()).await;
    assert_eq!(answers[1].as_ref().unwrap_err().code(), "EVENT_TOO_LARGE");
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(reader.numbers(2).await, [2, 3]);
}

/// The metadata that a sender adds is part of the size of the event.
pub async fn should_include_metadata_in_the_size(harness: Harness<'_>) {
    if harness.lacks(Capability::SizeLimit) {
        return;
    }
    let mut reader = harness.subscribe(harness.all("g")).await;
    let mut large = harness.event("thing.happened", 1);
    let note = "x".repeat(harness.too_many_bytes());
    large.metadata_mut().extra.insert("note", &note).unwrap();
    let answers = harness.try_publish(vec![Publish::new(large)]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().code(), "EVENT_TOO_LARGE");
    harness.publish([2]).await;
    assert_eq!(reader.numbers(1).await, [2]);
}

/// The limit applies to the event; its envelope has some room in addition to the data.
pub async fn should_take_an_event_just_below_the_limit(harness: Harness<'_>) {
    if harness.lacks(Capability::SizeLimit) {
        return;
    }
    let mut reader = harness.subscribe(harness.all("g")).await;
    let mut large = harness.event("thing.happened", 1);
    let data = "x".repeat(harness.too_many_bytes().saturating_sub(1024));
    large.payload = Payload::encode(&data).unwrap();
    harness.publish_events(vec![large.clone()]).await;
    let delivery = reader.next().await;
    assert_eq!(delivery.event, large);
    harness.within("acknowledge", delivery.ack()).await.unwrap();
}

/// Without failures, nothing is lost and nothing is duplicated.
pub async fn should_deliver_events_of_many_publishers_exactly_once(harness: Harness<'_>) {
    const PUBLISHERS: u64 = 16;
    const EACH: u64 = 60;
    let mut reader = harness.subscribe(harness.all("g")).await;
    let publishers = (0..PUBLISHERS).map(async |publisher| {
        for first in (0..EACH).step_by(5) {
            harness.publish((first..first + 5).map(|number| publisher * EACH + number)).await;
        }
    });
    join_all(publishers).await;
    let numbers = reader.numbers((PUBLISHERS * EACH).try_into().unwrap()).await;
    assert_eq!(sorted(numbers), Vec::from_iter(0..PUBLISHERS * EACH));
    reader.none().await;
}

/// One publisher, one consumer: the order is preserved, within batches and between them.
pub async fn should_keep_the_order_of_one_publisher(harness: Harness<'_>) {
    if harness.lacks(Capability::Ordering) {
        return;
    }
    let subscription = Subscription::group(harness.group("g"), [harness.pattern("#")]);
    let mut reader = harness.subscribe(subscription.with_prefetch(7)).await;
    for first in (0..1000).step_by(50) {
        harness.publish(first..first + 50).await;
    }
    assert_eq!(reader.numbers(1000).await, Vec::from_iter(0..1000));
}
