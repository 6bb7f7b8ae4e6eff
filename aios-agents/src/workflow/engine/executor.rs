use std::fmt::Debug;

use aios_core::BoxFuture;

/// Polls runs outside the threads of the runtime, for workflows in a language that has a thread of
/// its own.
pub trait RunExecutor: Debug + Send + Sync + 'static {
    /// Starts to poll a run. The run wakes its waker like any future, and must be polled within
    /// tokio's context. The returned future completes with the run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future must drop the run.
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}
