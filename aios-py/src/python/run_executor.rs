//! Polls workflow runs on the thread of the event loop.
//!
//! Workflow code needs the interpreter's lock, which the loop's thread already holds. On any other
//! thread, every poll would wait for the lock, and the loop would wait for every poll.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use aios_agents::runtime::RunExecutor;
use aios_core::BoxFuture;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use super::Bridge;

/// Executes runs on an event loop.
pub(crate) struct LoopExecutor {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) tokio: Handle,
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
}

impl fmt::Debug for LoopExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoopExecutor").finish_non_exhaustive()
    }
}

type Run = (BoxFuture<'static, ()>, oneshot::Sender<()>);

/// A run that the loop polls.
struct RunTask {
    run: Mutex<Option<Run>>,
    /// Whether a job to poll the run is queued.
    queued: AtomicBool,
    bridge: Arc<Bridge>,
    tokio: Handle,
}

impl RunTask {
    /// Polls the run once. Called on the loop's thread.
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
