//! Faults of the server under steady traffic: every event is numbered, and whatever was confirmed
//! has to arrive.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, Deliveries, Health, Publish, Subscription},
    event::Event,
    retry::RetryPolicy,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::{task::JoinHandle, time::timeout};

const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// No call may hang; this is its timeout and what a busy machine may need besides.
const NEVER: Duration = Duration::from_secs(25);
/// Until everything has settled after a fault.
const RECOVERY: Duration = Duration::from_secs(90);

async fn connect(server: &RabbitMqServer) -> Arc<RabbitMqBroker> {
    let options = RabbitMqOptions::new(server.url())
        .with_publish_timeout(PUBLISH_TIMEOUT)
        .with_heartbeat(Duration::from_secs(4))
        .with_watchdog(Duration::from_secs(3));
    Arc::new(RabbitMqBroker::connect_with(options).await.unwrap())
}

#[derive(Default)]
struct Seen {
    confirmed: BTreeSet<u64>,
    received: BTreeSet<u64>,
    codes: BTreeSet<&'static str>,
}

/// A publisher and a consumer that never rest.
struct Traffic {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    publisher: JoinHandle<()>,
    consumer: JoinHandle<()>,
}

impl Traffic {
    async fn start(broker: &Arc<RabbitMqBroker>) -> Self {
        let (seen, stopped) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let subscription = Subscription::group("chaos".parse().unwrap(), ["#".parse().unwrap()])
            .with_retry(RetryPolicy::fixed(3, Duration::from_secs(1)));
        let deliveries = broker.subscribe(subscription).await.unwrap();
        let consumer = tokio::spawn(consume(deliveries, Arc::clone(&seen)));
        let publisher =
            tokio::spawn(publish(Arc::clone(broker), Arc::clone(&seen), Arc::clone(&stopped)));
        let traffic = Self { seen, stopped, publisher, consumer };
        traffic.advances().await;
        traffic
    }

    /// Waits until events that were published from now on are confirmed and have arrived.
    async fn advances(&self) {
        let last = self.count(|seen| seen.confirmed.last().copied().unwrap_or_default());
        let beyond = |numbers: &BTreeSet<u64>| numbers.range(last + 1..).count() > 20;
        let advanced = async {
            while !self.count(|seen| beyond(&seen.confirmed) && beyond(&seen.received)) {
                rest(Duration::from_millis(20)).await;
            }
        };
        let health = self.count(|seen| format!("{:?}", seen.codes));
        timeout(RECOVERY, advanced).await.unwrap_or_else(|_| panic!("traffic stands: {health}"));
    }

    /// Stops, and checks that whatever was confirmed has arrived.
    async fn finish(self, expected: &[&'static str]) {
        self.stopped.store(true, Ordering::Relaxed);
        self.publisher.await.unwrap();
        let arrived = async {
            loop {
                let missing = {
                    let seen = self.seen.lock().unwrap();
                    seen.confirmed.difference(&seen.received).count()
                };
                if missing == 0 {
                    return;
                }
                rest(Duration::from_millis(50)).await;
            }
        };
        timeout(RECOVERY, arrived).await.expect("every confirmed event arrives");
        self.consumer.abort();
        let seen = self.seen.lock().unwrap();
        assert!(seen.codes.iter().all(|code| expected.contains(code)), "{:?}", seen.codes);
    }

    fn count<T>(&self, read: impl Fn(&Seen) -> T) -> T {
        read(&self.seen.lock().unwrap())
    }
}

async fn publish(broker: Arc<RabbitMqBroker>, seen: Arc<Mutex<Seen>>, stopped: Arc<AtomicBool>) {
    let mut next = 1_u64;
    while !stopped.load(Ordering::Relaxed) {
        let numbers: Vec<u64> = (next..next + 10).collect();
        next += 10;
        let event = |number| Event::new("chaos.thing.happened".parse().unwrap(), "test", number);
        let batch = numbers.iter().map(|number| Publish::new(event(number).unwrap())).collect();
        let answers = timeout(NEVER, broker.publish(batch)).await.expect("no call hangs");
        let failed = answers.iter().any(Result::is_err);
        {
            let mut seen = seen.lock().unwrap();
            for (number, answer) in numbers.into_iter().zip(answers) {
                match answer {
                    Ok(()) => drop(seen.confirmed.insert(number)),
                    Err(error) => drop(seen.codes.insert(error.code())),
                }
            }
        }
        rest(Duration::from_millis(if failed { 100 } else { 2 })).await;
    }
}

async fn consume(mut deliveries: Deliveries, seen: Arc<Mutex<Seen>>) {
    while let Some(delivery) = deliveries.next().await {
        let Ok(delivery) = delivery else { continue };
        seen.lock().unwrap().received.insert(delivery.event.data().unwrap());
        // If the channel died, the event comes again.
        delivery.ack().await.unwrap_or_default();
    }
}

#[allow(clippy::disallowed_methods, reason = "the server has a clock of its own")]
async fn rest(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_a_killed_server() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    server.kill();
    rest(Duration::from_secs(1)).await;
    assert!(matches!(broker.health().next().await, Some(Health::Reconnecting { .. })));
    server.revive();
    traffic.advances().await;
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    timeout(NEVER, broker.close(NEVER)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_closed_connections() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    for _ in 0..3 {
        assert!(!server.ctl(&["close_all_connections", "by the test"]).is_empty());
        traffic.advances().await;
    }
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    timeout(NEVER, broker.close(NEVER)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_survive_a_paused_server() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    server.pause();
    rest(Duration::from_secs(30)).await;
    server.resume();
    traffic.advances().await;
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    timeout(NEVER, broker.close(NEVER)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_say_that_the_server_is_blocked_and_go_on_after_that() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let mut health = broker.health();
    let blocked = async { while !matches!(health.next().await, Some(Health::Blocked { .. })) {} };
    timeout(RECOVERY, blocked).await.expect("the block is reported");
    let refused = async {
        while !traffic.count(|seen| seen.codes.contains("BROKER_BLOCKED")) {
            rest(Duration::from_millis(20)).await;
        }
    };
    timeout(RECOVERY, refused).await.expect("publishing says that it is blocked");
    let _ = server.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    traffic.advances().await;
    traffic.finish(&["BROKER_BLOCKED", "BROKER_TIMEOUT"]).await;
    timeout(NEVER, broker.close(NEVER)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_consume_again_when_its_queue_was_deleted() {
    let Some(server) = RabbitMqServer::start() else { return };
    let broker = connect(&server).await;
    let traffic = Traffic::start(&broker).await;
    let _ = server.ctl(&["delete_queue", "aios.group.chaos"]);
    // What was in the queue is gone with it, so only what comes after can be asked for.
    traffic.advances().await;
    traffic.publisher.abort();
    traffic.consumer.abort();
}
