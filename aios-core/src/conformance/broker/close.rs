//! The end of a connection.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, join, select};

use super::{Harness, harness::number};
use crate::broker::{Broker, BrokerExt, Health, Publish};

/// Long enough for every settlement, on any clock.
const LONG: Duration = Duration::from_secs(3600);

/// Closing completes when the last unsettled delivery is settled, not before.
pub async fn should_wait_for_unsettled_deliveries(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish([1]).await;
    let delivery = reader.next().await;
    let close = pin!(harness.broker.close(LONG));
    let Either::Right(((), close)) = select(close, pin!(harness.quiet())).await else {
        panic!("close did not wait for the delivery in hand");
    };
    let (closed, acked) = harness.within("close", join(close, delivery.ack())).await;
    acked.unwrap();
    closed.unwrap();
    let other = harness.connect().await;
    harness.subscribe_on(&other, harness.all("g")).await.none().await;
}

/// A handler may publish its result before it settles.
pub async fn should_publish_while_it_drains(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish([1]).await;
    let delivery = reader.next().await;
    let close = pin!(harness.broker.close(LONG));
    let work = async {
        harness.quiet().await;
        harness.publish([2]).await;
        harness.within("acknowledge", delivery.ack()).await
    };
    let (closed, acked) = harness.within("close", join(close, work)).await;
    acked.unwrap();
    closed.unwrap();
    let other = harness.connect().await;
    assert_eq!(harness.subscribe_on(&other, harness.all("g")).await.numbers(1).await, [2]);
}

/// Deliveries that are unsettled at the deadline go to others.
pub async fn should_give_up_waiting_at_the_deadline(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    harness.publish([1]).await;
    let delivery = reader.next().await;
    let deadline = harness.delay();
    let closing = join(harness.broker.close(deadline), harness.pass(deadline));
    let (closed, ()) = harness.within("close", closing).await;
    assert_eq!(closed.unwrap_err().code(), "BROKER_TIMEOUT");
    let other = harness.connect().await;
    let mut reader = harness.subscribe_on(&other, harness.all("g")).await;
    assert_eq!(reader.numbers(1).await, [1]);
    assert!(harness.within("refuse", delivery.ack()).await.is_err());
}

/// Subscriptions end, so that their loops end.
pub async fn should_end_subscriptions(harness: Harness<'_>) {
    let mut reader = harness.subscribe(harness.all("g")).await;
    let (closed, ended) =
        harness.within("close", join(harness.broker.close(LONG), reader.deliveries.next())).await;
    closed.unwrap();
    assert!(ended.is_none());
}

/// A closed connection reports it; others continue.
pub async fn should_refuse_work_after_close(harness: Harness<'_>) {
    let other = harness.connect().await;
    let mut reader = harness.subscribe_on(&other, harness.all("g")).await;
    assert_eq!(harness.broker.health_now(), Health::Connected);
    harness.within("close", harness.broker.close(LONG)).await.unwrap();
    assert_eq!(harness.broker.health_now(), Health::Closed);
    let batch = harness.events([1, 2]).into_iter().map(Publish::new).collect();
    for answer in harness.try_publish(batch).await {
        assert_eq!(answer.unwrap_err().code(), "BROKER_CLOSED");
    }
    let subscribed = harness.within("refuse", harness.broker.subscribe(harness.all("g"))).await;
    assert_eq!(subscribed.unwrap_err().code(), "BROKER_CLOSED");
    reader.none().await;
    harness
        .within("publish", other.publish_event(harness.event("thing.happened", 3)))
        .await
        .unwrap();
    assert_eq!(reader.numbers(1).await, [3]);
}

/// Every event is either acknowledged or delivered again, never both.
pub async fn should_lose_nothing_at_shutdown(harness: Harness<'_>) {
    const COUNT: u64 = 300;
    let consuming = harness.connect().await;
    harness.declare(harness.all("g")).await;
    harness.publish(0..COUNT).await;
    let mut acked = BTreeSet::new();
    for round in 0_u64..3 {
        let broker: Arc<dyn Broker> =
            if round == 0 { Arc::clone(&consuming) } else { harness.connect().await };
        let mut reader = harness.subscribe_on(&broker, harness.all("g").with_prefetch(64)).await;
        for _ in 0..50 {
            let delivery = reader.next().await;
            assert!(acked.insert(number(&delivery)), "{} came again", number(&delivery));
            harness.within("acknowledge", delivery.ack()).await.unwrap();
        }
        harness.within("close", broker.close(LONG)).await.unwrap();
    }
    let mut reader = harness.subscribe(harness.all("g")).await;
    acked.extend(reader.numbers(150).await);
    assert_eq!(Vec::from_iter(acked), Vec::from_iter(0..COUNT));
    reader.none().await;
}
