//! The events of a journal, as far as spans need them. Results and parameters are not read.
//!
//! A journal has events of the engine and of agents. Each is reduced to a [`Record`], which has
//! what a span needs: the operation, a name, the number of the attempt, and the code of a failure.
//! The type of an event selects the record, and a record without one of its fields does not exist:
//! an event of a later version that lacks it says nothing about spans.

use std::borrow::Cow;

use aios_core::{
    agent::TaskId,
    catalog::{agent, workflow},
    event::{Event, EventId, Timestamp},
};
use serde::Deserialize;

/// The data of an event, as far as spans need it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Data<'e> {
    operation: Option<u64>,
    #[serde(borrow)]
    name: Option<Cow<'e, str>>,
    attempt: Option<u32>,
    at: Option<Timestamp>,
    start_at: Option<Timestamp>,
    forked_from: Option<Box<str>>,
    task_id: Option<TaskId>,
    agent_id: Option<Box<str>>,
    run_id: Option<Box<str>>,
    workflow: Option<Box<str>>,
    version: Option<u32>,
    predecessor: Option<Predecessor>,
    failure: Option<Failed>,
}

/// The run that continued as this one.
#[derive(Debug, Deserialize)]
struct Predecessor {
    incarnation: EventId,
}

/// A failure, of which only the code is in spans: messages may have contents of the application.
#[derive(Debug, Deserialize)]
struct Failed {
    code: Box<str>,
}

/// Meaning of an event for the spans of its run.
#[derive(Debug)]
pub(super) enum Record {
    /// The run was started.
    Started(Start),
    /// A step ended with a result.
    StepCompleted {
        operation: u64,
        name: Box<str>,
    },
    OperationFailed {
        operation: u64,
        name: Option<Box<str>>,
        code: Box<str>,
    },
    /// An attempt of a step or a task failed, and another one follows.
    RetryScheduled(Retry),
    TimerStarted {
        operation: u64,
    },
    TimerFired {
        operation: u64,
    },
    SignalAwaited {
        operation: u64,
        name: Box<str>,
    },
    Signaled {
        name: Box<str>,
    },
    ChildStarted {
        operation: u64,
        run_id: Box<str>,
        workflow: Box<str>,
    },
    /// A child ended; with a code if it failed.
    ChildEnded {
        operation: u64,
        code: Option<Box<str>>,
    },
    TaskAssigned {
        task: Task,
        attempt: u32,
        agent_id: Option<Box<str>>,
    },
    /// A task ended with a result. `assignment` is the id of the event that assigned the attempt,
    /// which may not be the latest.
    TaskCompleted {
        task: Task,
        assignment: Option<Box<str>>,
    },
    TaskFailed {
        task: Task,
        attempt: u32,
        code: Box<str>,
    },
    TaskCancelled {
        task: Task,
    },
    /// The run ended.
    Ended {
        status: &'static str,
        code: Option<Box<str>>,
        /// The run that continues it.
        next: Option<Box<str>>,
    },
    /// Something that only counts as an operation.
    Noted {
        operation: u64,
    },
}

/// The start of a run.
#[derive(Debug)]
pub(super) struct Start {
    /// The version of the workflow.
    pub(super) version: u32,
    /// When a delayed run begins.
    pub(super) start_at: Option<Timestamp>,
    /// The incarnation of the run that continues as this one.
    pub(super) predecessor: Option<EventId>,
    /// The run whose beginning was copied.
    pub(super) forked_from: Option<Box<str>>,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) operation: u64,
    /// The name of the step; `None` for a task.
    pub(super) name: Option<Box<str>>,
    /// Number of the next attempt.
    pub(super) attempt: u32,
    /// When the next attempt begins.
    pub(super) at: Timestamp,
    /// The code of the failure.
    pub(super) code: Box<str>,
}

/// A task of a run.
#[derive(Debug)]
pub(super) struct Task {
    /// The number of the operation.
    pub(super) operation: u64,
    /// The type of the agents that do it.
    pub(super) agent_type: Box<str>,
}

impl Record {
    /// Reads an event. `None` if it says nothing about spans.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let (domain, entity, action) = event.event_type.segments();
        match domain {
            workflow::DOMAIN => of_run(action, &data(event)?),
            agent::DOMAIN => of_task(entity, action, data(event)?, event),
            _ => None,
        }
    }

    /// The operation that the event is about.
    pub(super) fn operation(&self) -> Option<u64> {
        match self {
            Self::StepCompleted { operation, .. }
            | Self::OperationFailed { operation, .. }
            | Self::RetryScheduled(Retry { operation, .. })
            | Self::TimerStarted { operation }
            | Self::TimerFired { operation }
            | Self::SignalAwaited { operation, .. }
            | Self::ChildStarted { operation, .. }
            | Self::ChildEnded { operation, .. }
            | Self::Noted { operation } => Some(*operation),
            Self::TaskAssigned { task, .. }
            | Self::TaskCompleted { task, .. }
            | Self::TaskFailed { task, .. }
            | Self::TaskCancelled { task } => Some(task.operation),
            Self::Started(_) | Self::Signaled { .. } | Self::Ended { .. } => None,
        }
    }
}

/// Events whose data cannot be read say nothing, as for the engine.
fn data(event: &Event) -> Option<Data<'_>> {
    serde_json::from_str(event.payload.as_str()).ok()
}

/// The record of an event of the engine.
fn of_run(action: &str, data: &Data<'_>) -> Option<Record> {
    let name = || data.name.as_deref().map(Box::from);
    let code = || data.failure.as_ref().map(|failure| failure.code.clone());
    let ended = |status| Some(Record::Ended { status, code: code(), next: None });
    let operation = data.operation;
    Some(match action {
        workflow::STARTED => Record::Started(Start {
            version: data.version?,
            start_at: data.start_at,
            predecessor: data.predecessor.as_ref().map(|it| it.incarnation.clone()),
            forked_from: data.forked_from.clone(),
        }),
        workflow::STEP_COMPLETED => Record::StepCompleted { operation: operation?, name: name()? },
        workflow::OPERATION_FAILED => {
            Record::OperationFailed { operation: operation?, name: name(), code: code()? }
        }
        workflow::RETRY_SCHEDULED => Record::RetryScheduled(Retry {
            operation: operation?,
            name: name(),
            attempt: data.attempt?,
            at: data.at?,
            code: code()?,
        }),
        workflow::TIMER_STARTED => Record::TimerStarted { operation: operation? },
        workflow::TIMER_FIRED => Record::TimerFired { operation: operation? },
        workflow::SIGNAL_AWAITED => Record::SignalAwaited { operation: operation?, name: name()? },
        workflow::SIGNALED => Record::Signaled { name: name()? },
        workflow::CHILD_STARTED => Record::ChildStarted {
            operation: operation?,
            run_id: data.run_id.clone()?,
            workflow: data.workflow.clone()?,
        },
        workflow::CHILD_ENDED => Record::ChildEnded { operation: operation?, code: code() },
        workflow::COMPLETED => return ended("completed"),
        workflow::FAILED => return ended("failed"),
        workflow::CANCELLED => return ended("cancelled"),
        workflow::CONTINUED => {
            Record::Ended { status: "continued", code: None, next: data.run_id.clone() }
        }
        workflow::EVENT_EMITTED | workflow::STATUS_SET => Record::Noted { operation: operation? },
        _ => return None,
    })
}

/// The record of an event of an agent. Tasks without a run, which are called without a journal,
/// have none.
fn of_task(agent_type: &str, action: &str, data: Data<'_>, event: &Event) -> Option<Record> {
    let (_, operation) = data.task_id.as_ref()?.run()?;
    let task = Task { operation, agent_type: agent_type.into() };
    Some(match action {
        agent::TASK_ASSIGNED | agent::TASK_DIRECTED => {
            Record::TaskAssigned { task, attempt: data.attempt?, agent_id: data.agent_id }
        }
        agent::TASK_COMPLETED => {
            let assignment = event.metadata.causation_id.as_deref().map(Box::from);
            Record::TaskCompleted { task, assignment }
        }
        agent::TASK_FAILED => Record::TaskFailed {
            task,
            attempt: data.attempt?,
            code: data.failure.map(|failure| failure.code)?,
        },
        agent::TASK_CANCELLED => Record::TaskCancelled { task },
        _ => return None,
    })
}
