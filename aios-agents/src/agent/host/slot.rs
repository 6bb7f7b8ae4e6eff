//! The slots of an agent type: how many of its tasks run at the same time.
//!
//! A slot is a permit of a semaphore. It is held by the attempt, and by code of the agent that took
//! it through `TaskContext::slot`, for example a thread that can't be stopped. The attempt ends on
//! time in any case; the slot is free when the last holder lets go.
//!
//! ```text
//! attempt runs ──ends, no other holder──► free
//!      └──────ends, code holds it───────► overdue ──code ends──► free
//! ```
//!
//! An overdue slot reduces how many tasks the process prefetches. While one exists, tasks that wait
//! here are released to the broker sooner, because other processes may have free slots.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The slots of one agent type in this process.
#[derive(Debug)]
pub(super) struct Slots {
    /// For the log and the gauge.
    agent_type: Arc<str>,
    /// The concurrency of the definition.
    total: u16,
    /// Fair: waiting consumers get slots in turn. Never closed.
    free: Arc<Semaphore>,
    /// How many attempts are running. If its code can't be stopped, an attempt ends before its slot
    /// is free.
    attempts: AtomicUsize,
    /// Notified when the last attempt has ended.
    no_attempt_runs: Notify,
    /// How many slots are occupied by code whose attempt has ended.
    overdue: AtomicUsize,
    /// Notified whenever a slot becomes overdue.
    became_overdue: Notify,
}

/// An occupied slot. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    /// The slots that this one belongs to.
    slots: Arc<Slots>,
    /// Set when the attempt ends before its code. Read when the slot is dropped.
    is_overdue: AtomicBool,
    /// Frees the place in the semaphore when it is dropped.
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// Slots that are all free.
    pub(super) fn new(agent_type: &Arc<str>, total: u16) -> Arc<Self> {
        Arc::new(Self {
            agent_type: Arc::clone(agent_type),
            total,
            free: Arc::new(Semaphore::new(total.into())),
            attempts: AtomicUsize::new(0),
            no_attempt_runs: Notify::new(),
            overdue: AtomicUsize::new(0),
            became_overdue: Notify::new(),
        })
    }

    /// Waits for a free slot and occupies it.
    pub(super) async fn occupy(self: &Arc<Self>) -> Option<Occupied> {
        // Fails only if the semaphore is closed, which nothing does.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        self.attempts.fetch_add(1, Ordering::AcqRel);
        let is_overdue = AtomicBool::new(false);
        let slot = Slot { slots: Arc::clone(self), is_overdue, _permit: permit };
        Some(Occupied(Some(Arc::new(slot))))
    }

    /// Waits until a slot is free.
    pub(super) async fn any_free(&self) {
        // Nothing closes the semaphore.
        drop(self.free.acquire().await);
    }

    /// Waits until no attempt is running. Does not wait for code that runs beyond the end of its
    /// attempt.
    pub(super) async fn drained(&self) {
        loop {
            let mut none = std::pin::pin!(self.no_attempt_runs.notified());
            none.as_mut().enable();
            if self.attempts.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// How many slots are not occupied by overdue code, at least 1.
    pub(super) fn usable(&self) -> u16 {
        let overdue = self.overdue.load(Ordering::Acquire);
        // At least one: a prefetch of 0 means "no limit" to some brokers.
        let usable = usize::from(self.total).saturating_sub(overdue).max(1);
        usable.try_into().unwrap_or(self.total)
    }

    /// Whether overdue code occupies slots.
    pub(super) fn is_reduced(&self) -> bool {
        self.overdue.load(Ordering::Acquire) > 0
    }

    /// Completes once overdue code occupies a slot.
    pub(super) async fn reduced(&self) {
        loop {
            let mut changed = std::pin::pin!(self.became_overdue.notified());
            changed.as_mut().enable();
            if self.is_reduced() {
                return;
            }
            changed.await;
        }
    }

    /// Reports how many slots are overdue.
    fn gauge(&self, overdue: usize) {
        let overdue = u32::try_from(overdue).unwrap_or(u32::MAX);
        metrics::gauge!("aios_agent_tasks_overdue", "agent_type" => self.agent_type.to_string())
            .set(overdue);
    }
}

/// The slot of an attempt. Dropping this ends the attempt.
///
/// The content is taken in `drop` only.
pub(super) struct Occupied(Option<Arc<Slot>>);

impl Occupied {
    /// The slot, to share it with the code of the agent.
    pub(super) fn slot(&self) -> Option<&Arc<Slot>> {
        self.0.as_ref()
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.end_attempt();
        }
    }
}

impl Slot {
    /// Name of the type whose tasks use the slot.
    pub(super) fn agent_type(&self) -> &str {
        &self.slots.agent_type
    }

    /// Ends the attempt that occupies the slot. Code that still holds the slot is overdue.
    fn end_attempt(self: Arc<Self>) {
        if self.slots.attempts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.slots.no_attempt_runs.notify_waiters();
        }
        // Code that lets go just now does no harm: the slot is then dropped at the end of this
        // function, which takes the count back.
        if Arc::strong_count(&self) > 1 {
            self.is_overdue.store(true, Ordering::Release);
            let overdue = self.slots.overdue.fetch_add(1, Ordering::AcqRel) + 1;
            self.slots.gauge(overdue);
            self.slots.became_overdue.notify_waiters();
            self.warn(overdue);
        }
    }

    /// Warns about overdue code, in stronger words if no slot is left.
    fn warn(&self, overdue: usize) {
        let agent_type = &*self.slots.agent_type;
        let total = usize::from(self.slots.total);
        if overdue < total {
            tracing::warn!(
                agent_type,
                overdue,
                total,
                "the code of a task is still running after its attempt ended; this process takes fewer \
                 tasks of this type until the code ends"
            );
        } else {
            tracing::warn!(
                agent_type,
                overdue,
                total,
                "the code of tasks is still running after their attempts ended and occupies every slot; \
                 this process takes no tasks of this type until one of them ends"
            );
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_overdue.load(Ordering::Acquire) {
            let before = self.slots.overdue.fetch_sub(1, Ordering::AcqRel);
            self.slots.gauge(before.saturating_sub(1));
        }
    }
}
