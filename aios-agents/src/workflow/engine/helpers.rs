//! The tasks beside the loops of an engine: they end on their own, and with the engine.
//!
//! They hold the engine, and through it the store and deliveries of the broker. So they are counted,
//! and the engine has not stopped before they have ended: otherwise a caller could close the store
//! under them, or start the next engine while deliveries are still held. Finished ones are removed when
//! the next is spawned.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::task::JoinSet;

/// Tasks of an engine. Once it has stopped, none of them holds its store or a delivery.
#[derive(Debug, Default)]
pub(super) struct Helpers(Mutex<Helping>);

/// The tasks, and whether there may be more.
#[derive(Debug, Default)]
struct Helping {
    /// Ended when it is dropped.
    tasks: JoinSet<()>,
    /// Whether no task is spawned any more.
    is_closed: bool,
}

impl Helpers {
    /// Spawns a task, unless the engine has stopped.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let Helping { tasks, is_closed } = &mut *self.0.lock();
        while tasks.try_join_next().is_some() {}
        (!*is_closed).then(|| tasks.spawn(task))
    }

    /// Whether no task is running.
    pub(super) fn is_idle(&self) -> bool {
        let tasks = &mut self.0.lock().tasks;
        while tasks.try_join_next().is_some() {}
        tasks.is_empty()
    }

    /// Takes the tasks, and prevents new ones; dropping them ends them.
    pub(super) fn take(&self) -> JoinSet<()> {
        let mut helping = self.0.lock();
        helping.is_closed = true;
        std::mem::take(&mut helping.tasks)
    }

    /// Ends the tasks, and waits until they have ended.
    pub(super) async fn stop(&self) {
        self.take().shutdown().await;
    }
}
