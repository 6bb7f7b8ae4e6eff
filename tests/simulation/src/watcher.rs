//! Reads the events that the relay publishes.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use aios_core::{
    broker::{Broker, Deliveries, Group, Subscription},
    catalog,
    event::{Event, EventId},
    store::{EventStore, RecordedEvent, StreamId},
};
use futures_util::{FutureExt, StreamExt};

use crate::{executor::Node, invariant::Invariant, world::World};

/// A subscriber of the log's events, which is not affected by faults. It has everything that a
/// broker had when it was replaced.
#[derive(Clone)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    deliveries: Arc<Mutex<Deliveries>>,
}

#[derive(Default)]
struct Seen {
    ids: BTreeSet<EventId>,
    /// In the order of their first arrival.
    order: Vec<EventId>,
}

impl Watcher {
    pub fn start(world: &Arc<World>) -> Self {
        let deliveries = Arc::new(Mutex::new(subscribe(world)));
        let watcher = Self { seen: Arc::default(), deliveries };
        let reading = watcher.clone();
        world.executor.spawn(Node::WORLD, poll_fn(move |context| reading.poll(context)));
        watcher
    }

    /// Reads everything that is there.
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
            let next = ready!(deliveries.poll_next_unpin(context));
            drop(deliveries);
            let Some(Ok(delivery)) = next else { return Poll::Ready(()) };
            note(&self.seen, delivery.event.id.clone());
            let _ = delivery.ack().now_or_never();
        }
    }

    /// Reads the rest of a broker that is about to be replaced, replaces it, and subscribes to its
    /// successor.
    pub fn replace_broker(&self, world: &Arc<World>) {
        let _ = self.poll(&mut Context::from_waker(Waker::noop()));
        world.replace_broker();
        let successor = subscribe(world);
        *self.deliveries.lock().unwrap_or_else(PoisonError::into_inner) = successor;
        let reading = self.clone();
        world.executor.spawn(Node::WORLD, poll_fn(move |context| reading.poll(context)));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all expected events were published.
    pub fn is_done(&self, world: &World) -> bool {
        let seen = self.seen();
        relayed(world).iter().all(|it| seen.ids.contains(&it.event.id))
    }

    /// The expected events that were not published.
    pub fn missing(&self, world: &World) -> String {
        let seen = self.seen();
        let events = relayed(world);
        let missing = events.iter().filter(|it| !seen.ids.contains(&it.event.id));
        let missing: Vec<_> =
            missing.map(|it| format!("{} {}", it.event.event_type, it.event.id)).collect();
        format!("not published: {}", missing.join(", "))
    }

    /// Reports a violation if the events of a stream arrived in another order than that of the log.
    pub fn check_order(&self, world: &World) {
        let mut streams: BTreeMap<StreamId, Vec<EventId>> = BTreeMap::new();
        let mut stream_of = BTreeMap::new();
        for RecordedEvent { stream, event, .. } in relayed(world) {
            streams.entry(stream.clone()).or_default().push(event.id.clone());
            stream_of.insert(event.id, stream);
        }
        let mut came: BTreeMap<StreamId, Vec<EventId>> = BTreeMap::new();
        for id in &self.seen().order {
            if let Some(stream) = stream_of.get(id) {
                came.entry(stream.clone()).or_default().push(id.clone());
            }
        }
        for (stream, ids) in &streams {
            let came = came.get(stream);
            if came.is_some_and(|came| came != ids) {
                let how = format!("the events {ids:?} of {stream} came as {came:?}");
                world.violated(Invariant::RelayKeepsOrder, how);
            }
        }
    }
}

fn subscribe(world: &World) -> Deliveries {
    let patterns = ["workflows.#", "sim.#"].map(|pattern| pattern.parse().expect("a pattern"));
    let subscription = Subscription::group(Group::new("watcher").expect("a name"), patterns);
    let subscribed = world.connect().subscribe(subscription).now_or_never();
    subscribed.and_then(Result::ok).expect("nothing fails here")
}

fn note(seen: &Mutex<Seen>, id: EventId) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.ids.insert(id.clone()) {
        seen.order.push(id);
    }
}

/// The events of the log that the relay has to publish.
fn relayed(world: &World) -> Vec<RecordedEvent> {
    let log = world.store.read_log(0, usize::MAX).now_or_never();
    let mut log = log.and_then(Result::ok).unwrap_or_default();
    let is_relayed = |event: &Event| match event.event_type.domain() {
        "workflows" => catalog::kind_of(&event.event_type).is_some_and(|kind| kind.relayed),
        domain => domain == "sim",
    };
    log.retain(|recorded| is_relayed(&recorded.event));
    log
}
