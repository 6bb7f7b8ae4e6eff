//! Tasks that the broker may have lost: those that it had when its connection broke, or in a queue
//! that is gone.
//!
//! A broker that keeps its data loses nothing when a connection breaks. One in memory, or one that was
//! replaced, comes back without any of the tasks, and nothing says so. The suspicion makes the engine
//! look closely for a while; only what is found missing is dispatched again (`driver/unclaimed`).
//!
//! While the broker can't be used, agents can't be heard. Their silence, and answers that are missing, mean
//! nothing then: the deadlines of attempts count from when the broker was connected again (`Audibility`).

use std::{sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    broker::{Health, HealthWatch},
    event::Timestamp,
};
use parking_lot::Mutex;
use tracing::debug;

use crate::workflow::engine::{Engine, Message};

/// How long the engine checks frequently for tasks that the broker may have lost. Agents need time
/// to reconnect and to begin the tasks that still exist.
pub(crate) const WINDOW: Duration = Duration::from_secs(30);

/// How soon an attempt is looked at again that can't be judged because the broker is not connected.
const UNHEARD: Duration = Duration::from_secs(1);

/// Since when the broker has been connected without a break; `None` while it is not.
#[derive(Debug, Default)]
pub(crate) struct Audibility(Mutex<Option<Timestamp>>);

/// Checks for lost tasks each time the broker is connected again.
pub(crate) async fn watch(engine: &Arc<Engine>) -> BoxFuture<'static, ()> {
    let mut health = engine.broker.health();
    // The first value is the current state; later ones are changes.
    if let Some(health) = health.next().await {
        engine.note_health(&health);
    }
    Box::pin(run(Arc::clone(engine), health))
}

/// Suspects the broker whenever it is connected after it was not.
async fn run(engine: Arc<Engine>, mut health: HealthWatch) {
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            health = health.next() => {
                let Some(health) = health else { return };
                engine.note_health(&health);
                if health == Health::Connected {
                    engine.suspect_broker();
                }
            }
        }
    }
}

impl Engine {
    /// Notes whether agents can be heard from now on. A broker that takes no events transports none of
    /// theirs either.
    fn note_health(&self, health: &Health) {
        let is_connected = *health == Health::Connected;
        *self.audibility.0.lock() = is_connected.then(|| self.clock.now());
    }

    /// From when on the silence of an agent counts that was heard, or should have been, at `at`: not
    /// before the broker was connected, and not yet while it is not.
    pub(crate) fn audible_since(&self, at: Timestamp) -> Timestamp {
        let connected_at = *self.audibility.0.lock();
        at.max(connected_at.unwrap_or_else(|| self.clock.now() + UNHEARD))
    }

    /// The broker may have lost tasks that no agent has begun. Those that seem to be lost are
    /// dispatched again without waiting for
    /// [`redispatch_after`](crate::workflow::engine::EngineOptions::redispatch_after).
    pub(super) fn suspect_broker(&self) {
        debug!("the broker may have lost tasks; looking for those that no agent has begun");
        self.activity.suspect();
        self.live.broadcast(&self.ownership.shards(), || Message::Suspect);
    }
}
