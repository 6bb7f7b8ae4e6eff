//! Finds code that awaits a timer or I/O of tokio beside its operations.
//!
//! Such a wait keeps a clone of the code's waker, as a channel between two branches does. Nothing else
//! tells them apart before the waker is used, and a run that leaves memory takes the timer along. So
//! the code is replayed once within a runtime that has neither timers nor I/O: tokio panics where the
//! code creates one, and a channel works as before.
//!
//! The runtime is entered but never driven, so tasks that the code spawns during the probe do not run.

use std::io;

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// A runtime without timers and I/O, in which the code is polled during a replay.
#[derive(Debug)]
pub(super) struct Probe(Option<Runtime>);

impl Probe {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_current_thread().build()?)))
    }

    /// Makes it the current runtime of this thread until the guard is dropped.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    /// Whether the code has spawned a task that it may await.
    pub(super) fn has_tasks(&self) -> bool {
        self.0.as_ref().is_some_and(|runtime| runtime.metrics().num_alive_tasks() > 0)
    }
}

impl Drop for Probe {
    /// A runtime that is dropped within another one panics, because it would block the thread.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
