//! Delays that are longer than the server holds an event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    BoxFuture,
    broker::{
        Broker, BrokerError, BrokerExt, Deliveries, Group, OnExhausted, Publish, Subscription,
    },
    clock::{Clock, SystemClock},
    event::{Event, Timestamp},
    retry::RetryPolicy,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;

use super::{
    proxy::{EXCHANGE_DECLARE, Proxy, Verdict},
    traffic::rest,
};

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

/// A broker on a virtual host of this name, and a group that discards what has failed too often.
async fn on_host(server: &RabbitMqServer, url: &str, host: &str) -> (RabbitMqBroker, Deliveries) {
    let _ = server.ctl(&["add_vhost", host]);
    let _ = server.ctl(&["set_permissions", "-p", host, "guest", ".*", ".*", ".*"]);
    let url = url.replace("/%2f", &format!("/{host}"));
    let broker = RabbitMqBroker::connect(&url).await.unwrap();
    let group = host.parse().unwrap();
    let subscription = Subscription::group(group, ["held.thing.happened".parse().unwrap()])
        .with_retry(RetryPolicy::fixed(3, Duration::from_secs(1)))
        .with_on_exhausted(OnExhausted::Discard);
    let deliveries = broker.subscribe(subscription).await.unwrap();
    (broker, deliveries)
}

async fn fail(broker: &RabbitMqBroker, deliveries: &mut Deliveries) -> Result<(), BrokerError> {
    let event = Event::new("held.thing.happened".parse().unwrap(), "test", &1).unwrap();
    broker.publish_one(Publish::new(event).with_required_route()).await.unwrap();
    let delivery = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
    delivery.retry(None, "the handler failed").await
}

/// The event has not failed too often, so it is not discarded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_dead_letter_an_event_that_the_server_refuses_to_hold() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let (broker, mut deliveries) = on_host(server, &server.url(), "crowded").await;
    let _ = server.ctl(&["set_vhost_limits", "-p", "crowded", r#"{"max-queues": 2}"#]);
    fail(&broker, &mut deliveries).await.unwrap();
    let more = timeout(Duration::from_secs(2), deliveries.next()).await;
    assert!(more.is_err(), "it is delivered again: {more:?}");
    let group: Group = "crowded".parse().unwrap();
    let letters = broker.dead_letters(&group.into()).await.unwrap().list(10).await.unwrap();
    let [letter] = &letters[..] else { panic!("one dead letter, not {letters:?}") };
    assert_eq!(letter.attempts, 1);
    for failure in ["the handler failed", "queue limit"] {
        assert!(letter.reason.contains(failure), "{}", letter.reason);
    }
}

/// The server says that the exchange does not exist, instead of declaring it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_keep_an_event_that_the_server_can_not_hold_yet() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let is_refused = Arc::new(AtomicBool::new(false));
    let refused = Arc::clone(&is_refused);
    let proxy = Proxy::start(server, move |frame| {
        match frame.method() == Some(EXCHANGE_DECLARE) && refused.load(Ordering::Relaxed) {
            true => Verdict::Replace(frame.passive()),
            false => Verdict::Pass,
        }
    });
    let (broker, mut deliveries) = on_host(server, &proxy.url(), "unready").await;
    is_refused.store(true, Ordering::Relaxed);
    fail(&broker, &mut deliveries).await.unwrap_err();
    let early = timeout(Duration::from_secs(2), deliveries.next()).await;
    assert!(early.is_err(), "it is delivered again although its attempt is not counted: {early:?}");
    is_refused.store(false, Ordering::Relaxed);
    let again = timeout(SOON, deliveries.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(again.attempt, 2);
    again.ack().await.unwrap();
}
