//! The operations of a run: what the code may request, and the state of each.
//!
//! | kind | start recorded as | outcome recorded as | waits for |
//! |---|---|---|---|
//! | step | – | `StepCompleted`, `OperationFailed` | its own code |
//! | task | `TaskAssigned` | `TaskCompleted`, `OperationFailed` | an agent |
//! | sleep | `TimerStarted` | `TimerFired` | a timer |
//! | signal | `SignalAwaited`, with a deadline only | `Signaled`, `TimerFired` | any process |
//! | child | `ChildStarted` | `ChildEnded`, `OperationFailed` | another run |
//! | emit | `EventEmitted` and the event | – | nothing |
//! | status | `StatusSet` | – | nothing |
//!
//! The states of a live run. A call that is dropped leads to `Abandoned`, unless nothing was requested
//! or its outcome was taken. In a replay an outcome may also come before its operation has left `Open`.
//!
//! ```text
//! timer, signal, child   Reserved ──► Open ──► Waiting ──► Resolved ──► Taken
//! task                   Reserved ──► Open ──► Waiting ──► Recording ──► Resolved ──► Taken
//!                                                 ▲            │
//!                                                 └─ Retrying ◄┘
//! step                   Reserved ──► Open ──► Recording ──► Resolved ──► Taken
//!                                       ▲          │
//!                                       └ Retrying ◄
//! signal, no deadline    Reserved ──► Open ──► Resolved ──► Taken
//! emit, status           Reserved ──► Resolved
//! ```

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::Name,
    event::{Event, Payload, Timestamp},
    failure::Failure,
    retry::RetryPolicy,
};

use crate::workflow::journal::Entry;

/// The outcome of an operation.
pub type Outcome = Result<Payload, Failure>;

/// An operation requested by the code of a workflow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Request {
    /// Run a piece of code and record its result.
    Step {
        /// Name of the step, shared with its call.
        name: Arc<str>,
        /// Timeout of one attempt.
        timeout: Option<Duration>,
        /// Policy for retries.
        retry: RetryPolicy,
    },
    /// Assign a task to an agent.
    Task(Box<TaskRequest>),
    /// Sleep on a durable timer.
    Sleep {
        /// How long to sleep.
        duration: Duration,
    },
    /// Wait for a signal.
    Signal {
        /// Name of the signal.
        name: Box<str>,
        /// How long to wait at most.
        timeout: Option<Duration>,
    },
    /// Start a child run and wait for its end.
    Child(Box<ChildRequest>),
    /// Append an event to the log.
    Emit {
        /// The event.
        event: Box<Event>,
    },
    /// Set the status of the run.
    Status {
        /// Status text.
        text: String,
        /// Progress data.
        progress: Option<Payload>,
    },
}

/// A task for an agent.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    /// Type of the agent.
    pub agent_type: Name,
    /// Id of the agent that has to process the task; any agent of the type if `None`.
    pub agent_id: Option<String>,
    /// Parameters of the task.
    pub parameters: Payload,
    /// Timeout of one attempt.
    pub timeout: Option<Duration>,
    /// Timeout of all attempts together.
    pub total_timeout: Option<Duration>,
    /// Policy for retries.
    pub retry: RetryPolicy,
}

/// A child run to start and wait for.
#[derive(Clone, Debug)]
pub struct ChildRequest {
    /// Workflow of the child.
    pub workflow: Name,
    /// Id of the child; derived from the parent's id and the operation if `None`.
    pub run_id: Option<String>,
    /// Input of the child.
    pub input: Payload,
    /// Whether the child keeps running if this run is cancelled.
    pub leave_running: bool,
    /// Whether the child is cancelled when the code no longer waits for it.
    pub cancel_when_dropped: bool,
}

/// One operation of a run.
#[derive(Debug, Default)]
pub(super) struct Operation {
    /// The request; `None` before there is one, and once there is an outcome. Boxed, like the failure of
    /// an outcome, because a run keeps all of its operations.
    pub(super) request: Option<Box<Request>>,
    /// Where the operation is.
    pub(super) state: State,
    /// Whether the code of the current attempt of a step has begun.
    pub(super) begun: bool,
    /// Whether the code has not polled the step since the host held the run.
    pub(super) unpolled: bool,
    /// Whether its start is never recorded, because it was requested while held entries were applied
    /// before a cancellation.
    pub(super) discarded: bool,
    /// Whether a compensation requested it.
    pub(super) compensates: bool,
    /// When the first attempt of a task was assigned, or the code of the last attempt of a step began.
    pub(super) began_at: Option<Timestamp>,
}

/// State of an operation.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Its number is reserved; the code has not requested it yet.
    #[default]
    Reserved,
    /// Requested; not in the journal yet.
    Open {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// When this attempt of a step times out, once its code runs.
        until: Option<Timestamp>,
    },
    /// Its outcome is being recorded.
    Recording,
    /// Its start is recorded.
    Waiting {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// When its timer is due, if it has one.
        until: Option<Timestamp>,
    },
    /// An attempt failed, and another one follows.
    Retrying {
        /// Number of the next attempt, from 2.
        attempt: u32,
        /// When the next attempt begins.
        at: Timestamp,
    },
    /// Its outcome is recorded.
    Resolved {
        /// The outcome.
        outcome: Result<Payload, Box<Failure>>,
        /// Its place in the journal.
        place: u64,
        /// Name of the signal, if the outcome is a signal.
        signal: Option<Box<str>>,
    },
    /// The code has taken the outcome.
    Taken,
    /// The code no longer waits for it.
    Abandoned,
}

impl Operation {
    /// The request, while it has no outcome.
    pub(super) fn request(&self) -> Option<&Request> {
        self.request.as_deref()
    }

    /// Keeps the recorded id of a child, even if ids are derived differently now.
    pub(super) fn keep_child_id(&mut self, entry: &Entry) {
        if let (Some(Request::Child(request)), Entry::ChildStarted(child)) =
            (self.request.as_deref_mut(), entry)
        {
            request.run_id = Some(child.run_id.to_string());
        }
    }

    /// Whether it is a step whose code is running.
    pub(super) fn is_running(&self) -> bool {
        self.begun && matches!(self.state, State::Open { .. })
    }

    /// Whether the code has requested it, even if it is over.
    pub(super) fn is_requested(&self) -> bool {
        !matches!(self.state, State::Reserved)
    }

    /// Whether its start is recorded, and the code has not taken its outcome.
    pub(super) fn is_started(&self) -> bool {
        matches!(
            self.state,
            State::Waiting { .. } | State::Retrying { .. } | State::Resolved { .. }
        )
    }

    /// Whether later entries about the operation are ignored.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Resolved { .. } | State::Taken | State::Abandoned)
    }

    /// Whether the operation waits for something external: a timer, an agent or a child.
    pub(super) fn waits_externally(&self) -> bool {
        match self.request() {
            Some(Request::Task(_) | Request::Child(_) | Request::Sleep { .. }) => true,
            Some(Request::Signal { timeout, .. }) => timeout.is_some(),
            Some(Request::Step { .. }) => self.timer().is_some(),
            _ => false,
        }
    }

    /// Notes when a task was assigned.
    pub(super) fn begin_task(&mut self, at: Timestamp) {
        if let (Some(Request::Task(_)), None) = (self.request(), self.began_at) {
            self.began_at = Some(at);
        }
    }

    /// When the total timeout of a task expires, counted from its first assignment.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        let Some(Request::Task(task)) = self.request() else { return None };
        Some(self.began_at? + task.total_timeout?)
    }

    /// When its timer is due: a sleep, the deadline of a wait, the timeout of a running step, or the
    /// delay before the next attempt.
    pub(super) fn timer(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until, .. } | State::Waiting { until, .. } => until,
            State::Retrying { at, .. } => Some(at),
            _ => None,
        }
    }
}

impl Request {
    /// Whether an entry can be about an operation of this kind.
    ///
    /// An outcome of a step and one of a task have the same entry for a failure, so that entry fits
    /// every kind.
    pub(super) fn accepts(&self, entry: &Entry) -> bool {
        match entry {
            Entry::OperationFailed(_) => true,
            Entry::StepCompleted(_) => matches!(self, Self::Step { .. }),
            Entry::RetryScheduled(_) => matches!(self, Self::Step { .. } | Self::Task(_)),
            Entry::TaskAssigned(_)
            | Entry::TaskCompleted(_)
            | Entry::TaskFailed(_)
            | Entry::TaskCancelled(_) => matches!(self, Self::Task(_)),
            Entry::TimerStarted(_) => matches!(self, Self::Sleep { .. }),
            Entry::TimerFired(_) => matches!(self, Self::Sleep { .. } | Self::Signal { .. }),
            Entry::SignalAwaited(_) => matches!(self, Self::Signal { .. }),
            Entry::ChildStarted(_) | Entry::ChildEnded(_) => matches!(self, Self::Child(_)),
            Entry::EventEmitted(_) => matches!(self, Self::Emit { .. }),
            Entry::StatusSet(_) => matches!(self, Self::Status { .. }),
            _ => false,
        }
    }

    /// Whether an entry is the result of an agent of another type than the task was assigned to. The
    /// process that recorded it may not have known the assignment.
    pub(super) fn is_from_other_type(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (Self::Task(task), Entry::TaskCompleted(answer)) => {
                answer.agent_type != task.agent_type
            }
            (Self::Task(task), Entry::TaskFailed(answer)) => answer.agent_type != task.agent_type,
            _ => false,
        }
    }

    /// The description of the request in a [`Mismatch`](super::Mismatch).
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Step { name, .. } => format!("step {name}"),
            Self::Task(task) => format!("task {}", task.agent_type),
            Self::Sleep { .. } => "timer".to_owned(),
            Self::Signal { name, .. } => format!("signal {name}"),
            Self::Child(child) => format!("child {}", child.workflow),
            Self::Emit { .. } => "event".to_owned(),
            Self::Status { .. } => "status".to_owned(),
        }
    }
}
