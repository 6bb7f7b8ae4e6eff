//! The interface for runs that another thread must poll.

use std::{fmt::Debug, time::Duration};

use aios_core::BoxFuture;

/// Polls runs outside the threads of the runtime, for workflows in a language that has a thread of
/// its own.
///
/// A driver awaits the store and the broker in the same future as the code of the run, so the executor
/// polls all of it. It must do so until the run is complete: a run that is dropped is blocked with
/// `RUN_PANICKED`, unless the engine is stopping.
///
/// # Examples
///
/// Counts how often runs are polled, and leaves the polling to the caller:
///
/// ```
/// use std::{
///     future::poll_fn,
///     sync::{
///         Arc,
///         atomic::{AtomicUsize, Ordering},
///     },
///     time::Duration,
/// };
///
/// use aios_agents::{prelude::*, runtime::RunExecutor};
/// use aios_core::BoxFuture;
///
/// #[derive(Debug, Default)]
/// struct Counting(Arc<AtomicUsize>);
///
/// impl RunExecutor for Counting {
///     fn drive(&self, mut run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
///         let polls = Arc::clone(&self.0);
///         Box::pin(poll_fn(move |context| {
///             polls.fetch_add(1, Ordering::Relaxed);
///             run.as_mut().poll(context)
///         }))
///     }
///
///     // Rust code can't be interrupted.
///     fn on_blocking(&self, _run_id: &str, _limit: Duration) {}
/// }
///
/// let builder = Runtime::builder().executor(Arc::new(Counting::default()));
/// # drop(builder);
/// ```
pub trait RunExecutor: Debug + Send + Sync + 'static {
    /// Starts to poll a run. The run wakes its waker like any future, and must be polled within
    /// tokio's context. The returned future completes with the run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future must drop the run.
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

    /// The code of a run that this executor polls has not returned for about `limit`
    /// ([`EngineOptions::blocked_after`](super::EngineOptions::blocked_after)), and the engine has reported it.
    /// Called again at each check until the code returns.
    ///
    /// An executor that can interrupt the code may do so; the code should then leave with
    /// [`block`](crate::workflow::block). The code may have returned since the check, so the executor must
    /// make sure that it interrupts the same poll.
    ///
    /// A task of the runtime calls this method: it must not wait.
    fn on_blocking(&self, run_id: &str, limit: Duration);
}
