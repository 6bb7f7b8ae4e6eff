//! The tasks beside the loops of an engine: they end on their own, and with the engine.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::task::JoinSet;

/// Tasks of an engine. Once it has stopped, none of them holds its store or a delivery.
#[derive(Debug, Default)]
pub(super) struct Helpers(Mutex<Helping>);

#[derive(Debug, Default)]
struct Helping {
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
