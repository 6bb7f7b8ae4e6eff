//! The end of a connection.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, join, select};

use super::{Scene, scene::number};
use crate::broker::{Broker, BrokerExt, Health, Publish};

/// Long enough for every settlement, on any clock.
const LONG: Duration = Duration::from_secs(3600);

/// Closing ends when the last delivery in hand is settled, not before.
pub async fn should_wait_for_deliveries_in_hand(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    scene.publish([1]).await;
    let delivery = reader.next().await;
    let close = pin!(scene.broker.close(LONG));
    let Either::Right(((), close)) = select(close, pin!(scene.quiet())).await else {
        panic!("close did not wait for the delivery in hand");
    };
    let (closed, acked) = scene.within("close", join(close, delivery.ack())).await;
    acked.unwrap();
    closed.unwrap();
    let other = scene.connect().await;
    scene.subscribe_on(&other, scene.all("g")).await.none().await;
}

/// A handler may publish its result before it settles.
pub async fn should_publish_while_it_drains(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    scene.publish([1]).await;
    let delivery = reader.next().await;
    let close = pin!(scene.broker.close(LONG));
    let work = async {
        scene.quiet().await;
        scene.publish([2]).await;
        scene.within("acknowledge", delivery.ack()).await
    };
    let (closed, acked) = scene.within("close", join(close, work)).await;
    acked.unwrap();
    closed.unwrap();
    let other = scene.connect().await;
    assert_eq!(scene.subscribe_on(&other, scene.all("g")).await.numbers(1).await, [2]);
}

/// Deliveries that are unsettled at the deadline go to others.
pub async fn should_give_up_waiting_at_the_deadline(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    scene.publish([1]).await;
    let delivery = reader.next().await;
    let deadline = scene.delay();
    let closing = join(scene.broker.close(deadline), scene.pass(deadline));
    let (closed, ()) = scene.within("close", closing).await;
    assert_eq!(closed.unwrap_err().code(), "BROKER_TIMEOUT");
    let other = scene.connect().await;
    let mut reader = scene.subscribe_on(&other, scene.all("g")).await;
    assert_eq!(reader.numbers(1).await, [1]);
    assert!(scene.within("refuse", delivery.ack()).await.is_err());
}

/// Subscriptions end, so that their loops end.
pub async fn should_end_subscriptions(scene: Scene<'_>) {
    let mut reader = scene.subscribe(scene.all("g")).await;
    let (closed, ended) =
        scene.within("close", join(scene.broker.close(LONG), reader.deliveries.next())).await;
    closed.unwrap();
    assert!(ended.is_none());
}

/// A closed connection reports it; others continue.
pub async fn should_refuse_work_after_close(scene: Scene<'_>) {
    let other = scene.connect().await;
    let mut reader = scene.subscribe_on(&other, scene.all("g")).await;
    assert_eq!(scene.broker.health_now(), Health::Connected);
    scene.within("close", scene.broker.close(LONG)).await.unwrap();
    assert_eq!(scene.broker.health_now(), Health::Closed);
    let batch = scene.events([1, 2]).into_iter().map(Publish::new).collect();
    for answer in scene.try_publish(batch).await {
        assert_eq!(answer.unwrap_err().code(), "BROKER_CLOSED");
    }
    let subscribed = scene.within("refuse", scene.broker.subscribe(scene.all("g"))).await;
    assert_eq!(subscribed.unwrap_err().code(), "BROKER_CLOSED");
    reader.none().await;
    scene.within("publish", other.publish_event(scene.event("thing.happened", 3))).await.unwrap();
    assert_eq!(reader.numbers(1).await, [3]);
}

/// Every event is either acknowledged or comes again, and none does both.
pub async fn should_lose_nothing_at_shutdown(scene: Scene<'_>) {
    const COUNT: u64 = 300;
    let consuming = scene.connect().await;
    scene.declare(scene.all("g")).await;
    scene.publish(0..COUNT).await;
    let mut acked = BTreeSet::new();
    for round in 0_u64..3 {
        let broker: Arc<dyn Broker> =
            if round == 0 { Arc::clone(&consuming) } else { scene.connect().await };
        let mut reader = scene.subscribe_on(&broker, scene.all("g").with_prefetch(64)).await;
        for _ in 0..50 {
            let delivery = reader.next().await;
            assert!(acked.insert(number(&delivery)), "{} came again", number(&delivery));
            scene.within("acknowledge", delivery.ack()).await.unwrap();
        }
        scene.within("close", broker.close(LONG)).await.unwrap();
    }
    let mut reader = scene.subscribe(scene.all("g")).await;
    acked.extend(reader.numbers(150).await);
    assert_eq!(Vec::from_iter(acked), Vec::from_iter(0..COUNT));
    reader.none().await;
}
