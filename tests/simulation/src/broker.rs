//! The broker as a node sees it: slow, refusing, with lost confirmations and duplicate events.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use aios_broker::memory::MemoryBroker;
use aios_core::{
    BoxFuture,
    agent::TaskCompleted,
    broker::{
        Acknowledger, Address, Broker, BrokerError, DeadLetters, Deliveries, Delivery, Health,
        HealthWatch, Publish, Settlement, Subscription,
    },
    clock::Clock,
    event::{Event, EventId, Payload},
};
use async_trait::async_trait;
use futures_util::{FutureExt, Stream, StreamExt, stream};

use crate::{
    executor::Node,
    plant::Plant,
    world::{Reader, World},
};

/// How long a request waits before it fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a lost connection stays lost.
const RECONNECT: Duration = Duration::from_millis(500);
/// The delay of a planted second assignment.
const AGAIN: Duration = Duration::from_secs(10);

/// A node's connection to the broker, which is re-established when it is lost.
#[derive(Clone)]
pub struct NodeBroker(Arc<Inner>);

struct Inner {
    world: Arc<World>,
    node: Node,
    clock: Arc<dyn Clock>,
    connection: Mutex<Arc<MemoryBroker>>,
    subscriptions: AtomicU64,
}

impl NodeBroker {
    pub fn new(world: &Arc<World>, node: Node) -> Self {
        let connection = Mutex::new(Arc::new(world.connect()));
        let clock = world.executor.clock(Node::WORLD);
        let subscriptions = AtomicU64::new(0);
        Self(Arc::new(Inner { world: Arc::clone(world), node, clock, connection, subscriptions }))
    }

    /// The broker closes the connection and redelivers everything unsettled on it.
    pub fn disconnect(&self) {
        let inner = &self.0;
        let next = Arc::new(inner.world.connect());
        let mut connection = inner.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = std::mem::replace(&mut *connection, next);
        drop(connection);
        inner.world.disconnected(inner.node);
        let closed = lost.close(Duration::ZERO).now_or_never();
        assert!(closed.is_some(), "closing without a deadline does not wait");
    }
}

impl Inner {
    fn connection(&self) -> Arc<MemoryBroker> {
        Arc::clone(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn generation(&self) -> u64 {
        self.world.state().broken.get(&self.node).copied().unwrap_or_default()
    }

    fn is_cut(&self) -> bool {
        self.world.state().without_broker.contains(&self.node)
    }

    async fn request(&self, operation: &'static str) -> Result<(), BrokerError> {
        let (is_refused, delay) = {
            let mut state = self.world.state();
            let rates = state.rates;
            let delay = state.latency();
            (state.random.per_mille(rates.refused), delay)
        };
        if self.is_cut() {
            self.clock.sleep(PATIENCE).await;
            self.world.note(format_args!("cut off from the broker: {operation}"));
            return Err(BrokerError::Timeout { operation, after: PATIENCE });
        }
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
        if is_refused {
            self.world.note(format_args!("the broker refuses: {operation}"));
            return Err(BrokerError::Timeout { operation, after: PATIENCE });
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        let mut state = self.world.state();
        let rates = state.rates;
        state.random.per_mille(rates.lost)
    }

    /// Accepts an event, and publishes it some time later: a planted fault.
    fn publishes_later(&self, publish: &Publish) -> bool {
        let mut state = self.world.state();
        if !self.world.plants(Plant::RelayOutOfOrder) || !state.random.per_mille(300) {
            return false;
        }
        let later = Duration::from_millis(state.random.between(50, 1000));
        drop(state);
        let (clock, connection) = (Arc::clone(&self.clock), self.connection());
        let publish = publish.clone();
        self.world.executor.spawn(Node::WORLD, async move {
            clock.sleep(later).await;
            connection.publish(vec![publish]).await;
        });
        true
    }

    /// Publishes a task again when it has probably ended: a planted fault.
    fn gives_again(&self, publish: &Publish) {
        if !self.world.plants(Plant::GivenAgain) {
            return;
        }
        let (world, node, clock) = (Arc::clone(&self.world), self.node, Arc::clone(&self.clock));
        let (connection, publish) = (self.connection(), publish.clone());
        self.world.executor.spawn(node, async move {
            clock.sleep(AGAIN).await;
            world.gives(node, &publish.event);
            connection.publish(vec![publish]).await;
        });
    }

    /// The events of a batch that are actually published.
    fn plan(&self, batch: &[Publish]) -> Vec<Publish> {
        let mut planned = Vec::with_capacity(batch.len());
        for publish in batch {
            let action = publish.event.event_type.action();
            let is_task = action == "task_assigned";
            let (is_vanished, is_doubled) = {
                let mut state = self.world.state();
                let rates = state.rates;
                let is_vanished = state.random.per_mille(rates.vanished);
                (is_vanished, state.random.per_mille(rates.doubled))
            };
            // The relay publishes from the log, and does not publish a lost event again.
            if is_vanished && action.starts_with("task_") {
                self.world.note(format_args!("the broker loses {action}"));
                continue;
            }
            if !action.starts_with("task_") && self.publishes_later(publish) {
                continue;
            }
            let event = match self.world.plants(Plant::ChangedAnswer) {
                true => changed(publish.event.clone()),
                false => publish.event.clone(),
            };
            planned.push(Publish { event, ..publish.clone() });
            if is_task {
                self.gives_again(publish);
            }
            if is_task && self.world.plants(Plant::DuplicateDispatch) {
                let event = publish.event.clone().with_id(EventId::generate());
                planned.push(Publish { event, ..publish.clone() });
            }
            if is_doubled {
                planned.push(publish.clone());
            }
        }
        planned
    }
}

/// An answer with another result: a planted fault.
fn changed(mut event: Event) -> Event {
    if let Ok(answer) = event.data::<TaskCompleted>()
        && let Ok(value) = answer.output.decode::<i64>()
        && let Ok(output) = Payload::encode(&(value + 1))
        && let Ok(payload) = Payload::encode(&TaskCompleted::new(answer.task_id, output))
    {
        event.payload = payload;
    }
    event
}

impl std::fmt::Debug for NodeBroker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NodeBroker({})", self.0.node.0)
    }
}

#[async_trait]
impl Broker for NodeBroker {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let inner = &self.0;
        // An answer may overtake the publication that is in progress.
        let tasks = batch.iter().filter(|it| it.event.event_type.action() == "task_assigned");
        tasks.for_each(|task| inner.world.gives(inner.node, &task.event));
        if let Err(error) = inner.request("publish").await {
            return vec![Err(error); batch.len()];
        }
        let planned = inner.plan(&batch);
        for publish in &planned {
            let event = &publish.event;
            if event.event_type.action() == "task_assigned" {
                inner.world.given(event);
            }
            inner.world.note(format_args!("publish {} {}", event.event_type, event.id));
        }
        let unroutable =
            |publish: &Publish| !planned.iter().any(|it| it.event.id == publish.event.id);
        let answers = inner.connection().publish(planned.clone()).await;
        if inner.is_lost() {
            inner.world.note("the confirmation is lost");
            return vec![Err(BrokerError::Uncertain); batch.len()];
        }
        let of = |publish: &Publish| {
            if unroutable(publish) {
                return Ok(());
            }
            let place = planned.iter().position(|it| it.event.id == publish.event.id);
            place.and_then(|place| answers.get(place).cloned()).unwrap_or(Ok(()))
        };
        batch.iter().map(of).collect()
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        let inner = &self.0;
        inner.request("subscribe").await?;
        let mailbox = match &subscription.address {
            Address::Mailbox(mailbox) => Some(mailbox.as_str().into()),
            Address::Group(_) => None,
        };
        let deliveries = inner.connection().subscribe(subscription.clone()).await?;
        let generation = inner.generation();
        let number = inner.subscriptions.fetch_add(1, Ordering::Relaxed);
        let (reader, inner) = ((inner.node, number), Arc::clone(inner));
        Ok(Deliveries::new(Subscribed {
            inner,
            reader,
            subscription,
            mailbox,
            generation,
            deliveries: Some(deliveries),
            pause: None,
        }))
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        self.0.request("read dead letters").await?;
        self.0.connection().dead_letters(address).await
    }

    /// Continues with the next connection when one is lost.
    fn health(&self) -> HealthWatch {
        let inner = Arc::clone(&self.0);
        let connection = inner.connection();
        let watch = connection.health();
        HealthWatch::new(stream::unfold((inner, connection, watch), next_health))
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.0.connection().close(deadline).await
    }
}

/// A node, its connection to the broker, and what watches that.
type Watched = (Arc<Inner>, Arc<MemoryBroker>, HealthWatch);

async fn next_health((inner, mut connection, mut watch): Watched) -> Option<(Health, Watched)> {
    loop {
        let health = watch.next().await;
        let current = inner.connection();
        let is_lost = matches!(health, Some(Health::Closed) | None);
        if !is_lost || Arc::ptr_eq(&connection, &current) {
            return health.map(|health| (health, (inner, connection, watch)));
        }
        watch = current.health();
        connection = current;
    }
}

/// A subscription that is re-established after its connection was lost.
struct Subscribed {
    inner: Arc<Inner>,
    reader: Reader,
    subscription: Subscription,
    mailbox: Option<Arc<str>>,
    generation: u64,
    deliveries: Option<Deliveries>,
    /// The network is slow, or the connection is being re-established.
    pause: Option<BoxFuture<'static, ()>>,
}

impl Stream for Subscribed {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.inner.is_cut() {
                self.pause = Some(self.inner.clock.sleep(RECONNECT));
                continue;
            }
            if self.generation != self.inner.generation() || self.deliveries.is_none() {
                if let Err(error) = self.subscribe_again() {
                    return Poll::Ready(Some(Err(error)));
                }
                continue;
            }
            let Some(deliveries) = &mut self.deliveries else { continue };
            match ready!(deliveries.poll_next_unpin(context)) {
                Some(Ok(delivery)) => return Poll::Ready(Some(Ok(self.deliver(delivery)))),
                // The connection was lost.
                Some(Err(_)) | None => self.deliveries = None,
            }
        }
    }
}

impl Subscribed {
    fn subscribe_again(&mut self) -> Result<(), BrokerError> {
        self.generation = self.inner.generation();
        self.deliveries = None;
        if self.mailbox.is_some() && self.inner.world.plants(Plant::MailboxForgotten) {
            self.pause = Some(Box::pin(std::future::pending()));
            return Ok(());
        }
        let connection = self.inner.connection();
        let subscribed = connection.subscribe(self.subscription.clone()).now_or_never();
        self.deliveries = Some(subscribed.unwrap_or(Err(BrokerError::Uncertain))?);
        self.pause = Some(self.inner.clock.sleep(RECONNECT));
        Ok(())
    }

    fn deliver(&self, delivery: Delivery) -> Delivery {
        let world = &self.inner.world;
        world.note(format_args!("gets {} {}", delivery.event.event_type, delivery.event.id));
        if let Some(mailbox) = &self.mailbox {
            world.reads(mailbox, self.reader);
        }
        let (event, attempt) = (delivery.event.clone(), delivery.attempt);
        let redelivered = delivery.redelivered;
        world.task_delivered(self.inner.node, &event, redelivered);
        let number = self.inner.subscriptions.fetch_add(1, Ordering::Relaxed);
        let held = self.mailbox.is_some().then_some((self.inner.node, number));
        if let Some(held) = held {
            world.holds(&event, held);
        }
        let mut settle = Settling {
            inner: Arc::clone(&self.inner),
            held,
            generation: self.generation,
            delivery: Some(delivery),
        };
        if settle.held.is_some() && world.plants(Plant::AcknowledgedBeforeCommit) {
            let _ = settle.settle_now(Settlement::Ack);
        }
        Delivery::new(event, attempt, Box::new(settle)).with_redelivered(redelivered)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.inner.world.reads_no_more(self.reader);
    }
}

/// The settlement of a delivery.
struct Settling {
    inner: Arc<Inner>,
    /// Its number, if it belongs to a mailbox.
    held: Option<Reader>,
    generation: u64,
    delivery: Option<Delivery>,
}

impl Settling {
    /// Settles, and returns whether the broker knew the delivery.
    fn settle_now(&mut self, settlement: Settlement) -> Result<(), BrokerError> {
        let Some(delivery) = self.delivery.take() else { return Ok(()) };
        let is_lost = self.generation != self.inner.generation();
        if let Some(held) = self.held {
            self.inner.world.settled(&delivery.event, held);
            if settlement == Settlement::Ack && !is_lost {
                self.inner.world.acknowledged(&delivery.event);
            }
        }
        if is_lost {
            // The connection that delivered it is gone, and the broker took it back.
            let _ = delivery.settle(settlement).now_or_never();
            return Err(BrokerError::Closed);
        }
        delivery.settle(settlement).now_or_never().unwrap_or(Err(BrokerError::Uncertain))
    }
}

#[async_trait]
impl Acknowledger for Settling {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        let Some(delivery) = &self.delivery else { return Ok(()) };
        self.inner.world.note(format_args!("{settlement:?} {}", delivery.event.id));
        if self.inner.is_cut() {
            return Err(BrokerError::Uncertain);
        }
        if self.inner.is_lost() {
            self.inner.world.note("the settlement is lost");
            let _ = self.settle_now(Settlement::Release);
            return Err(BrokerError::Uncertain);
        }
        self.settle_now(settlement)
    }

    fn release(mut self: Box<Self>) {
        let _ = self.settle_now(Settlement::Release);
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let _ = self.settle_now(Settlement::Release);
    }
}
