//! Steady traffic, with every event numbered: every confirmed event has to arrive.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, Deliveries, Publish, Subscription},
    event::Event,
    retry::RetryPolicy,
};
use aios_tests::rabbitmq::RabbitMqServer;
use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::timeout};

pub(crate) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Additional time for a busy machine.
const SLACK: Duration = Duration::from_secs(1);
/// The time until everything has settled after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(60);
/// The time until consumers receive events again once the server is back. The adapter guarantees
/// this on any machine that is not overloaded: its longest delay between attempts is 3 s.
const RESUME: Duration = Duration::from_secs(5);

/// The number of concurrent publish calls, and of events in each.
const CALLS: u64 = 4;
const BATCH: u64 = 10;

pub(crate) async fn connect(server: &RabbitMqServer) -> Arc<RabbitMqBroker> {
    let options = RabbitMqOptions::new(server.url())
        .with_publish_timeout(PUBLISH_TIMEOUT)
        .with_heartbeat(Duration::from_secs(4))
        .with_watchdog(Duration::from_secs(1));
    Arc::new(RabbitMqBroker::connect_with(options).await.unwrap())
}

pub(crate) fn subscription() -> Subscription {
    Subscription::group("chaos".parse().unwrap(), ["#".parse().unwrap()])
        .with_retry(RetryPolicy::fixed(3, Duration::from_secs(1)))
}

#[derive(Default)]
pub(crate) struct Seen {
    /// The number of the next event.
    next: u64,
    pub(crate) confirmed: BTreeSet<u64>,
    pub(crate) received: BTreeSet<u64>,
    pub(crate) codes: BTreeSet<&'static str>,
    slowest_call: Duration,
}

/// A publisher and a consumer that run without pause.
pub(crate) struct Traffic {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    publisher: JoinHandle<()>,
    consumer: JoinHandle<()>,
}

impl Traffic {
    pub(crate) async fn start(broker: &Arc<RabbitMqBroker>) -> Self {
        let (seen, stopped) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let deliveries = broker.subscribe(subscription()).await.unwrap();
        let consumer = tokio::spawn(consume(deliveries, Arc::clone(&seen)));
        let publisher =
            tokio::spawn(publish(Arc::clone(broker), Arc::clone(&seen), Arc::clone(&stopped)));
        let traffic = Self { seen, stopped, publisher, consumer };
        traffic.advances().await;
        traffic
    }

    /// Waits until events that are published from now on are confirmed and have arrived.
    pub(crate) async fn advances(&self) {
        let next = self.read(|seen| seen.next);
        let beyond = |numbers: &BTreeSet<u64>| numbers.range(next..).count() > 20;
        self.wait_for(RECOVERY, |seen| beyond(&seen.confirmed) && beyond(&seen.received)).await;
    }

    /// Called when the server is back: waits until an event that is published from now on
    /// arrives.
    pub(crate) async fn resumes(&self) {
        let next = self.read(|seen| seen.next);
        self.wait_for(RESUME, |seen| seen.received.range(next..).next().is_some()).await;
    }

    pub(crate) async fn wait_for(&self, patience: Duration, reached: impl Fn(&Seen) -> bool) {
        let wait = async {
            while !self.read(&reached) {
                rest(Duration::from_millis(10)).await;
            }
        };
        if timeout(patience, wait).await.is_err() {
            panic!("traffic stands after {patience:?}: {:?}", self.read(|seen| seen.codes.clone()));
        }
    }

    /// Stops, and checks that every confirmed event has arrived, that no call exceeded its timeout,
    /// and that there were no errors other than `allowed`.
    pub(crate) async fn finish(self, allowed: &[&'static str]) -> BTreeSet<&'static str> {
        self.stopped.store(true, Ordering::Relaxed);
        timeout(RECOVERY, async {
            while !self.publisher.is_finished() {
                rest(SLACK / 100).await
            }
        })
        .await
        .expect("publishing ends");
        self.wait_for(RECOVERY, |seen| seen.confirmed.is_subset(&seen.received)).await;
        self.stop();
        let seen = self.seen.lock().unwrap();
        assert!(seen.codes.iter().all(|code| allowed.contains(code)), "{:?}", seen.codes);
        assert!(seen.slowest_call < PUBLISH_TIMEOUT + SLACK, "{:?}", seen.slowest_call);
        seen.codes.clone()
    }

    pub(crate) fn stop(&self) {
        self.publisher.abort();
        self.consumer.abort();
    }

    pub(crate) fn read<T>(&self, read: impl Fn(&Seen) -> T) -> T {
        read(&self.seen.lock().unwrap())
    }
}

/// Keeps several calls in flight.
async fn publish(broker: Arc<RabbitMqBroker>, seen: Arc<Mutex<Seen>>, stopped: Arc<AtomicBool>) {
    let publishers = (0..CALLS).map(async |_| {
        while !stopped.load(Ordering::Relaxed) {
            let failed = publish_batch(&broker, &seen).await;
            rest(Duration::from_millis(if failed { 100 } else { 2 })).await;
        }
    });
    join_all(publishers).await;
}

/// Whether an event of the batch was not confirmed.
async fn publish_batch(broker: &RabbitMqBroker, seen: &Mutex<Seen>) -> bool {
    let numbers = take_numbers(seen);
    let event = |number| Event::new("chaos.thing.happened".parse().unwrap(), "test", &number);
    let batch = numbers.clone().map(|number| Publish::new(event(number).unwrap())).collect();
    let began = now();
    let answers = broker.publish(batch).await;
    let took = began.elapsed();
    let failed = answers.iter().any(Result::is_err);
    let mut seen = seen.lock().unwrap();
    seen.slowest_call = seen.slowest_call.max(took);
    for (number, answer) in numbers.zip(answers) {
        match answer {
            Ok(()) => drop(seen.confirmed.insert(number)),
            Err(error) => drop(seen.codes.insert(error.code())),
        }
    }
    failed
}

fn take_numbers(seen: &Mutex<Seen>) -> std::ops::Range<u64> {
    let mut seen = seen.lock().unwrap();
    let first = seen.next;
    seen.next += BATCH;
    first..seen.next
}

async fn consume(mut deliveries: Deliveries, seen: Arc<Mutex<Seen>>) {
    while let Some(delivery) = deliveries.next().await {
        let Ok(delivery) = delivery else { continue };
        seen.lock().unwrap().received.insert(delivery.event.data().unwrap());
        // If the channel died, the event is redelivered.
        delivery.ack().await.unwrap_or_default();
    }
}

#[allow(clippy::disallowed_methods, reason = "the server has a clock of its own")]
pub(crate) async fn rest(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[allow(clippy::disallowed_methods, reason = "how long it really took")]
fn now() -> Instant {
    Instant::now()
}
