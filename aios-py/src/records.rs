//! Rows and events as JSON for Python.

use aios_core::{
    event::{EventError, Payload, Timestamp},
    store::{AgentRecord, Page, RecordedEvent, RunRecord, TaskRecord, WorkflowRecord},
};
use serde_json::{Value, json};

use crate::fault::Fault;

fn moment(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| json!(at.as_micros()))
}

pub(crate) fn run(row: &RunRecord) -> Value {
    json!({
        "id": row.id,
        "workflow": row.workflow,
        "workflow_version": row.workflow_version,
        "status": row.status.as_str(),
        "parent_run_id": row.parent_run_id,
        "result": row.result,
        "failure": row.failure,
        "status_text": row.status_text,
        "progress": row.progress,
        "created_at": moment(Some(row.created_at)),
        "updated_at": moment(Some(row.updated_at)),
    })
}

pub(crate) fn agent(row: &AgentRecord) -> Value {
    json!({
        "id": row.id,
        "agent_type": row.agent_type,
        "name": row.name,
        "config": row.config,
        "status": row.status.as_str(),
        "last_seen_at": moment(row.last_seen_at),
        "created_at": moment(Some(row.created_at)),
        "updated_at": moment(Some(row.updated_at)),
    })
}

pub(crate) fn task(row: &TaskRecord) -> Value {
    json!({
        "id": row.id,
        "run_id": row.run_id,
        "agent_type": row.agent_type,
        "agent_id": row.agent_id,
        "status": row.status.as_str(),
        "attempt": row.attempt,
        "failure": row.failure,
        "created_at": moment(Some(row.created_at)),
        "updated_at": moment(Some(row.updated_at)),
    })
}

pub(crate) fn workflow(row: &WorkflowRecord) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "version": row.version,
        "created_at": moment(Some(row.created_at)),
        "updated_at": moment(Some(row.updated_at)),
    })
}

/// `[rows, next]`.
pub(crate) fn page<T>(page: &Page<T>, row: fn(&T) -> Value) -> Result<Payload, EventError> {
    let rows: Vec<_> = page.rows.iter().map(row).collect();
    let next = page.next.as_ref().and_then(|next| next.after.clone());
    Payload::encode(&(rows, next))
}

/// Each as `[position, stream, version, envelope]`.
pub(crate) fn events(events: &[RecordedEvent]) -> Result<Payload, Fault> {
    let rows: Vec<_> = events
        .iter()
        .map(|recorded| {
            (recorded.position, recorded.stream.as_str(), recorded.version, &recorded.event)
        })
        .collect();
    Ok(Payload::encode(&rows)?)
}
