//! The projections of a runtime: one spawned task each, and one signal that stops all of them.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use aios_core::{clock::Clock, failure::Failure};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{failing::Failing, task::JoinSet};

/// The projections that run in this process. Dropping it stops them.
pub(crate) struct Running {
    /// `true` once they must stop. Dropping the sender means the same.
    stopping: watch::Sender<bool>,
    /// Ended by `stop`; aborted when this is dropped.
    tasks: Mutex<JoinSet<()>>,
    /// A name runs at most once per runtime.
    names: Names,
    /// The first permanent error of any of them.
    failing: Arc<Failing>,
}

/// The names of projections that run.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

/// The name of a projection, taken until this is dropped.
pub(super) struct TakenName {
    /// Removed from `names` when this is dropped, which is when the task of the projection ends.
    name: String,
    names: Names,
}

impl Drop for TakenName {
    fn drop(&mut self) {
        self.names.0.lock().remove(&self.name);
    }
}

impl Running {
    /// Takes the name of a projection. `None` if one with this name runs.
    pub(super) fn take_name(&self, name: &str) -> Option<TakenName> {
        let is_free = self.names.0.lock().insert(name.to_owned());
        is_free.then(|| TakenName { name: name.to_owned(), names: self.names.clone() })
    }

    /// Spawns a projection with its stop signal.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        run: impl FnOnce(Stop, Arc<Failing>) -> F,
    ) {
        let run = run(Stop(self.stopping.subscribe()), Arc::clone(&self.failing));
        self.tasks.lock().spawn(run);
    }

    /// The permanent error that ended a projection, if one did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failing.failure()
    }

    /// Completes when a projection ends after a permanent error.
    pub(crate) async fn failed(&self) -> Failure {
        self.failing.failed().await
    }

    /// Stops the projections. Lets batches in progress end within `deadline`.
    pub(crate) async fn stop(&self, clock: &dyn Clock, deadline: Duration) {
        self.stopping.send_replace(true);
        // Taken out, so that no lock is held while they end.
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tokio::select! {
            biased;
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = clock.sleep(deadline) => tracing::warn!("a projection was still applying a batch at the shutdown deadline"),
        }
    }
}

impl Default for Running {
    fn default() -> Self {
        Self {
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            names: Names::default(),
            failing: Arc::default(),
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Running").finish_non_exhaustive()
    }
}

/// Tells a projection to stop.
#[derive(Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Whether the projection must stop, or the runtime was dropped.
    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes once the projection must stop.
    pub(super) async fn requested(&self) {
        // An error means that the runtime was dropped.
        let _ = self.0.clone().wait_for(|stopping| *stopping).await;
    }
}
