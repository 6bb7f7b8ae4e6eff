use std::fmt::Debug;

use aios_core::BoxFuture;

/// Polls runs somewhere else than on the threads of the runtime, for workflows in a language that
/// has a thread of its own.
pub trait RunExecutor: Debug + Send + Sync + 'static {
    /// Begins to poll a run, which wakes whoever polls it as any future does, and needs tokio's
    /// context. The future that is returned completes with the run.
    ///
    /// # Cancel safety
    ///
    /// Dropping what is returned has to drop the run.
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}
