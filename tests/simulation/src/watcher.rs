//! Reads the events that the relay publishes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    broker::{Broker, Group, Subscription},
    event::{Event, EventId},
    store::{EventStore, RecordedEvent, StreamId},
};
use futures_util::FutureExt;

use crate::{executor::Node, invariant::Invariant, world::World};

/// The workflow events that the relay has to publish.
const RELAYED: [&str; 8] = [
    "registered",
    "started",
    "signaled",
    "blocked",
    "completed",
    "failed",
    "cancelled",
    "continued",
];

/// A subscriber of the log's events, which is not affected by faults.
pub struct Watcher(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    ids: BTreeSet<EventId>,
    /// In the order of their first arrival.
    order: Vec<EventId>,
}

impl Watcher {
    pub async fn start(world: &Arc<World>) -> Self {
        let patterns = ["workflows.#", "sim.#"].map(|pattern| pattern.parse().expect("a pattern"));
        let group = Group::new("watcher").expect("a name");
        let subscription = Subscription::group(group, patterns);
        let mut deliveries =
            world.broker.subscribe(subscription).await.expect("nothing fails here");
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let watcher = Self(Arc::clone(&seen));
        world.executor.spawn(Node::WORLD, async move {
            while let Some(Ok(delivery)) = deliveries.next().await {
                let id = delivery.event.id.clone();
                note(&seen, id);
                let _ = delivery.ack().await;
            }
        });
        watcher
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        "workflows" => RELAYED.contains(&event.event_type.action()),
        domain => domain == "sim",
    };
    log.retain(|recorded| is_relayed(&recorded.event));
    log
}
