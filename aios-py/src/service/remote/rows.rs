//! Resources of a service as rows for Python.
//!
//! They have the form of the rows of a store; see [`records`]. `NativeClient` and
//! `NativeRemoteClient` so return the same to Python.

use aios_service::client::{Agent, Run, Task, Workflow};

use crate::convert::records::{self, micros};

/// A run of a service.
pub(super) fn run(run: &Run) -> records::Run<'_> {
    records::Run {
        id: &run.id,
        workflow: &run.workflow,
        workflow_version: run.workflow_version,
        status: run.status.as_str(),
        parent_run_id: run.parent_run_id.as_deref(),
        result: run.result.as_ref(),
        failure: run.failure.as_ref(),
        status_text: run.status_text.as_deref(),
        waits_for: run.waits_for.as_deref(),
        progress: run.progress.as_ref(),
        created_at: micros(Some(run.created_at)),
        updated_at: micros(Some(run.updated_at)),
    }
}

/// An agent of a service.
pub(super) fn agent(agent: &Agent) -> records::Agent<'_> {
    records::Agent {
        id: &agent.id,
        agent_type: &agent.agent_type,
        name: &agent.name,
        config: &agent.config,
        status: agent.status.as_str(),
        last_seen_at: micros(agent.last_seen_at),
        created_at: micros(Some(agent.created_at)),
        updated_at: micros(Some(agent.updated_at)),
    }
}

/// A task of a service.
pub(super) fn task(task: &Task) -> records::Task<'_> {
    records::Task {
        id: &task.id,
        run_id: task.run_id.as_deref(),
        agent_type: &task.agent_type,
        agent_id: task.agent_id.as_deref(),
        status: task.status.as_str(),
        attempt: task.attempt,
        failure: task.failure.as_ref(),
        created_at: micros(Some(task.created_at)),
        updated_at: micros(Some(task.updated_at)),
    }
}

/// A workflow of a service.
pub(super) fn workflow(workflow: &Workflow) -> records::Workflow<'_> {
    records::Workflow {
        id: &workflow.id,
        name: &workflow.name,
        version: workflow.version,
        created_at: micros(Some(workflow.created_at)),
        updated_at: micros(Some(workflow.updated_at)),
    }
}
