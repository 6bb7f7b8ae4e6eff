use aios_core::{
    agent::{Segment, TaskAssigned, TaskCompleted, TaskFailed, TaskId},
    event::{Event, EventId, Payload, Timestamp},
    failure::Failure,
    store::Fence,
};
use serde::{Deserialize, Serialize};

use super::DrawnFrom;

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
    TaskAssigned(OfAgent<TaskAssigned>),
    /// An agent did a task.
    TaskCompleted(OfAgent<TaskCompleted>),
    /// An agent's attempt at a task failed.
    TaskFailed(OfAgent<TaskFailed>),
    /// Nobody waits for a task any more.
    TaskCancelled(OfAgent<TaskCancelled>),
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
    Foreign(Box<Event>),
}

/// The run was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Version of the workflow.
    pub version: u32,
    /// What the workflow is given.
    pub input: Payload,
    /// When to begin; at once if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// The run that waits for this one, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The run whose journal this one began with, if it is a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<String>,
    /// The run that continues as this one, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// The first run of the chain of continue-as-new, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_id: Option<String>,
    /// What a fork draws as the runs did from which it was forked, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<DrawnFrom>,
}

/// The run that waits for a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub run_id: String,
    /// Id of the event that started it: a later run may have the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<EventId>,
    /// The operation that waits.
    pub operation: u64,
}

/// The run that continues as another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its id.
    pub run_id: String,
    /// Id of the event that started it: a later run may have the same id.
    pub incarnation: EventId,
}

/// A step ended with a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepCompleted {
    /// The operation.
    pub operation: u64,
    /// Name of the step.
    pub name: Box<str>,
    /// Its result.
    pub result: Payload,
}

/// An operation failed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationFailed {
    /// The operation.
    pub operation: u64,
    /// Name of the step, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// What went wrong.
    pub failure: Failure,
}

/// An operation failed and will be tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryScheduled {
    /// The operation.
    pub operation: u64,
    /// Name of the step, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// Number of the attempt that will be made, from 2.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// What went wrong.
    pub failure: Failure,
}

/// A durable timer was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerStarted {
    /// The operation.
    pub operation: u64,
    /// When it fires.
    pub fires_at: Timestamp,
}

/// A timer fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFired {
    /// The operation.
    pub operation: u64,
}

/// The wait for a signal has an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAwaited {
    /// The operation.
    pub operation: u64,
    /// Name of the signal.
    pub name: Box<str>,
    /// When the wait ends.
    pub deadline: Timestamp,
}

/// Somebody sent a signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signaled {
    /// Name of the signal.
    pub name: Box<str>,
    /// What it carries.
    pub payload: Payload,
    /// Whether it was sent to the predecessor, which did not take it. It is taken before those that
    /// were sent to this run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
}

/// Something about a task, and the type of the agent that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct OfAgent<T> {
    /// Type of the agent.
    pub agent_type: Segment,
    /// The event's data.
    pub data: T,
}

/// Nobody waits for a task any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCancelled {
    /// The task.
    pub task_id: TaskId,
}

/// A child run was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildStarted {
    /// The operation.
    pub operation: u64,
    /// Id of the child.
    pub run_id: Box<str>,
    /// Its workflow.
    pub workflow: Segment,
    /// What it is given.
    pub input: Payload,
    /// Whether it goes on if its parent is cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave_running: bool,
}

/// A child run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildEnded {
    /// The operation.
    pub operation: u64,
    /// Its result, if it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// What went wrong, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The version of a change that a run follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMarked {
    /// Name of the change.
    pub change: Box<str>,
    /// The version.
    pub version: u32,
}

/// The next event in the stream is one that the workflow emitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEmitted {
    /// The operation.
    pub operation: u64,
    /// Id of the event.
    pub event_id: EventId,
}

/// The workflow says what it is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusSet {
    /// The operation.
    pub operation: u64,
    /// What it is doing.
    pub text: String,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Payload>,
}

/// Somebody asked to cancel the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// Why.
    pub reason: String,
}

/// Today's code does not fit the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// What does not fit.
    pub failure: Failure,
}

/// Who advances the run from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// What the engine that advances it proves that with; the owner of the run's shard if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Fence>,
    /// The engine that says so.
    pub by: Box<str>,
    /// Why that engine can't advance it, if it can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The run ended with a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completed {
    /// The result.
    pub result: Payload,
}

/// The run ended with a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What went wrong.
    pub failure: Failure,
}

/// The run ended by continuing as another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Continued {
    /// Id of the other run.
    pub run_id: String,
    /// What it was given.
    pub input: Payload,
    /// The signals that were not taken and follow to the other run, by their number among the
    /// signals of this journal, from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<u64>,
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
            Self::Foreign(event) => event.event_type.domain() == "agents",
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
