//! Polls workflow runs on the thread of the event loop.
//!
//! Workflow code needs the interpreter's lock, which the loop's thread already holds. On any other
//! thread, every poll would wait for the lock, and the loop would wait for every poll.
//!
//! The engine hands each run over as a future, and waits for the future that [`LoopExecutor`]
//! returns. Between the two is a [`RunTask`], a small executor for one future:
//!
//! - Its waker queues one job on the loop. Further wakes have no effect until that job begins, so
//!   that a run which is woken by many outcomes is polled once.
//! - The job polls the run inside the context of the native runtime, because the future may use its
//!   timers and spawn its tasks.
//! - A panic of the poll ends the run as if it had finished. The engine catches panics of workflow
//!   code itself; this guard only keeps a panic from passing through the loop into Python.
//!
//! If the engine drops its future, because the shard moved to another process or the runtime stops,
//! [`RunGuard`] drops the run. It may do so on a native thread; dropping the coroutine attaches to
//! the interpreter there.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aios_agents::runtime::RunExecutor;
use aios_core::BoxFuture;
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyDict};
use tokio::{runtime::Handle, sync::oneshot};
use tracing::warn;

use super::Bridge;

/// Executes runs on an event loop.
pub(crate) struct LoopExecutor {
    /// Queues the polls.
    bridge: Arc<Bridge>,
    /// The native threads, whose timers the runs use.
    tokio: Handle,
    /// Whether a thread waits for the interpreter in order to interrupt code.
    interrupting: Arc<AtomicBool>,
}

impl LoopExecutor {
    pub(crate) fn new(bridge: Arc<Bridge>, tokio: Handle) -> Self {
        Self { bridge, tokio, interrupting: Arc::default() }
    }
}

impl RunExecutor for LoopExecutor {
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let (done, ended) = oneshot::channel();
        let task = Arc::new(RunTask {
            run: Mutex::new(Some((run, done))),
            queued: AtomicBool::new(false),
            bridge: Arc::clone(&self.bridge),
            tokio: self.tokio.clone(),
        });
        task.wake_by_ref();
        let guard = RunGuard(task);
        Box::pin(async move {
            // An error means that the run panicked, so it has ended too.
            ended.await.unwrap_or_default();
            drop(guard);
        })
    }

    /// Interrupts the code if it computes; see `aios/_workflows/watchdog.py`. On a thread of its own, because
    /// it waits for the interpreter.
    fn on_blocking(&self, run_id: &str, limit: Duration) {
        if self.interrupting.swap(true, Ordering::AcqRel) {
            return;
        }
        let interrupting = Arc::clone(&self.interrupting);
        let (run_id, thread) = (run_id.to_owned(), self.bridge.thread());
        self.tokio.spawn_blocking(move || {
            match Python::try_attach(|py| interrupt(py, thread, limit)) {
                Some(Ok(true)) => {
                    warn!(run = run_id, "interrupted the code of a run that does not return");
                }
                Some(Err(error)) => {
                    warn!(run = run_id, %error, "can't interrupt the code of a run");
                }
                Some(Ok(false)) | None => {}
            }
            interrupting.store(false, Ordering::Release);
        });
    }
}

/// Raises an exception in the code of the run that executes on the thread of the loop, if it has computed for
/// too long. Returns whether it did for the first time: the code may have caught an earlier exception.
///
/// No Python code runs between the look at what executes and the exception: the code could end in between.
fn interrupt(py: Python<'_>, thread: u64, limit: Duration) -> PyResult<bool> {
    let watchdog = py.import("aios._workflows.watchdog")?;
    let executing = watchdog.getattr("executing")?.cast_into::<PyDict>()?;
    let due = watchdog.call_method1("due", (thread, limit.as_secs_f64()))?;
    type Due<'py> = Option<(Bound<'py, PyAny>, u64, Bound<'py, PyAny>)>;
    let Some((driver, turn, raise)) = due.extract::<Due<'_>>()? else { return Ok(false) };
    let is_executing = executing.get_item(thread)?.is_some_and(|it| it.is(&driver));
    if !is_executing || driver.getattr("turn")?.extract::<u64>()? != turn {
        return Ok(false);
    }
    let is_first = !driver.getattr("interrupted")?.is_truthy()?;
    driver.setattr("interrupted", true)?;
    raise.call0()?;
    Ok(is_first)
}

impl fmt::Debug for LoopExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoopExecutor").finish_non_exhaustive()
    }
}

/// A run, and the channel that reports its end.
type Run = (BoxFuture<'static, ()>, oneshot::Sender<()>);

/// A run that the loop polls.
struct RunTask {
    /// `None` once the run has ended. Locked while the run is polled, so that it is not dropped
    /// under the poll.
    run: Mutex<Option<Run>>,
    /// Whether a job to poll the run is queued.
    queued: AtomicBool,
    bridge: Arc<Bridge>,
    tokio: Handle,
}

impl RunTask {
    /// Polls the run once. Called on the loop's thread.
    ///
    /// `queued` is unset before the poll: a wake that comes in the middle of it queues another one.
    fn poll(self: &Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(self));
        let _context = self.tokio.enter();
        let mut slot = self.run.lock();
        let Some((run, _)) = &mut *slot else { return };
        let polled =
            catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(&mut Context::from_waker(&waker))));
        let finished = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(())) | Err(_) => slot.take(),
        };
        drop(slot);
        if let Some((run, done)) = finished {
            drop(run);
            // Fails if the run has been dropped.
            let _ = done.send(());
        }
    }
}

impl Wake for RunTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let task = Arc::clone(self);
            self.bridge.push(Box::new(move |_| {
                task.poll();
                Ok(())
            }));
        }
    }
}

/// Drops the run when it is dropped.
struct RunGuard(Arc<RunTask>);

impl Drop for RunGuard {
    fn drop(&mut self) {
        // Dropped outside the lock, because the drop may wait for the interpreter.
        let run = self.0.run.lock().take();
        drop(run);
    }
}
