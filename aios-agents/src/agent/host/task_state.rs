use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU8, Ordering},
};

use aios_core::{
    BoxFuture,
    agent::{TaskControl, TaskQueued, TaskSlot},
    broker::Delivery,
    event::Payload,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::slot::Slot;

const ACTIVE: u8 = 0;
const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;

/// The code of the attempt has begun.
const BEGUN: u8 = 0;
/// The code waits in a queue, for example of an event loop.
const QUEUED: u8 = 1;
/// The code must not begin any more: the task was released to the broker.
const WITHDRAWN: u8 = 2;

/// State of a running task, shared by its code and the host.
#[derive(Debug, Default)]
pub(super) struct TaskState {
    stop: AtomicU8,
    /// Shared with the queue that the code waits in.
    code: Arc<AtomicU8>,
    progress: Mutex<Option<Payload>>,
    /// The latest redelivery of the task while it runs. The broker may have forgotten the first
    /// delivery.
    redelivered: Mutex<Option<Delivery>>,
    slot: OnceLock<Weak<Slot>>,
    pub(super) changed: Notify,
}

/// Why a task must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The task was cancelled, which is its answer.
    Cancelled,
    /// The host abandons the task, which gets no answer here.
    Abandoned,
}

impl TaskState {
    /// Records the slot of the attempt.
    pub(super) fn occupy(&self, slot: &Arc<Slot>) {
        // An attempt begins once.
        let _ = self.slot.set(Arc::downgrade(slot));
    }

    /// Whether the task is of this agent type. Always true for `None`.
    pub(super) fn is_of(&self, agent_type: Option<&str>) -> bool {
        let slot = || self.slot.get().and_then(Weak::upgrade);
        agent_type.is_none_or(|wanted| slot().is_some_and(|slot| slot.agent_type() == wanted))
    }

    pub(super) fn stop(&self, stop: StopReason) {
        let wanted = match stop {
            StopReason::Cancelled => CANCELLED,
            StopReason::Abandoned => ABANDONED,
        };
        self.stop.fetch_max(wanted, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(super) fn stopped(&self) -> Option<StopReason> {
        match self.stop.load(Ordering::Acquire) {
            ACTIVE => None,
            CANCELLED => Some(StopReason::Cancelled),
            _ => Some(StopReason::Abandoned),
        }
    }

    /// Abandons the task if its code has not begun; the code then never begins. Returns whether it
    /// did.
    pub(super) fn withdraw(&self) -> bool {
        let is_queued = exchange(&self.code, QUEUED, WITHDRAWN);
        if is_queued {
            self.stop(StopReason::Abandoned);
        }
        is_queued
    }

    /// Whether the code has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.code.load(Ordering::Acquire) == BEGUN
    }

    /// Hands over a redelivery, because the broker may have forgotten the first delivery. If the
    /// task has just ended, the delivery is dropped, which releases it, and the task is answered
    /// again.
    pub(super) fn redeliver(&self, delivery: Delivery) {
        let older = self.redelivered.lock().replace(delivery);
        drop(older);
        self.changed.notify_waiters();
    }

    pub(super) fn take_redelivered(&self) -> Option<Delivery> {
        self.redelivered.lock().take()
    }

    /// Whether progress waits to be sent with a heartbeat.
    pub(super) fn has_progress(&self) -> bool {
        self.progress.lock().is_some()
    }

    pub(super) fn take_progress(&self) -> Payload {
        let mut progress = self.progress.lock();
        progress.take().unwrap_or_default()
    }

    /// Completes when the host abandons the task.
    pub(super) async fn abandoned(&self) {
        self.until(|running| running.stopped() == Some(StopReason::Abandoned)).await;
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

impl TaskControl for TaskState {
    fn heartbeat(&self, progress: Payload) {
        *self.progress.lock() = Some(progress);
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
