use std::{
    pin::pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Wake, Waker},
    time::Duration,
};

use aios_broker::memory::{MemoryBroker, MemoryOptions};
use aios_core::{
    broker::{Broker, BrokerError, Deliveries, Delivery, Group, Publish, Subscription},
    clock::VirtualClock,
    conformance::broker::{BrokerFixture, Capability},
    event::{Event, Timestamp},
};
use async_trait::async_trait;
use futures_util::FutureExt;

struct MemoryFixture {
    clock: VirtualClock,
    broker: MemoryBroker,
}

impl MemoryFixture {
    fn new() -> Self {
        let clock = VirtualClock::default();
        let options =
            MemoryOptions::new().with_clock(Arc::new(clock.clone())).with_max_event_bytes(2 << 20);
        Self { clock, broker: MemoryBroker::connect_with(options).unwrap() }
    }
}

#[async_trait]
impl BrokerFixture for MemoryFixture {
    fn is_there(&self) -> bool {
        true
    }

    async fn connect(&self) -> Result<Arc<dyn Broker>, BrokerError> {
        Ok(Arc::new(self.broker.new_connection()))
    }

    async fn pass(&self, duration: Duration) {
        self.quiet().await;
        self.clock.advance(duration);
    }

    async fn quiet(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a hanging case fails in real time")]
    async fn overdue(&self) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn too_many_bytes(&self) -> usize {
        (2 << 20) + 1
    }

    async fn limited(&self, _: &Group, events: u32) -> Option<Arc<dyn Broker>> {
        let options = MemoryOptions::new().with_max_events(events.try_into().unwrap());
        Some(Arc::new(MemoryBroker::connect_with(options).unwrap()))
    }

    fn lacks(&self) -> &[Capability] {
        &[]
    }
}

mod conformance {
    aios_core::broker_conformance!(super::MemoryFixture::new());
}

fn group(name: &str) -> Subscription {
    Subscription::group(name.parse().unwrap(), ["#".parse().unwrap()])
}

fn events(numbers: std::ops::Range<u64>) -> Vec<Publish> {
    let event = |number: u64| Event::new("a.b.c".parse().unwrap(), "test", &number).unwrap();
    numbers.map(|number| Publish::new(event(number))).collect()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    deliveries.next().await.unwrap().unwrap()
}

fn number(delivery: &Delivery) -> u64 {
    delivery.event.data().unwrap()
}

#[tokio::test]
async fn should_put_released_events_back_in_their_place() {
    let broker = MemoryBroker::new();
    let mut first = broker.subscribe(group("g")).await.unwrap();
    broker.publish(events(0..5)).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut first).await);
    }
    for index in [3, 0, 1] {
        held.remove(index).release().await.unwrap();
    }
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(next(&mut first).await);
    }
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [0, 2, 3]);
    drop((again, held, first));
    let mut second = broker.subscribe(group("g")).await.unwrap();
    for expected in 0..5 {
        let delivery = next(&mut second).await;
        assert_eq!(number(&delivery), expected);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn should_reject_events_in_every_group_when_one_is_full() {
    let broker = MemoryBroker::connect_with(MemoryOptions::new().with_max_events(3)).unwrap();
    let full = broker.subscribe(group("full").with_prefetch(1)).await.unwrap();
    let mut other = broker.subscribe(group("other")).await.unwrap();
    let answers = broker.publish(events(0..3)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for _ in 0..3 {
        next(&mut other).await.ack().await.unwrap();
    }
    let error = broker.publish(events(3..4)).await.remove(0).unwrap_err();
    assert_eq!(error.code(), "REJECTED");
    assert!(error.to_string().contains("group full"), "{error}");
    assert!(other.next().now_or_never().is_none());
    drop(full);
}

#[tokio::test]
async fn should_wake_a_waiting_consumer_when_a_delay_is_over() {
    let clock = VirtualClock::default();
    let options = MemoryOptions::new().with_clock(Arc::new(clock.clone()));
    let broker = MemoryBroker::connect_with(options).unwrap();
    let mut deliveries = broker.subscribe(group("g")).await.unwrap();
    broker.publish(events(0..1)).await;
    let day = Some(Duration::from_secs(86_400));
    next(&mut deliveries).await.retry(day, "tomorrow").await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut deliveries).await.attempt });
    tokio::task::yield_now().await;
    assert!(clock.advance_to_next());
    assert_eq!(waiting.await.unwrap(), 2);
}

#[tokio::test]
async fn should_end_a_delay_in_time_when_the_clock_is_set_back() {
    let clock = VirtualClock::new(Timestamp::UNIX_EPOCH + Duration::from_secs(3600));
    let options = MemoryOptions::new().with_clock(Arc::new(clock.clone()));
    let broker = MemoryBroker::connect_with(options).unwrap();
    let mut deliveries = broker.subscribe(group("g")).await.unwrap();
    broker.publish(events(0..1)).await;
    let second = Duration::from_secs(1);
    next(&mut deliveries).await.retry(Some(second), "soon").await.unwrap();
    clock.set(Timestamp::UNIX_EPOCH);
    assert!(deliveries.next().now_or_never().is_none());
    clock.advance(second);
    let delivered = deliveries.next().now_or_never().expect("the delay is over");
    assert_eq!(delivered.unwrap().unwrap().attempt, 2);
}

#[tokio::test]
async fn should_let_delayed_events_queue_up_at_the_end() {
    let clock = VirtualClock::default();
    let options = MemoryOptions::new().with_clock(Arc::new(clock.clone()));
    let broker = MemoryBroker::connect_with(options).unwrap();
    let mut deliveries = broker.subscribe(group("g").with_prefetch(1)).await.unwrap();
    broker.publish(events(0..3)).await;
    next(&mut deliveries).await.retry(Some(Duration::ZERO), "at once").await.unwrap();
    for expected in [1, 2, 0] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(number(&delivery), expected);
        delivery.ack().await.unwrap();
    }
}

/// A waker that owns a subscription.
struct Owner(#[allow(dead_code, reason = "it is only dropped")] Mutex<Deliveries>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn should_end_a_subscription_that_a_replaced_waker_owns() {
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let broker = MemoryBroker::new();
        let subscribe = || broker.subscribe(group("g")).now_or_never().unwrap().unwrap();
        let (mut first, second) = (subscribe(), subscribe());
        let owner = Waker::from(Arc::new(Owner(Mutex::new(second))));
        for waker in [owner, Waker::noop().clone()] {
            let mut next = pin!(first.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        sender.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(30)).expect("the destructor waits for a lock");
}
