//! Tasks that the broker may have lost: those that it had when its connection broke, or in a queue
//! that is gone.
//!
//! A broker that keeps its data loses nothing when a connection breaks. One in memory, or one that was
//! replaced, comes back without any of the tasks, and nothing says so. The suspicion makes the engine
//! look closely for a while; only what is found missing is dispatched again (`driver/unclaimed`).

use std::{sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    broker::{Health, HealthWatch},
};
use tracing::debug;

use crate::workflow::engine::{Engine, Message};

/// How long the engine checks frequently for tasks that the broker may have lost. Agents need time
/// to reconnect and to begin the tasks that still exist.
pub(crate) const WINDOW: Duration = Duration::from_secs(30);

/// Checks for lost tasks each time the broker is connected again.
pub(crate) async fn watch(engine: &Arc<Engine>) -> BoxFuture<'static, ()> {
    let mut health = engine.broker.health();
    // The first value is the current state; later ones are changes.
    let _ = health.next().await;
    Box::pin(run(Arc::clone(engine), health))
}

/// Suspects the broker whenever it is connected after it was not.
async fn run(engine: Arc<Engine>, mut health: HealthWatch) {
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            health = health.next() => match health {
                Some(Health::Connected) => engine.suspect_broker(),
                Some(_) => {}
                None => return,
            }
        }
    }
}

impl Engine {
    /// The broker may have lost tasks that no agent has begun. Those that seem to be lost are
    /// dispatched again without waiting for
    /// [`redispatch_after`](crate::workflow::engine::EngineOptions::redispatch_after).
    pub(super) fn suspect_broker(&self) {
        debug!("the broker may have lost tasks; looking for those that no agent has begun");
        self.activity.suspect();
        self.live.broadcast(&self.ownership.shards(), || Message::Suspect);
    }
}
