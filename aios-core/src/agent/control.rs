//! The part of a host that the context of a task calls.

use std::{any::Any, fmt, sync::Arc};

use crate::{BoxFuture, event::Payload};

/// The host of an agent, as a [`TaskContext`](super::TaskContext) needs it.
pub trait TaskControl: Send + Sync {
    /// Records a heartbeat.
    fn heartbeat(&self, progress: Payload);

    /// Whether the task was cancelled.
    fn is_cancelled(&self) -> bool;

    /// Completes when the task is cancelled.
    fn cancelled(&self) -> BoxFuture<'_, ()>;

    /// The slot that the task occupies; see [`TaskContext::slot`](super::TaskContext::slot). A host without a limit has none.
    fn slot(&self) -> TaskSlot {
        TaskSlot::default()
    }

    /// The code of the task is queued; see [`TaskContext::queued`](super::TaskContext::queued). A host that never
    /// releases queued tasks can ignore this.
    fn queued(&self) -> TaskQueued {
        TaskQueued::default()
    }
}

/// Handle for work that is queued but not started; call [`begin`](Self::begin) when it starts.
///
/// The work is the code of a task, see [`TaskContext::queued`](super::TaskContext::queued), or the code of a
/// step of a workflow, see `StepContext::queued` in `aios-agents`.
#[derive(Clone, Default)]
#[must_use = "the code has not begun before `begin` says so"]
pub struct TaskQueued(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl TaskQueued {
    /// Queued code that begins if `begin` returns true; for hosts of agents and engines.
    pub fn new(begin: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(begin)))
    }

    /// Reports that the code begins now, and returns whether it may. It may not if the host has
    /// already released the task to the broker, or the attempt of the step is over.
    #[must_use = "code that may not begin must not run"]
    pub fn begin(&self) -> bool {
        self.0.as_ref().is_none_or(|begin| begin())
    }
}

impl fmt::Debug for TaskQueued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TaskQueued").field(&self.0.is_some()).finish()
    }
}

/// A slot among the tasks that a host runs at the same time; see [`TaskContext::slot`](super::TaskContext::slot).
///
/// It becomes free when the attempt has ended and every clone of this value was dropped.
#[derive(Clone, Default)]
#[must_use = "dropping it releases the slot"]
pub struct TaskSlot(Option<Arc<dyn Any + Send + Sync>>);

impl TaskSlot {
    /// A slot that becomes free when `held` is dropped; for agent hosts.
    pub fn new(held: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(held))
    }
}

impl fmt::Debug for TaskSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TaskSlot").field(&self.0.is_some()).finish()
    }
}
