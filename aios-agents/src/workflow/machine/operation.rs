use std::time::Duration;

use aios_core::{
    agent::Name,
    event::{Event, Payload, Timestamp},
    failure::Failure,
    retry::RetryPolicy,
};

use crate::workflow::journal::Entry;

/// How an operation ended.
pub type Outcome = Result<Payload, Failure>;

/// What the code of a workflow asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Request {
    /// Run a piece of code and record its result.
    Step {
        /// Its name.
        name: Box<str>,
        /// How long one attempt may take.
        timeout: Option<Duration>,
        /// When to try again.
        retry: RetryPolicy,
    },
    /// Give a task to an agent.
    Task(Box<TaskRequest>),
    /// Wait.
    Sleep {
        /// How long.
        duration: Duration,
    },
    /// Wait for a signal.
    Signal {
        /// Its name.
        name: Box<str>,
        /// How long at most.
        timeout: Option<Duration>,
    },
    /// Start another run and wait for its end.
    Child(Box<ChildRequest>),
    /// Append an event to the log.
    Emit {
        /// The event.
        event: Box<Event>,
    },
    /// Say what the workflow is doing.
    Status {
        /// In words.
        text: String,
        /// How far it is.
        progress: Option<Payload>,
    },
}

/// A task for an agent.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    /// Type of the agent.
    pub agent_type: Name,
    /// The one agent that is to do it, if any.
    pub agent_id: Option<String>,
    /// What to do.
    pub parameters: Payload,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How long all attempts together may take.
    pub total_timeout: Option<Duration>,
    /// When to try again.
    pub retry: RetryPolicy,
}

/// A run to start and to wait for.
#[derive(Clone, Debug)]
pub struct ChildRequest {
    /// Its workflow.
    pub workflow: Name,
    /// Its id; derived from the parent's id and the operation if `None`.
    pub run_id: Option<String>,
    /// What it is given.
    pub input: Payload,
    /// Whether it goes on if this run is cancelled.
    pub leave_running: bool,
}

/// One operation of a run.
#[derive(Debug, Default)]
pub(super) struct Operation {
    pub(super) request: Option<Request>,
    pub(super) state: State,
    /// Whether the code of this attempt of a step was begun.
    pub(super) begun: bool,
    /// When all attempts of a task together are out of time.
    pub(super) expires_at: Option<Timestamp>,
}

/// Where an operation stands.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Its number is reserved; the code did not ask yet.
    #[default]
    Unasked,
    /// Asked for; the journal says nothing of it.
    Open {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// When this attempt of a step is out of time, once its code runs.
        until: Option<Timestamp>,
    },
    /// Its outcome is on its way into the journal.
    Recording,
    /// Its start is recorded.
    Waiting {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// When its timer is due, if it has one.
        until: Option<Timestamp>,
    },
    /// It failed and will be tried again.
    Retrying {
        /// Number of the coming attempt, from 2.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// Its outcome is recorded.
    Resolved {
        /// The outcome.
        outcome: Outcome,
        /// Where it stands in the journal.
        place: u64,
        /// Name of the signal that it is, if it is one.
        signal: Option<Box<str>>,
    },
    /// The code has seen the outcome.
    Taken,
    /// The code waits for it no longer.
    Abandoned,
}

impl Operation {
    /// A child keeps the id under which it was started, however ids are derived by now.
    pub(super) fn note_child(&mut self, entry: &Entry) {
        if let (Some(Request::Child(request)), Entry::ChildStarted(child)) =
            (&mut self.request, entry)
        {
            request.run_id = Some(child.run_id.to_string());
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        !matches!(self.state, State::Unasked)
    }

    /// Whether entries about it come too late to matter.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Resolved { .. } | State::Taken | State::Abandoned)
    }

    /// Whether something outside of the code may be set to wake it: a timer, an agent, a child.
    pub(super) fn waits_outside(&self) -> bool {
        match &self.request {
            Some(Request::Task(_) | Request::Child(_) | Request::Sleep { .. }) => true,
            Some(Request::Signal { timeout, .. }) => timeout.is_some(),
            Some(Request::Step { .. }) => self.timer().is_some(),
            _ => false,
        }
    }

    /// A task was assigned at this time. The time of all its attempts counts from the first.
    pub(super) fn begin_total_timeout(&mut self, at: Timestamp) {
        if let (Some(Request::Task(task)), None) = (&self.request, self.expires_at) {
            self.expires_at = task.total_timeout.map(|timeout| at + timeout);
        }
    }

    pub(super) fn timer(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until, .. } | State::Waiting { until, .. } => until,
            State::Retrying { at, .. } => Some(at),
            _ => None,
        }
    }
}

impl Request {
    /// Whether an entry can be about such an operation.
    pub(super) fn takes(&self, entry: &Entry) -> bool {
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

    /// Whether an entry is an answer of agents that were not assigned the task. Whoever recorded it
    /// may not have known.
    pub(super) fn is_foreign(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (Self::Task(task), Entry::TaskCompleted(answer)) => {
                answer.agent_type != task.agent_type
            }
            (Self::Task(task), Entry::TaskFailed(answer)) => answer.agent_type != task.agent_type,
            _ => false,
        }
    }

    /// What it is called in a [`Mismatch`](super::Mismatch).
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
