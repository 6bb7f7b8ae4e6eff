//! Background tasks of an engine that end on their own, and at the latest with the engine.
//!
//! They hold the engine, and through it the store and deliveries of the broker. The engine therefore
//! keeps track of them, and has stopped only once all of them have ended: otherwise a caller could close
//! the store while they use it, or start the next engine while they hold deliveries. Finished tasks are
//! removed when the next one is spawned.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::task::JoinSet;

/// Tasks of an engine. Once it has stopped, none of them holds its store or a delivery.
#[derive(Debug, Default)]
pub(super) struct BackgroundTasks(Mutex<State>);

/// The tasks, and whether more may be spawned.
#[derive(Debug, Default)]
struct State {
    /// Ended when it is dropped.
    tasks: JoinSet<()>,
    /// Whether the engine has stopped, so that no more tasks are spawned.
    is_closed: bool,
}

impl BackgroundTasks {
    /// Spawns a task, unless the engine has stopped.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let State { tasks, is_closed } = &mut *self.0.lock();
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
        let mut state = self.0.lock();
        state.is_closed = true;
        std::mem::take(&mut state.tasks)
    }

    /// Ends the tasks, and waits until they have ended.
    pub(super) async fn stop(&self) {
        self.take().shutdown().await;
    }
}
