//! The runtime of the program, as lapin uses it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use async_rs::{
    Runtime, Tokio,
    traits::Executor,
    util::{RuntimeParts, Task, TaskImpl},
};
use async_trait::async_trait;

/// The tokio runtime as lapin uses it.
pub(super) type LapinRuntime = Runtime<RuntimeParts<LapinExecutor, Tokio>>;

/// The current tokio runtime for lapin.
pub(super) fn current() -> LapinRuntime {
    on(Tokio::current())
}

/// The runtime for lapin on this tokio runtime.
fn on(tokio: Tokio) -> LapinRuntime {
    Runtime::new(RuntimeParts::new(LapinExecutor(tokio.clone()), tokio))
}

/// The executor of tokio, except that host names are resolved on the thread that asks.
///
/// lapin connects on a thread of its own. It would have names resolved by the blocking threads of
/// tokio. If the runtime is dropped in the meantime, because the process is stopping, tokio cancels
/// the lookup, and lapin's thread panics.
#[derive(Clone, Debug)]
pub(super) struct LapinExecutor(Tokio);

impl Executor for LapinExecutor {
    type Task<T: Send + 'static> = LapinTask<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<LapinTask<T>> {
        LapinTask::Spawned(self.0.spawn(future)).into()
    }

    /// Runs the code at once. lapin calls this only to resolve a name, on its own thread.
    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        code: F,
    ) -> Task<LapinTask<T>> {
        LapinTask::Done(Some(code())).into()
    }
}

/// A task of lapin.
pub(super) enum LapinTask<T: Send + 'static> {
    /// Runs on the runtime.
    Spawned(Task<<Tokio as Executor>::Task<T>>),
    /// Has ended, with the result until it is taken.
    Done(Option<T>),
}

// The result is never pinned.
impl<T: Send + 'static> Unpin for LapinTask<T> {}

impl<T: Send + 'static> Future for LapinTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            Self::Spawned(task) => Pin::new(task).poll(context),
            Self::Done(result) => result.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> TaskImpl for LapinTask<T> {
    async fn cancel(&mut self) -> Option<T> {
        match self {
            Self::Spawned(task) => task.cancel().await,
            Self::Done(result) => result.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use async_rs::traits::AsyncToSocketAddrs;

    use super::*;

    /// With the runtime kit of tokio, this panics: the lookup was cancelled.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn should_resolve_names_for_a_thread_that_outlives_the_runtime() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let kit = on(Tokio::default().with_handle(runtime.handle().clone()));
        runtime.shutdown_background();
        let lookup = kit.to_socket_addrs(("127.0.0.1".to_owned(), 5672_u16));
        let resolved: Vec<SocketAddr> = lookup.to_socket_addrs().await.unwrap().collect();
        assert_eq!(resolved, ["127.0.0.1:5672".parse().unwrap()]);
    }
}
