//! A running engine, and how it ends.
//!
//! | end | what happens to runs | leases |
//! |---|---|---|
//! | `leave`, then `stop` | steps may end, everything is recorded | released, shard by shard |
//! | `stop` alone | current steps are dropped and begin again elsewhere | released |
//! | dropped | the same | expire |
//! | killed | the same | expire |

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aios_core::failure::Failure;

use super::{Engine, recovery::parking};
use crate::task::JoinSet;

/// How often, and at which interval, the engine checks for in-flight work before it stops.
const QUIESCE_CHECKS: u32 = 40;
const QUIESCE_INTERVAL: Duration = Duration::from_millis(25);

/// A running engine.
#[derive(Debug)]
pub(crate) struct RunningEngine {
    /// Shared with all of its tasks.
    pub(crate) engine: Arc<Engine>,
    /// The loops, ended when this is dropped.
    pub(super) tasks: JoinSet<()>,
}

impl RunningEngine {
    /// Stops advancing runs once their current steps have ended or `grace` is over, and hands each
    /// shard over as soon as none of its runs is active. The runs resume on another engine or after
    /// the next start.
    pub(crate) async fn leave(&self, grace: Duration) {
        self.engine.leave(grace).await;
    }

    /// Stops everything; call [`leave`](Self::leave) first to let current steps end. Returns the
    /// failure if the engine had already stopped because of one.
    pub(crate) async fn stop(mut self) -> Option<Failure> {
        let failure = self.engine.failure();
        if failure.is_none() {
            self.quiesce().await;
        }
        self.engine.stop_runs().await;
        self.tasks.shutdown().await;
        // After the loops, which also write notes, and before the leases under whose fences they are
        // written.
        parking::note_rest(&self.engine).await;
        self.engine.store.unwatch();
        self.engine.release_leases().await;
        failure
    }
}

impl RunningEngine {
    /// Waits until the answers that agents have just sent are recorded: a broker in memory would
    /// lose them, and the tasks would be performed again. Returns once there was no progress for a
    /// moment.
    async fn quiesce(&self) {
        let engine = &self.engine;
        let mut before = None;
        for _ in 0..QUIESCE_CHECKS {
            let count = engine.store.count();
            let now = (engine.answers_received.load(Ordering::Acquire), count.begun);
            if before == Some(now) && !count.is_appending && engine.recorders.is_idle() {
                return;
            }
            before = Some(now);
            engine.clock.sleep(QUIESCE_INTERVAL).await;
        }
    }
}

/// Runs resume from their journals after the next start.
impl Drop for RunningEngine {
    fn drop(&mut self) {
        self.engine.stopping.send_replace(true);
        drop(self.engine.live.take());
        drop(self.engine.ownership.take());
        self.engine.readers.close();
        drop(self.engine.recorders.take());
        drop(self.engine.background.take());
        self.engine.store.unwatch();
    }
}
