//! Wakes that tokio puts off.
//!
//! `tokio::task::yield_now` wakes its task when the scheduler has gone round, not at once. The code
//! of a workflow is not quiet before that, or a replay could apply an entry that came later live.

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

/// Notices whether anything on this thread put a wake off, and tells when that wake has come.
///
/// The scheduler keeps a list of the wakers that it is to wake later, and adds a waker only if it
/// is not the last one in the list. So a probe that is added twice says whether anything was added
/// in between.
#[derive(Debug)]
pub(crate) struct Deferred {
    probe: Arc<Probe>,
    waker: Waker,
    added: usize,
    found: bool,
}

#[derive(Debug, Default)]
struct Probe {
    woken: AtomicUsize,
    task: AtomicWaker,
}

impl Deferred {
    /// Begins to watch.
    pub(super) fn watch() -> Self {
        let probe = Arc::new(Probe::default());
        let waker = Waker::from(Arc::clone(&probe));
        let mut deferred = Self { probe, waker, added: 0, found: false };
        deferred.add();
        deferred
    }

    /// Assumes that something was put off.
    pub(super) fn assume(mut self) -> Self {
        self.found = true;
        self
    }

    /// Notes what was put off since it was last asked.
    pub(super) fn check(&mut self) {
        self.found |= self.add();
    }

    /// Forgets what was put off since it was last asked.
    pub(super) fn skip(&mut self) {
        self.add();
    }

    /// Whether anything was put off that has not come yet.
    pub(super) fn is_outstanding(&self) -> bool {
        self.found && self.probe.woken.load(Ordering::Acquire) < self.added
    }

    /// Completes when what was put off has come.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.probe.task.register(context.waker());
        if self.is_outstanding() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Adds the probe to the list; whether it was not the last one there. ExternalEvent of a scheduler
    /// it is woken at once, as is everything else.
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
    async fn should_notice_what_is_put_off_until_it_has_come() {
        let mut deferred = Deferred::watch();
        deferred.check();
        assert!(!deferred.is_outstanding(), "nothing was put off");
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
