//! Wakes that tokio defers.
//!
//! `tokio::task::yield_now` wakes its task after the scheduler has run other tasks, not immediately.
//! The code of a workflow is not idle before that wake. Otherwise a replay could apply an entry before
//! the wake that the live run applied after it.
//!
//! The scheduler has no interface that lists what it deferred. `Deferred` finds out with a probe: a
//! waker of its own that it puts into the same list through `yield_now`. Two properties of the list
//! make that work:
//!
//! - A waker is not added if the last one of the list is the same. So a probe that can be added a
//!   second time shows that another waker came in between.
//! - The list is woken as a whole. So when the probe has been woken as often as it was added, the
//!   wakers in between have been woken too.
//!
//! `execution` creates one for a poll of the code only if something outside of the engine may hold a
//! clone of the code's waker. For all other polls nothing can have been deferred.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Detects deferred wakes on this thread, and waits for them.
///
/// The scheduler keeps a list of deferred wakers and adds a waker only if it is not already the last
/// one in the list. A probe that can be added twice therefore shows that another waker was added in
/// between.
#[derive(Debug)]
pub(crate) struct Deferred {
    /// Shared with every waker in the scheduler's list. Its strong count shows whether the list took
    /// one.
    probe: Arc<Probe>,
    /// A waker of `probe`, the one that is added.
    waker: Waker,
    /// Number of times that the probe was added, each of which is followed by one wake.
    added: usize,
    /// Whether a waker of something else was added, or is assumed to have been.
    found: bool,
}

/// Counts how often the scheduler has woken the probe, and passes the wake on to the polling task.
#[derive(Debug, Default)]
struct Probe {
    /// Number of wakes, compared with `Deferred::added`.
    woken: AtomicUsize,
    /// The task that waits in `Deferred::poll`.
    task: AtomicWaker,
}

impl Deferred {
    /// Begins to detect deferred wakes.
    pub(super) fn watch() -> Self {
        let probe = Arc::new(Probe::default());
        let waker = Waker::from(Arc::clone(&probe));
        let mut deferred = Self { probe, waker, added: 0, found: false };
        deferred.add();
        deferred
    }

    /// Assumes that a wake was deferred.
    pub(super) fn assume(mut self) -> Self {
        self.found = true;
        self
    }

    /// Checks for wakes that were deferred since the last check.
    pub(super) fn check(&mut self) {
        self.found |= self.add();
    }

    /// Ignores wakes that were deferred since the last check.
    pub(super) fn skip(&mut self) {
        self.add();
    }

    /// Whether a deferred wake is outstanding.
    pub(super) fn is_outstanding(&self) -> bool {
        self.found && self.probe.woken.load(Ordering::Acquire) < self.added
    }

    /// Completes when no deferred wake is outstanding.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.probe.task.register(context.waker());
        if self.is_outstanding() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Adds the probe to the list and returns whether it was not already the last one. Outside of a
    /// scheduler the probe is woken immediately, like every other waker.
    ///
    /// The future of `yield_now` is polled once and dropped: its first poll adds the waker and returns
    /// `Pending`. A clone of the waker that stays behind increases the strong count, which is how the
    /// addition is noticed.
    fn add(&mut self) -> bool {
        let before = Arc::strong_count(&self.probe);
        let yielding = pin!(tokio::task::yield_now());
        let _ = yielding.poll(&mut Context::from_waker(&self.waker));
        let was_added = Arc::strong_count(&self.probe) > before;
        self.added += usize::from(was_added);
        was_added
    }
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.fetch_add(1, Ordering::AcqRel);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_notice_deferred_wakes_until_they_arrive() {
        let mut deferred = Deferred::watch();
        deferred.check();
        assert!(!deferred.is_outstanding(), "nothing was deferred");
        let yielding = pin!(tokio::task::yield_now());
        assert!(yielding.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        deferred.check();
        assert!(deferred.is_outstanding());
        std::future::poll_fn(|context| deferred.poll(context)).await;
        assert!(!deferred.is_outstanding());
    }

    #[test]
    fn should_wait_for_nothing_outside_of_a_scheduler() {
        let mut deferred = Deferred::watch().assume();
        deferred.check();
        assert!(!deferred.is_outstanding());
    }
}
