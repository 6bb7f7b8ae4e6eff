//! The journal of a run: `workflows.<workflow>.<action>` in the stream `runs/<run id>`.
//!
//! The operations of a run are numbered in the order in which its code requests them.

use derive_new::new;
use serde::{Deserialize, Serialize};

use crate::{
    agent::Name,
    event::{EventId, Payload, Timestamp},
    failure::Failure,
    store::Fence,
};

events! {
    "workflows";
    /// a version of a workflow is known
    REGISTERED = "registered" (Registered) [projected relayed];
    /// the run was started
    STARTED = "started" (Started) [projected relayed external];
    /// a step ended with a result
    STEP_COMPLETED = "step_completed" (StepCompleted);
    /// a step, a task or a child failed permanently
    OPERATION_FAILED = "operation_failed" (OperationFailed) [projected];
    /// a step or a task failed and will be retried
    RETRY_SCHEDULED = "retry_scheduled" (RetryScheduled);
    /// a durable timer was set
    TIMER_STARTED = "timer_started" (TimerStarted);
    /// a durable timer fired, or the wait for a signal timed out
    TIMER_FIRED = "timer_fired" (TimerFired);
    /// the run waits for a signal until a deadline
    SIGNAL_AWAITED = "signal_awaited" (SignalAwaited);
    /// a signal was sent to the run
    SIGNALED = "signaled" (Signaled) [projected relayed external];
    /// a child run was started
    CHILD_STARTED = "child_started" (ChildStarted);
    /// a child run ended
    CHILD_ENDED = "child_ended" (ChildEnded) [external];
    /// the run follows this version of a change
    VERSION_MARKED = "version_marked" (VersionMarked);
    /// the next event of the stream was emitted by the workflow
    EVENT_EMITTED = "event_emitted" (EventEmitted);
    /// the workflow set its status
    STATUS_SET = "status_set" (StatusSet) [projected];
    /// the cancellation of the run was requested
    CANCEL_REQUESTED = "cancel_requested" (CancelRequested) [projected external];
    /// the run was paused
    PAUSED = "paused" [projected relayed external];
    /// the run was resumed
    RESUMED = "resumed" [projected relayed external];
    /// the run cannot continue until something changes
    BLOCKED = "blocked" (Blocked) [projected relayed external];
    /// a blocked run continues
    UNBLOCKED = "unblocked" (Unblocked) [projected];
    /// another engine, which has code for the run, advances it; or the owner of its shard does again
    MOVED = "moved" (Moved) [external];
    /// the run ended with a result
    COMPLETED = "completed" (Completed) [projected relayed external];
    /// the run ended with a failure
    FAILED = "failed" (Failed) [projected relayed external];
    /// the run was cancelled, and its compensations have run
    CANCELLED = "cancelled" (Failed) [projected relayed external];
    /// the run ended by continuing as another run
    CONTINUED = "continued" (Continued) [projected relayed external];
}

/// Actions of the events that end a run. Its stream takes no event after one of them.
pub const FINAL: [&str; 4] = [COMPLETED, FAILED, CANCELLED, CONTINUED];

/// For `skip_serializing_if`.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A version of a workflow was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Registered {
    /// The version.
    pub version: u32,
}

/// The run was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Started {
    /// Version of the workflow.
    pub version: u32,
    /// Input of the workflow.
    pub input: Payload,
    /// When to begin; at once if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub start_at: Option<Timestamp>,
    /// The run that waits for this one, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub parent: Option<Parent>,
    /// The run whose journal this one began with, if it is a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub forked_from: Option<String>,
    /// The failed run whose failed operation this one retries, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub retry_of: Option<String>,
    /// The run that continues as this one, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub predecessor: Option<Predecessor>,
    /// The first run of the chain of continue-as-new, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub first_run_id: Option<String>,
    /// Number of runs of the chain directly before this one that continued without requesting an operation.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[new(default)]
    pub idle_runs: u32,
    /// The seeds of the runs from which a fork was forked, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[new(default)]
    pub draws: Vec<DrawnFrom>,
    /// The children of earlier runs of the chain that are cancelled with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[new(default)]
    pub children: Vec<InheritedChild>,
    /// The times between the ends of copied parts and the forks that copied them, the oldest first. They
    /// are no part of the time that the run takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[new(default)]
    pub gaps: Vec<Gap>,
}

/// A child that an earlier run of the chain of continue-as-new has started, and that had not ended when
/// that run continued as another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct InheritedChild {
    /// Its id.
    pub run_id: Box<str>,
    /// The run and the operation that started it.
    pub parent: Parent,
}

/// The run that waits for a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Predecessor {
    /// Its id.
    pub run_id: String,
    /// Id of the event that started it: a later run may have the same id.
    pub incarnation: EventId,
}

/// A step ended with a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct StepCompleted {
    /// The operation.
    pub operation: u64,
    /// Name of the step.
    pub name: Box<str>,
    /// Its result.
    pub result: Payload,
}

/// An operation failed permanently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct OperationFailed {
    /// The operation.
    pub operation: u64,
    /// Name of the step, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// The failure.
    pub failure: Failure,
}

/// An operation failed and will be retried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct RetryScheduled {
    /// The operation.
    pub operation: u64,
    /// Name of the step, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// Number of the next attempt, from 2.
    pub attempt: u32,
    /// When it will be retried.
    pub at: Timestamp,
    /// The failure.
    pub failure: Failure,
}

/// A durable timer was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TimerStarted {
    /// The operation.
    pub operation: u64,
    /// When it fires.
    pub fires_at: Timestamp,
}

/// A timer fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct TimerFired {
    /// The operation.
    pub operation: u64,
}

/// The wait for a signal has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct SignalAwaited {
    /// The operation.
    pub operation: u64,
    /// Name of the signal.
    pub name: Box<str>,
    /// When the wait ends.
    pub deadline: Timestamp,
}

/// A signal was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Signaled {
    /// Name of the signal.
    pub name: Box<str>,
    /// Its payload.
    pub payload: Payload,
    /// Whether it was sent to the predecessor, which did not take it. It is taken before those that
    /// were sent to this run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[new(default)]
    pub inherited: bool,
}

/// A child run was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct ChildStarted {
    /// The operation.
    pub operation: u64,
    /// Id of the child.
    pub run_id: Box<str>,
    /// Its workflow.
    pub workflow: Name,
    /// Input of the child.
    pub input: Payload,
    /// Whether it continues if its parent is cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave_running: bool,
    /// Whether a compensation started it. It is not cancelled with its parent then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[new(default)]
    pub compensates: bool,
}

/// A child run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct ChildEnded {
    /// The operation.
    pub operation: u64,
    /// Its result, if it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The failure, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The version of a change that a run follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct VersionMarked {
    /// Name of the change.
    pub change: Box<str>,
    /// The version.
    pub version: u32,
}

/// The next event in the stream is one that the workflow emitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct EventEmitted {
    /// The operation.
    pub operation: u64,
    /// Id of the event.
    pub event_id: EventId,
}

/// The workflow set its status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct StatusSet {
    /// The operation.
    pub operation: u64,
    /// Description of the current activity.
    pub text: String,
    /// Progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Payload>,
}

/// Cancellation of the run was requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct CancelRequested {
    /// The reason.
    pub reason: String,
    /// Whether the run ends at once, without the rest of its compensations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[new(default)]
    pub terminates: bool,
}

/// The run cannot progress until something changes, such as its code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Blocked {
    /// The reason.
    pub failure: Failure,
}

/// A blocked run continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Unblocked {
    /// Whether the cancellation of the run was requested before it was blocked: it continues to cancel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
}

/// The engine that advances the run changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Moved {
    /// Fence of the engine that advances the run; `None` for the owner of the run's shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Fence>,
    /// The engine that recorded this.
    pub by: Box<str>,
    /// Why that engine can't advance the run, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The run ended with a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Completed {
    /// The result.
    pub result: Payload,
    /// The signals that the run accepted and its code did not receive, by their number among the signals
    /// of this journal, from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[new(default)]
    pub untaken_signals: Vec<u64>,
}

/// The run ended with a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Failed {
    /// The failure.
    pub failure: Failure,
    /// The operation with which the run failed, if it failed with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub operation: Option<u64>,
}

/// The run ended by continuing as another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Continued {
    /// Id of the other run.
    pub run_id: String,
    /// Input of the other run.
    pub input: Payload,
    /// The signals that were not taken and follow to the other run, by their number among the
    /// signals of this journal, from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<u64>,
}

/// The seed of a run's UUIDs and random numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seed {
    /// The id of the event that started the run, which is unique.
    Incarnation(String),
    /// The id of the run. Used by runs from before events named their run.
    RunId(String),
}

/// A time in which a run did nothing because it did not exist: from the last entry that a fork has
/// copied to the fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct Gap {
    /// Time of the latest entry that was copied.
    pub from: Timestamp,
    /// Time of the fork.
    pub until: Timestamp,
}

/// A seed that a fork inherited from another run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct DrawnFrom {
    /// The seed of the other run.
    pub seed: Seed,
    /// The operation at which it was forked. Draws before it use `seed`.
    pub before: u64,
}
