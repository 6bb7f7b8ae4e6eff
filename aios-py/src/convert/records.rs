//! Table rows and events as JSON for Python.
//!
//! The fields are those of the classes in Python, and times are microseconds since the Unix epoch.
//! Rows of a store and of a service have the same form, so that Python has one set of classes.

use aios_core::{
    event::{EventError, Payload, Timestamp},
    failure::Failure,
    store::{AgentRecord, Page, RecordedEvent, RunRecord, TaskRecord, WorkflowRecord},
};
use serde::Serialize;

/// Microseconds since the Unix epoch.
pub(crate) fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

/// A row of a run. Embedded JSON is passed on without parsing it.
#[derive(Serialize)]
pub(crate) struct Run<'a> {
    pub(crate) id: &'a str,
    pub(crate) workflow: &'a str,
    pub(crate) workflow_version: u32,
    pub(crate) status: &'static str,
    pub(crate) parent_run_id: Option<&'a str>,
    pub(crate) result: Option<&'a Payload>,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) status_text: Option<&'a str>,
    pub(crate) waits_for: Option<&'a str>,
    pub(crate) progress: Option<&'a Payload>,
    pub(crate) created_at: Option<i64>,
    pub(crate) updated_at: Option<i64>,
}

/// A run of a store.
pub(crate) fn run(row: &RunRecord) -> Run<'_> {
    Run {
        id: &row.id,
        workflow: &row.workflow,
        workflow_version: row.workflow_version,
        status: row.status.as_str(),
        parent_run_id: row.parent_run_id.as_deref(),
        result: row.result.as_ref(),
        failure: row.failure.as_ref(),
        status_text: row.status_text.as_deref(),
        waits_for: row.waits_for.as_deref(),
        progress: row.progress.as_ref(),
        created_at: micros(Some(row.created_at)),
        updated_at: micros(Some(row.updated_at)),
    }
}

/// A row of an agent. Embedded JSON is passed on without parsing it.
#[derive(Serialize)]
pub(crate) struct Agent<'a> {
    pub(crate) id: &'a str,
    pub(crate) agent_type: &'a str,
    pub(crate) name: &'a str,
    pub(crate) config: &'a Payload,
    pub(crate) status: &'static str,
    pub(crate) last_seen_at: Option<i64>,
    pub(crate) created_at: Option<i64>,
    pub(crate) updated_at: Option<i64>,
}

/// An agent of a store.
pub(crate) fn agent(row: &AgentRecord) -> Agent<'_> {
    Agent {
        id: &row.id,
        agent_type: &row.agent_type,
        name: &row.name,
        config: &row.config,
        status: row.status.as_str(),
        last_seen_at: micros(row.last_seen_at),
        created_at: micros(Some(row.created_at)),
        updated_at: micros(Some(row.updated_at)),
    }
}

/// A row of a task.
#[derive(Serialize)]
pub(crate) struct Task<'a> {
    pub(crate) id: &'a str,
    pub(crate) run_id: Option<&'a str>,
    pub(crate) agent_type: &'a str,
    pub(crate) agent_id: Option<&'a str>,
    pub(crate) status: &'static str,
    pub(crate) attempt: u32,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) created_at: Option<i64>,
    pub(crate) updated_at: Option<i64>,
}

/// A task of a store.
pub(crate) fn task(row: &TaskRecord) -> Task<'_> {
    Task {
        id: &row.id,
        run_id: row.run_id.as_deref(),
        agent_type: &row.agent_type,
        agent_id: row.agent_id.as_deref(),
        status: row.status.as_str(),
        attempt: row.attempt,
        failure: row.failure.as_ref(),
        created_at: micros(Some(row.created_at)),
        updated_at: micros(Some(row.updated_at)),
    }
}

/// A row of a workflow.
#[derive(Serialize)]
pub(crate) struct Workflow<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    pub(crate) created_at: Option<i64>,
    pub(crate) updated_at: Option<i64>,
}

/// A workflow of a store.
pub(crate) fn workflow(row: &WorkflowRecord) -> Workflow<'_> {
    Workflow {
        id: &row.id,
        name: &row.name,
        version: row.version,
        created_at: micros(Some(row.created_at)),
        updated_at: micros(Some(row.updated_at)),
    }
}

/// A page as `[rows, next]`.
pub(crate) fn page<'p, T, R: Serialize>(
    page: &'p Page<T>,
    row: fn(&'p T) -> R,
) -> Result<Payload, EventError> {
    let rows: Vec<_> = page.rows.iter().map(row).collect();
    let next = page.next.as_ref().and_then(|next| next.after.clone());
    Payload::encode(&(rows, next))
}

/// Events, each as `[position, stream, version, envelope]`.
pub(crate) fn events(events: &[RecordedEvent]) -> Result<Payload, EventError> {
    let rows: Vec<_> = events
        .iter()
        .map(|recorded| {
            (recorded.position, recorded.stream.as_str(), recorded.version, &recorded.event)
        })
        .collect();
    Payload::encode(&rows)
}
