//! Delays that are longer than the server holds an event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    BoxFuture,
    broker::{Broker, BrokerExt, Publish, Subscription},
    clock::{Clock, SystemClock},
    event::{Event, Timestamp},
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

use super::traffic::rest;

const SOON: Duration = Duration::from_secs(20);
const DELAY: Duration = Duration::from_secs(100 * 24 * 3600);

/// The clock of the system, set forward by a number of seconds.
#[derive(Clone, Debug, Default)]
struct ForwardClock(Arc<AtomicU64>);

impl Clock for ForwardClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        SystemClock.sleep(deadline.duration_since(self.now()))
    }
}

/// The policy makes the server return after a second what the adapter holds for a month.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_hold_an_event_again_until_it_is_due() {
    let Some(server) = RabbitMqServer::start() else { return };
    let policy = [r"^aios\.hold\.\d{8,}$", r#"{"message-ttl": 1000}"#];
    let _ = server.ctl(&["set_policy", "months", policy[0], policy[1], "--apply-to", "queues"]);
    let clock = ForwardClock::default();
    let options = RabbitMqOptions::new(server.url()).with_clock(Arc::new(clock.clone()));
    let broker = RabbitMqBroker::connect_with(options).await.unwrap();
    let group = "patient".parse().unwrap();
    let pattern = "patient.thing.happened".parse().unwrap();
    let mut deliveries = broker.subscribe(Subscription::group(group, [pattern])).await.unwrap();
    let event = Event::new("patient.thing.happened".parse().unwrap(), "test", &1).unwrap();
    broker.publish_one(Publish::new(event.clone()).with_required_route()).await.unwrap();
    let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
    delivery.retry(Some(DELAY), "in three months").await.unwrap();

    let early = timeout(Duration::from_secs(5), deliveries.next()).await;
    assert!(early.is_err(), "{early:?}");
    clock.0.store(DELAY.as_secs(), Ordering::Relaxed);
    let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((&delivery.event, delivery.attempt), (&event, 2));
    delivery.ack().await.unwrap();
    let emptied = async {
        let arguments = ["list_queues", "--quiet", "--no-table-headers", "messages"];
        while !server.ctl(&arguments).lines().all(|messages| messages == "0") {
            rest(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, emptied).await.expect("no copy is left");
}
