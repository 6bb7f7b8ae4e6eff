//! Wakes of the code of a run and of its steps.
//!
//! Every wake is made in a `Turn`, by which the waker of the code tells who it was (`wake_flag`):
//! `Engine` for entries, pauses and cancellations, `Waking` for steps. Wakers are taken out of the lock
//! before they are called, since they may poll or drop something that comes back here.

use std::{sync::atomic::Ordering, task::Waker};

use super::SharedRun;
use crate::workflow::{deferred::Deferred, turn::Turn, wake_flag::StepSignal};

impl SharedRun {
    /// Sets the waker that the code is polled with.
    pub(crate) fn set_code(&self, waker: Waker) {
        self.waiting.lock().set_code(waker);
    }

    /// Sets the signal that a step was woken from outside of the task that polls the code.
    pub(crate) fn set_step_signal(&self, signal: StepSignal) {
        // The task is created once.
        let _ = self.step_signal.set(signal);
    }

    /// Notes a step whose code woke itself or must run again. It is woken once the code is idle.
    pub(super) fn defer_step(&self, operation: u64) {
        self.waiting.lock().woken_steps.push(operation);
    }

    /// Notes a step that was woken from outside of the task that polls the code, and wakes the task,
    /// which wakes the step.
    ///
    /// The step is not woken here. Combinators such as `FuturesUnordered` drop a wake during another one
    /// that has not returned. If another thread woke a step while the task wakes the code for an entry,
    /// the code would not be polled before the next entry.
    pub(super) fn signal_step(&self, operation: u64) {
        self.defer_step(operation);
        self.signal_task();
    }

    /// Wakes the task that polls the code, which wakes the steps that were noted.
    pub(super) fn signal_task(&self) {
        if let Some(signal) = self.step_signal.get() {
            signal.set();
        }
    }

    /// Wakes the steps that were noted.
    pub(crate) fn wake_steps(&self) {
        let woken = std::mem::take(&mut self.waiting.lock().woken_steps);
        woken.into_iter().for_each(|operation| self.wake_step(operation));
    }

    /// Wakes the code of a step, in the task that polls the code.
    pub(crate) fn wake_step(&self, operation: u64) {
        let waker = self.waiting.lock().waker(operation);
        if let Some(waker) = waker {
            let _turn = Turn::Waking(self.run()).begin();
            waker.wake();
        }
    }

    /// Wakes all waiting operations, after a pause or a replay.
    pub(crate) fn wake_all(&self) {
        let wakers = self.waiting.lock().remove_all();
        self.wake_each(wakers);
    }

    /// Wakes the code that waits for a cancellation.
    pub(crate) fn wake_cancelled(&self) {
        let waker = self.waiting.lock().remove_cancelled();
        self.wake_each(waker);
    }

    /// Calls wakers in the turn of the engine.
    pub(super) fn wake_each(&self, wakers: impl IntoIterator<Item = Waker>) {
        let _turn = Turn::Engine(self.run()).begin();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Number of clones of the code's waker that are stored here.
    pub(crate) fn wakers(&self) -> usize {
        self.waiting.lock().wakers()
    }

    /// Sets or clears the detector of deferred wakes and returns the previous one.
    pub(crate) fn watch(&self, deferred: Option<Deferred>) -> Option<Deferred> {
        self.is_watching.store(deferred.is_some(), Ordering::Release);
        std::mem::replace(&mut *self.deferred.lock(), deferred)
    }

    /// Whether deferred wakes are detected now. Read without the lock, because it is false for most
    /// runs.
    fn is_watching(&self) -> bool {
        self.is_watching.load(Ordering::Acquire)
    }

    /// Counts the wakes that were deferred since the last call, while the code was polled.
    pub(super) fn check_deferred(&self) {
        if self.is_watching()
            && let Some(deferred) = &mut *self.deferred.lock()
        {
            deferred.check();
        }
    }

    /// Ignores the wakes that were deferred since the last call, while the code of a step was polled.
    pub(super) fn skip_deferred(&self) {
        if self.is_watching()
            && let Some(deferred) = &mut *self.deferred.lock()
        {
            deferred.skip();
        }
    }
}
