//! Polls runs on the thread of the event loop.
//!
//! The code of a workflow needs the interpreter's lock, which the loop's thread has anyway. On any
//! other thread every poll would wait for the lock, and the loop for every poll.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use aios_agents::runtime::RunExecutor;
use aios_core::BoxFuture;
use tokio::{runtime::Handle, sync::oneshot};

use crate::bridge::Bridge;

/// Gives runs to a loop.
pub(crate) struct LoopExecutor {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) tokio: Handle,
}

impl RunExecutor for LoopExecutor {
    fn drive(&self, run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let (done, ended) = oneshot::channel();
        let driven = Arc::new(Driven {
            run: Mutex::new(Some((run, done))),
            queued: AtomicBool::new(false),
            bridge: Arc::clone(&self.bridge),
            tokio: self.tokio.clone(),
        });
        driven.wake_by_ref();
        let owner = Owner(driven);
        Box::pin(async move {
            // An error means that the run panicked, and is over too.
            ended.await.unwrap_or_default();
            drop(owner);
        })
    }
}

impl fmt::Debug for LoopExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoopExecutor").finish_non_exhaustive()
    }
}

type Run = (BoxFuture<'static, ()>, oneshot::Sender<()>);

/// A run that is polled on the loop.
struct Driven {
    run: Mutex<Option<Run>>,
    /// Whether the loop has a job to poll it.
    queued: AtomicBool,
    bridge: Arc<Bridge>,
    tokio: Handle,
}

impl Driven {
    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the run once, on the loop's thread.
    fn poll(self: &Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(self));
        let _context = self.tokio.enter();
        let mut slot = self.run();
        let Some((run, _)) = &mut *slot else { return };
        let polled =
            catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(&mut Context::from_waker(&waker))));
        let over = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(())) | Err(_) => slot.take(),
        };
        drop(slot);
        if let Some((run, done)) = over {
            drop(run);
            // Nobody waits for a run that was dropped meanwhile.
            let _ = done.send(());
        }
    }
}

impl Wake for Driven {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let driven = Arc::clone(self);
            self.bridge.push(Box::new(move |_| {
                driven.poll();
                Ok(())
            }));
        }
    }
}

/// Dropping this drops the run.
struct Owner(Arc<Driven>);

impl Drop for Owner {
    fn drop(&mut self) {
        // Dropped outside of the lock: that may wait for the interpreter.
        let run = self.0.run().take();
        drop(run);
    }
}
