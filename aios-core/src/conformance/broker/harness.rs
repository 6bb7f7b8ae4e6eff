use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};

use super::{BrokerFixture, Capability};
use crate::{
    broker::{
        Address, Broker, BrokerError, DeadLetters, Deliveries, Delivery, Group, Mailbox, Publish,
        Subscription,
    },
    event::{Event, EventId, Pattern},
};

/// The environment of a case: a connection, and names that no other case has.
#[allow(missing_debug_implementations, reason = "a fixture need not be printable")]
pub struct Harness<'a> {
    /// The first connection.
    pub broker: Arc<dyn Broker>,
    fixture: &'a dyn BrokerFixture,
    /// First segment of all its event types, and prefix of its groups.
    token: String,
}

impl<'a> Harness<'a> {
    pub(super) async fn new(fixture: &'a dyn BrokerFixture) -> Self {
        let broker = within(fixture, "connect", fixture.connect()).await.unwrap();
        let token = format!("c{}", EventId::generate().key().simple());
        Self { broker, fixture, token }
    }

    /// Whether the case must be skipped because the adapter lacks this capability.
    #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
    pub fn lacks(&self, capability: Capability) -> bool {
        let lacks = self.fixture.lacks().contains(&capability);
        if lacks {
            eprintln!("skipped: the adapter declares that it lacks {capability:?}");
        }
        lacks
    }

    /// Another connection to the same broker.
    pub async fn connect(&self) -> Arc<dyn Broker> {
        self.within("connect", self.fixture.connect()).await.unwrap()
    }

    /// A connection on which a group of this case is full with this many events.
    #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
    pub async fn limited(&self, group: &Group, events: u32) -> Option<Arc<dyn Broker>> {
        let limited = self.within("limit a group", self.fixture.limited(group, events)).await;
        if limited.is_none() {
            eprintln!("skipped: the fixture can't limit groups");
        }
        limited
    }

    /// A group of this case.
    pub fn group(&self, name: &str) -> Group {
        Group::new(format!("{}.{name}", self.token)).unwrap()
    }

    /// A mailbox of this case.
    pub fn mailbox(&self, name: &str) -> Mailbox {
        Mailbox::new(format!("{}.{name}", self.token)).unwrap()
    }

    /// A pattern for types of this case; `rest` follows their first segment.
    pub fn pattern(&self, rest: &str) -> Pattern {
        format!("{}.{rest}", self.token).parse().unwrap()
    }

    /// A durable group that gets all events of this case.
    pub fn all(&self, group: &str) -> Subscription {
        Subscription::group(self.group(group), [self.pattern("#")])
    }

    /// An event of the type `<case>.<rest>` with a number as data.
    pub fn event(&self, rest: &str, number: u64) -> Event {
        let event_type = format!("{}.{rest}", self.token).parse().unwrap();
        Event::new(event_type, "conformance", &number).unwrap()
    }

    /// Events with these numbers, of one type.
    pub fn events(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Event> {
        numbers.into_iter().map(|number| self.event("thing.happened", number)).collect()
    }

    /// Publishes events with these numbers, of one type, which must succeed.
    pub async fn publish(&self, numbers: impl IntoIterator<Item = u64>) {
        self.publish_events(self.events(numbers)).await;
    }

    /// Publishes events, which must succeed.
    pub async fn publish_events(&self, events: Vec<Event>) {
        let batch = events.into_iter().map(Publish::new).collect();
        for answer in self.try_publish(batch).await {
            answer.expect("publish");
        }
    }

    /// Publishes, and returns the answers.
    pub async fn try_publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let count = batch.len();
        let answers = self.within("publish", self.broker.publish(batch)).await;
        assert_eq!(answers.len(), count, "each event has an answer");
        answers
    }

    /// Subscribes on the first connection, which must succeed.
    pub async fn subscribe(&self, subscription: Subscription) -> Reader<'a> {
        self.subscribe_on(&self.broker, subscription).await
    }

    /// Subscribes on another connection, which must succeed.
    pub async fn subscribe_on(
        &self,
        broker: &Arc<dyn Broker>,
        subscription: Subscription,
    ) -> Reader<'a> {
        let deliveries = self.within("subscribe", broker.subscribe(subscription)).await.unwrap();
        Reader { fixture: self.fixture, deliveries }
    }

    /// Declares a durable group without remaining its consumer.
    pub async fn declare(&self, subscription: Subscription) {
        drop(self.subscribe(subscription).await);
        self.quiet().await;
    }

    /// The dead letters of a group or mailbox that exists.
    pub async fn dead_letters(&self, address: impl Into<Address>) -> Box<dyn DeadLetters> {
        let address = address.into();
        self.within("open dead letters", self.broker.dead_letters(&address)).await.unwrap()
    }

    /// Lets the broker's time pass.
    pub async fn pass(&self, duration: Duration) {
        self.fixture.pass(duration).await;
    }

    /// Gives the broker the time to finish its pending work.
    pub async fn quiet(&self) {
        self.fixture.quiet().await;
    }

    /// The delay that this adapter's retries are tested with.
    pub fn delay(&self) -> Duration {
        self.fixture.delay()
    }

    /// See [`BrokerFixture::too_many_bytes`].
    pub fn too_many_bytes(&self) -> usize {
        self.fixture.too_many_bytes()
    }

    /// Awaits one step of the case, which fails if it hangs.
    pub async fn within<T>(&self, step: &str, future: impl Future<Output = T>) -> T {
        within(self.fixture, step, future).await
    }
}

/// A group or a mailbox, one of each for a case. Everything after the delivery of an event is the
/// same for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The group `g`, which gets all events of the case.
    Group,
    /// The mailbox `m`.
    Mailbox,
}

impl Place {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Group, Self::Mailbox];

    /// The group or the mailbox.
    pub fn address(self, harness: &Harness<'_>) -> Address {
        match self {
            Self::Group => harness.group("g").into(),
            Self::Mailbox => harness.mailbox("m").into(),
        }
    }

    /// A durable subscription.
    pub fn subscription(self, harness: &Harness<'_>) -> Subscription {
        match self {
            Self::Group => harness.all("g"),
            Self::Mailbox => Subscription::mailbox(harness.mailbox("m")),
        }
    }

    /// Publishes events with these numbers, of one type, which must succeed.
    pub async fn publish(self, harness: &Harness<'_>, numbers: impl IntoIterator<Item = u64>) {
        self.publish_events(harness, harness.events(numbers)).await;
    }

    /// Publishes events, which must succeed.
    pub async fn publish_events(self, harness: &Harness<'_>, events: Vec<Event>) {
        let publish = |event| match self {
            Self::Group => Publish::new(event),
            Self::Mailbox => Publish::new(event).with_mailbox(harness.mailbox("m")),
        };
        for answer in harness.try_publish(events.into_iter().map(publish).collect()).await {
            answer.expect("publish");
        }
    }
}

/// One subscription of a case.
#[allow(missing_debug_implementations, reason = "a fixture need not be printable")]
pub struct Reader<'a> {
    /// The subscription itself.
    pub deliveries: Deliveries,
    fixture: &'a dyn BrokerFixture,
}

impl Reader<'_> {
    /// The next delivery, which must arrive.
    pub async fn next(&mut self) -> Delivery {
        let next = within(self.fixture, "get a delivery", self.deliveries.next()).await;
        next.expect("the subscription ended").expect("delivery")
    }

    /// The next delivery, which must have this number and attempt.
    pub async fn expect(&mut self, number: u64, attempt: u32) -> Delivery {
        let delivery = self.next().await;
        assert_eq!((self::number(&delivery), delivery.attempt), (number, attempt));
        delivery
    }

    /// Takes and acknowledges this many deliveries, and returns their numbers in the order of
    /// arrival.
    pub async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            let delivery = self.next().await;
            numbers.push(number(&delivery));
            within(self.fixture, "acknowledge", delivery.ack()).await.unwrap();
        }
        numbers
    }

    /// Checks that nothing arrives within a short time.
    pub async fn none(&mut self) {
        let quiet = self.fixture.quiet();
        if let Either::Left((Some(delivery), _)) = select(pin!(self.deliveries.next()), quiet).await
        {
            panic!("unexpected delivery: {delivery:?}");
        }
    }
}

/// The number that a case assigned to an event.
pub(super) fn number(delivery: &Delivery) -> u64 {
    delivery.event.data().unwrap()
}

/// Sorts numbers that may arrive in any order.
pub(super) fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

async fn within<T>(fixture: &dyn BrokerFixture, step: &str, future: impl Future<Output = T>) -> T {
    match select(pin!(future), fixture.overdue()).await {
        Either::Left((value, _)) => value,
        Either::Right(_) => panic!("the broker takes too long to {step}"),
    }
}
