//! The state that an attempt's code, its supervisor, the watchdog and the cache share.
//!
//! There is no lock around the whole: each part changes on its own. Every change wakes the
//! supervisor through `changed`. Waiters register before they read, so no change is missed.
//!
//! Why the attempt must stop only ever increases, so an abandoned task is never answered as
//! cancelled:
//!
//! ```text
//! ACTIVE ──► CANCELLED ──► ABANDONED
//! ```
//!
//! Whether the code may begin is decided by compare-and-swap, so that either the code claims the
//! task or the host takes it back:
//!
//! ```text
//! BEGUN ──queued()──► QUEUED ──code begins──► BEGUN
//!                       └────withdraw()─────► WITHDRAWN
//! ```

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

use crate::agent::host::slot::Slot;

/// Nothing stops the task.
const ACTIVE: u8 = 0;
/// See `StopReason::Cancelled`.
const CANCELLED: u8 = 1;
/// See `StopReason::Abandoned`. The largest, so that it wins.
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
    /// One of `ACTIVE`, `CANCELLED` and `ABANDONED`.
    stop: AtomicU8,
    /// Shared with the queue that the code waits in.
    code: Arc<AtomicU8>,
    /// The latest progress that was not sent yet. Older ones are replaced.
    progress: Mutex<Option<Payload>>,
    /// The latest redelivery of the task while it runs. The broker may have forgotten the first
    /// delivery.
    redelivered: Mutex<Option<Delivery>>,
    /// Weak, so that the state does not keep the slot occupied, nor counts as code that holds it.
    slot: OnceLock<Weak<Slot>>,
    /// Notified at every change of this state.
    pub(crate) changed: Notify,
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
    pub(crate) fn occupy(&self, slot: &Arc<Slot>) {
        // An attempt begins once.
        let _ = self.slot.set(Arc::downgrade(slot));
    }

    /// Whether the task is of this agent type. Always true for `None`.
    pub(super) fn is_of(&self, agent_type: Option<&str>) -> bool {
        let slot = || self.slot.get().and_then(Weak::upgrade);
        agent_type.is_none_or(|wanted| slot().is_some_and(|slot| slot.agent_type() == wanted))
    }

    /// Tells the task to stop. An abandonment is not taken back by a later cancellation.
    pub(crate) fn stop(&self, stop: StopReason) {
        let wanted = match stop {
            StopReason::Cancelled => CANCELLED,
            StopReason::Abandoned => ABANDONED,
        };
        // The reasons are numbered so that the stronger one is the larger.
        self.stop.fetch_max(wanted, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Why the task must stop, if it must.
    pub(crate) fn stopped(&self) -> Option<StopReason> {
        match self.stop.load(Ordering::Acquire) {
            ACTIVE => None,
            CANCELLED => Some(StopReason::Cancelled),
            _ => Some(StopReason::Abandoned),
        }
    }

    /// Abandons the task if its code has not begun; the code then never begins. Returns whether it
    /// did.
    pub(crate) fn withdraw(&self) -> bool {
        let is_queued = exchange(&self.code, QUEUED, WITHDRAWN);
        if is_queued {
            self.stop(StopReason::Abandoned);
        }
        is_queued
    }

    /// Whether the code has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.code.load(Ordering::Acquire) == BEGUN
    }

    /// Hands over a redelivery, because the broker may have forgotten the first delivery. If the
    /// task has just ended, the delivery is dropped, which releases it, and the task is answered
    /// again.
    ///
    /// Returns the redelivery that it replaces, to be acknowledged: released, it would come again at
    /// once, and replace this one.
    pub(super) fn redeliver(&self, delivery: Delivery) -> Option<Delivery> {
        let older = self.redelivered.lock().replace(delivery);
        self.changed.notify_waiters();
        older
    }

    /// Takes the latest redelivery, if there is one.
    pub(super) fn take_redelivered(&self) -> Option<Delivery> {
        self.redelivered.lock().take()
    }

    /// Whether progress waits to be sent with a heartbeat.
    pub(super) fn has_progress(&self) -> bool {
        self.progress.lock().is_some()
    }

    /// Takes the progress to send; JSON `null` if there is none.
    pub(super) fn take_progress(&self) -> Payload {
        let mut progress = self.progress.lock();
        progress.take().unwrap_or_default()
    }

    /// Completes when the host abandons the task.
    pub(crate) async fn abandoned(&self) {
        self.until(|running| running.stopped() == Some(StopReason::Abandoned)).await;
    }

    /// Completes when a condition holds that only changes of this state can bring about.
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
        // Has no effect on a task that was withdrawn.
        exchange(&self.code, BEGUN, QUEUED);
        let code = Arc::clone(&self.code);
        TaskQueued::new(move || {
            // Also true if the code has begun, for code that asks twice.
            exchange(&code, QUEUED, BEGUN) || code.load(Ordering::Acquire) == BEGUN
        })
    }
}

/// Replaces the state if it is the current one. Returns whether it was.
fn exchange(code: &AtomicU8, current: u8, new: u8) -> bool {
    code.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
