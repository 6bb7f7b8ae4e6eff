use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
    atomic::{AtomicU8, Ordering},
};

use aios_core::{
    BoxFuture,
    agent::{TaskControl, TaskQueued, TaskSlot},
    broker::Delivery,
    event::Payload,
};
use tokio::sync::Notify;

use super::slot::Slot;

const GOING: u8 = 0;
const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;

/// The code of an attempt runs.
const BEGUN: u8 = 0;
/// It waits for whatever runs it.
const QUEUED: u8 = 1;
/// It must not begin any more: the task was given back.
const WITHDRAWN: u8 = 2;

/// A task while it is done: what its code and its surroundings tell each other.
#[derive(Debug, Default)]
pub(super) struct Running {
    stop: AtomicU8,
    /// Shared with the queue that the code waits in.
    code: Arc<AtomicU8>,
    progress: Mutex<Option<Payload>>,
    /// The same task, given again while it runs: the copy that the broker still has.
    handed: Mutex<Option<Delivery>>,
    slot: OnceLock<Weak<Slot>>,
    pub(super) changed: Notify,
}

/// Why a task is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody cancelled it; that is its answer.
    Cancelled,
    /// The host gives up; the task gets no answer here.
    Abandoned,
}

impl Running {
    /// The attempt occupies this slot.
    pub(super) fn occupy(&self, slot: &Arc<Slot>) {
        // An attempt begins once.
        let _ = self.slot.set(Arc::downgrade(slot));
    }

    /// Whether agents of this type do it; of any type without one.
    pub(super) fn is_of(&self, agent_type: Option<&str>) -> bool {
        let slot = || self.slot.get().and_then(Weak::upgrade);
        agent_type.is_none_or(|wanted| slot().is_some_and(|slot| slot.agent_type() == wanted))
    }

    pub(super) fn stop(&self, stop: Stop) {
        let wanted = match stop {
            Stop::Cancelled => CANCELLED,
            Stop::Abandoned => ABANDONED,
        };
        self.stop.fetch_max(wanted, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            GOING => None,
            CANCELLED => Some(Stop::Cancelled),
            _ => Some(Stop::Abandoned),
        }
    }

    /// Gives the task up if its code has not begun; then it never begins. Returns whether it did.
    pub(super) fn withdraw(&self) -> bool {
        let is_queued = exchange(&self.code, QUEUED, WITHDRAWN);
        if is_queued {
            self.stop(Stop::Abandoned);
        }
        is_queued
    }

    /// Whether its code runs.
    pub(super) fn has_begun(&self) -> bool {
        self.code.load(Ordering::Acquire) == BEGUN
    }

    /// Gives the task its delivery once more, because the broker may have forgotten the first. If
    /// the task has ended meanwhile, the delivery goes back, to be answered again.
    pub(super) fn hand_over(&self, delivery: Delivery) {
        let older = self.handed().replace(delivery);
        drop(older);
        self.changed.notify_waiters();
    }

    pub(super) fn take_handed(&self) -> Option<Delivery> {
        self.handed().take()
    }

    fn handed(&self) -> MutexGuard<'_, Option<Delivery>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a sign of life waits to be sent.
    pub(super) fn has_progress(&self) -> bool {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_progress(&self) -> Payload {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.take().unwrap_or_default()
    }

    /// Completes when the host gives the task up.
    pub(super) async fn abandoned(&self) {
        self.until(|running| running.stopped() == Some(Stop::Abandoned)).await;
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool + Send) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }
}

impl TaskControl for Running {
    fn heartbeat(&self, progress: Payload) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        self.changed.notify_waiters();
    }

    fn is_cancelled(&self) -> bool {
        self.stopped().is_some()
    }

    fn cancelled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.until(Self::is_cancelled))
    }

    fn slot(&self) -> TaskSlot {
        let slot = self.slot.get().and_then(Weak::upgrade);
        slot.map_or_else(TaskSlot::default, |slot| TaskSlot::new(slot))
    }

    fn queued(&self) -> TaskQueued {
        exchange(&self.code, BEGUN, QUEUED);
        let code = Arc::clone(&self.code);
        TaskQueued::new(move || {
            exchange(&code, QUEUED, BEGUN) || code.load(Ordering::Acquire) == BEGUN
        })
    }
}

fn exchange(code: &AtomicU8, current: u8, new: u8) -> bool {
    code.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
