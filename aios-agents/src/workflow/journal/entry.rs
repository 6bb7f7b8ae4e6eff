//! The entries of a journal.
//!
//! | written by | entries |
//! |---|---|
//! | any process | start, signals, pause, resume, request to cancel, end of a child, answers of agents |
//! | the owner of the run | everything else |
//!
//! The machine gives entries their meaning (`machine/apply.rs`); here is only what can be said of an
//! entry alone.

use aios_core::{
    agent::{Name, TaskAssigned, TaskCancelled, TaskCompleted, TaskFailed, TaskId},
    catalog::{
        agent,
        workflow::{
            Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, EventEmitted,
            Failed, Moved, OperationFailed, RetryScheduled, SignalAwaited, Signaled, Started,
            StatusSet, StepCompleted, TimerFired, TimerStarted, Unblocked, VersionMarked,
        },
    },
    event::Event,
};

/// One event of a run's journal, decoded. Large data is boxed, because a run that is loaded holds
/// every entry of its journal.
///
/// # Examples
///
/// ```
/// use aios_agents::workflow::journal::{Entry, StepCompleted};
/// use aios_core::event::Payload;
///
/// let entry = Entry::StepCompleted(StepCompleted::new(3, "publish".into(), Payload::null()));
/// assert_eq!(entry.operation(), Some(3));
/// assert!(entry.is_outcome() && !entry.is_final());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Entry {
    /// The run was started.
    Started(Box<Started>),
    /// A step ended with a result.
    StepCompleted(StepCompleted),
    /// A step, a task or a child failed permanently.
    OperationFailed(OperationFailed),
    /// An attempt of a step or a task failed, and a retry is scheduled.
    RetryScheduled(Box<RetryScheduled>),
    /// A durable timer was set.
    TimerStarted(TimerStarted),
    /// A durable timer fired, or the wait for a signal timed out.
    TimerFired(TimerFired),
    /// A wait for a signal with a timeout began.
    SignalAwaited(SignalAwaited),
    /// A signal was sent to the run.
    Signaled(Signaled),
    /// A task was assigned to an agent.
    TaskAssigned(AgentEvent<TaskAssigned>),
    /// An agent completed a task.
    TaskCompleted(AgentEvent<TaskCompleted>),
    /// An agent's attempt at a task failed.
    TaskFailed(AgentEvent<TaskFailed>),
    /// The result of a task is no longer awaited.
    TaskCancelled(AgentEvent<TaskCancelled>),
    /// A child run was started.
    ChildStarted(ChildStarted),
    /// A child run ended.
    ChildEnded(ChildEnded),
    /// The version of a change that this run follows was pinned.
    VersionMarked(VersionMarked),
    /// The workflow emitted the next event in the stream.
    EventEmitted(EventEmitted),
    /// The workflow set its status.
    StatusSet(StatusSet),
    /// The cancellation of the run was requested.
    CancelRequested(CancelRequested),
    /// The run was paused.
    Paused,
    /// The run was resumed.
    Resumed,
    /// The run was blocked: it cannot progress until something changes.
    Blocked(Blocked),
    /// A blocked run progresses again.
    Unblocked(Unblocked),
    /// The run moved to another engine, or back to the owner of its shard.
    Moved(Box<Moved>),
    /// The run ended with a result.
    Completed(Completed),
    /// The run ended with a failure.
    Failed(Failed),
    /// The run was cancelled, and its compensations have run.
    Cancelled(Failed),
    /// The run ended by continuing as another run.
    Continued(Continued),
    /// Any other event, for example one that the workflow emitted.
    Other(Box<Event>),
}

/// An event about a task, and the type of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentEvent<T> {
    /// Type of the agent.
    pub agent_type: Name,
    /// The event's data.
    pub data: T,
}

impl Entry {
    /// The operation that this entry is about, if it is about one.
    #[must_use]
    pub fn operation(&self) -> Option<u64> {
        match self {
            Self::StepCompleted(entry) => Some(entry.operation),
            Self::OperationFailed(entry) => Some(entry.operation),
            Self::RetryScheduled(entry) => Some(entry.operation),
            Self::TimerStarted(entry) => Some(entry.operation),
            Self::TimerFired(entry) => Some(entry.operation),
            Self::SignalAwaited(entry) => Some(entry.operation),
            Self::ChildStarted(entry) => Some(entry.operation),
            Self::ChildEnded(entry) => Some(entry.operation),
            Self::EventEmitted(entry) => Some(entry.operation),
            Self::StatusSet(entry) => Some(entry.operation),
            Self::TaskAssigned(entry) => operation_of(&entry.data.task_id),
            Self::TaskCompleted(entry) => operation_of(&entry.data.task_id),
            Self::TaskFailed(entry) => operation_of(&entry.data.task_id),
            Self::TaskCancelled(entry) => operation_of(&entry.data.task_id),
            _ => None,
        }
    }

    /// Whether this entry records the outcome of work that had begun. A paused run accepts such entries.
    #[must_use]
    pub fn is_outcome(&self) -> bool {
        matches!(
            self,
            Self::StepCompleted(_)
                | Self::OperationFailed(_)
                | Self::RetryScheduled(_)
                | Self::TaskCompleted(_)
                | Self::TaskFailed(_)
        )
    }

    /// Whether a paused run records this entry: outcomes of work that began before the pause, and pinned
    /// versions of changes, which have to precede the outcomes that depend on them.
    pub(crate) fn passes_pause(&self) -> bool {
        match self {
            Self::VersionMarked(_) => true,
            // Events emitted by workflows have other domains.
            Self::Other(event) => event.event_type.domain() == agent::DOMAIN,
            other => other.is_outcome(),
        }
    }

    /// Sorts a journal into the order in which its entries are applied. That is the order of record,
    /// except that the signals inherited from a predecessor directly follow the start: they were sent
    /// first, but a client may have sent a signal to this run before they were copied.
    pub(crate) fn sort_for_replay<T>(journal: &mut [T], entry: impl Fn(&T) -> &Self) {
        // The sort is stable, so that all other entries keep their order.
        journal.sort_by_key(|item| match entry(item) {
            Self::Started(_) => 0,
            Self::Signaled(Signaled { inherited: true, .. }) => 1,
            _ => 2,
        });
    }

    /// Whether this entry records the start of an operation.
    pub(crate) fn is_beginning(&self) -> bool {
        matches!(
            self,
            Self::TaskAssigned(_)
                | Self::TimerStarted(_)
                | Self::SignalAwaited(_)
                | Self::ChildStarted(_)
        )
    }

    /// Whether this entry ends the run.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Completed(_) | Self::Failed(_) | Self::Cancelled(_) | Self::Continued(_)
        )
    }
}

/// The operation of a task, which is part of its id.
fn operation_of(task_id: &TaskId) -> Option<u64> {
    task_id.run().map(|(_, operation)| operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries are moved several times during a replay.
    #[test]
    fn should_stay_small() {
        assert!(size_of::<Entry>() <= 120, "{}", size_of::<Entry>());
    }
}
