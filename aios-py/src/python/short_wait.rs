//! A short wait of the native thread for an answer of Python, before the thread sleeps.
//!
//! Python often answers at once when a native thread has handed a job over to the event loop: an
//! `async def` function returns, or the code that got a result makes its next call. Putting the
//! thread to sleep and waking it takes longer than that, most of all if its processor sleeps too. So
//! the thread first looks for work for a moment:
//!
//! - only if a job was handed over since it slept last, so that an idle client stays idle;
//! - seldom, if Python does not answer in time: after the first wait without an answer it omits one
//!   wait, after the second three, and so on, and after an answer it omits none;
//! - with other threads that need its processor going first;
//! - only if it is the only native thread of its client. A thread that waits counts as one that looks
//!   for work, so that others would not be woken for the tasks that one of them spawns.
//!
//! Tasks that other threads wake end the wait. Input and timers do not: they are late by at most
//! [`LIMIT`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, RuntimeMetrics};

use super::Bridge;

/// How long to wait: longer than waking the loop and running a short function there takes.
const LIMIT: Duration = Duration::from_micros(80);

/// The number of waits without an answer from which on the number of omitted waits does not grow.
const MAX_MISSES: u32 = 6;

/// Decides when the native thread of a client waits. Used by that thread only.
pub(crate) struct ShortWait {
    /// Tells whether something was handed over.
    bridge: Arc<Bridge>,
    /// The number of waits without an answer since the last one with an answer.
    misses: AtomicU32,
    /// How many of the next waits to omit.
    omitted: AtomicU32,
}

impl ShortWait {
    /// The wait of a client with this number of native threads; `None` if it would do harm.
    pub(crate) fn new(bridge: &Arc<Bridge>, workers: usize) -> Option<Self> {
        let is_lone = workers <= 1;
        let has_processors = thread::available_parallelism().is_ok_and(|number| number.get() > 1);
        (is_lone && has_processors).then(|| Self {
            bridge: Arc::clone(bridge),
            misses: AtomicU32::new(0),
            omitted: AtomicU32::new(0),
        })
    }

    /// Waits, if an answer is likely. Called by the native thread before it sleeps.
    pub(crate) fn before_sleep(&self) {
        if !self.bridge.take_handed_over() {
            return;
        }
        let omitted = self.omitted.load(Ordering::Relaxed);
        if omitted > 0 {
            return self.omitted.store(omitted - 1, Ordering::Relaxed);
        }
        let misses = match has_work_soon(&Handle::current().metrics()) {
            true => 0,
            false => MAX_MISSES.min(self.misses.load(Ordering::Relaxed) + 1),
        };
        self.misses.store(misses, Ordering::Relaxed);
        self.omitted.store((1 << misses) - 1, Ordering::Relaxed);
    }
}

/// Waits until another thread has woken a task. Returns whether that happened in time.
#[allow(clippy::disallowed_methods, reason = "it only decides when a thread sleeps")]
fn has_work_soon(metrics: &RuntimeMetrics) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        if metrics.global_queue_depth() > 0 {
            return true;
        }
        thread::yield_now();
    }
    false
}
