use aios_core::{
    agent::{Name, TaskAssigned, TaskCancelled, TaskCompleted, TaskFailed, TaskId},
    catalog::{
        agent,
        workflow::{
            Blocked, CancelRequested, ChildEnded, ChildStarted, Completed, Continued, EventEmitted,
            Failed, Moved, OperationFailed, RetryScheduled, SignalAwaited, Signaled, Started,
            StatusSet, StepCompleted, TimerFired, TimerStarted, VersionMarked,
        },
    },
    event::Event,
};

/// One event of a run's journal, decoded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Entry {
    /// The run was started.
    Started(Started),
    /// A step ended with a result.
    StepCompleted(StepCompleted),
    /// A step, a task or a child failed for good.
    OperationFailed(OperationFailed),
    /// A step or a task failed and will be tried again.
    RetryScheduled(RetryScheduled),
    /// A durable timer was set.
    TimerStarted(TimerStarted),
    /// A durable timer fired, or the wait for a signal ran out.
    TimerFired(TimerFired),
    /// The wait for a signal has an end.
    SignalAwaited(SignalAwaited),
    /// Somebody sent a signal.
    Signaled(Signaled),
    /// A task was given to an agent.
    TaskAssigned(AgentEvent<TaskAssigned>),
    /// An agent did a task.
    TaskCompleted(AgentEvent<TaskCompleted>),
    /// An agent's attempt at a task failed.
    TaskFailed(AgentEvent<TaskFailed>),
    /// Nobody waits for a task any more.
    TaskCancelled(AgentEvent<TaskCancelled>),
    /// A child run was started.
    ChildStarted(ChildStarted),
    /// A child run ended.
    ChildEnded(ChildEnded),
    /// The version of a change that this run follows.
    VersionMarked(VersionMarked),
    /// The next event in the stream is one that the workflow emitted.
    EventEmitted(EventEmitted),
    /// The workflow says what it is doing.
    StatusSet(StatusSet),
    /// Somebody asked to cancel the run.
    CancelRequested(CancelRequested),
    /// Somebody paused the run.
    Paused,
    /// Somebody resumed the run.
    Resumed,
    /// Today's code does not fit the journal.
    Blocked(Blocked),
    /// Fitting code was found for a blocked run.
    Unblocked,
    /// Another engine advances the run from now on, or the owner of its shard does again.
    Moved(Moved),
    /// The run ended with a result.
    Completed(Completed),
    /// The run ended with a failure.
    Failed(Failed),
    /// The run was cancelled, and its compensations have run.
    Cancelled(Failed),
    /// The run ended by continuing as another one.
    Continued(Continued),
    /// An event of another making, for example one that the workflow emitted.
    Other(Box<Event>),
}

/// Something about a task, and the type of the agent that it is for.
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

    /// Whether this entry says how something ended that was begun before: also a paused run takes
    /// it.
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

    /// Whether a paused run records this entry: what was begun before and has ended since, and the
    /// versions of changes, which have to stand before the outcomes that follow from them.
    pub(crate) fn passes_pause(&self) -> bool {
        match self {
            Self::VersionMarked(_) => true,
            // What workflows emit is of other domains.
            Self::Other(event) => event.event_type.domain() == agent::DOMAIN,
            other => other.is_outcome(),
        }
    }

    /// Whether this entry begins an operation that is over later.
    pub(crate) fn is_beginning(&self) -> bool {
        matches!(
            self,
            Self::TaskAssigned(_)
                | Self::TimerStarted(_)
                | Self::SignalAwaited(_)
                | Self::ChildStarted(_)
        )
    }

    /// Whether the run has ended with this entry.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Completed(_) | Self::Failed(_) | Self::Cancelled(_) | Self::Continued(_)
        )
    }
}

fn operation_of(task_id: &TaskId) -> Option<u64> {
    task_id.run().map(|(_, operation)| operation)
}
