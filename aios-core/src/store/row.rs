use super::{AgentStatus, RunStatus, Shard, TaskStatus};
use crate::{
    event::{Payload, Timestamp},
    failure::Failure,
};

/// A registered agent: a row of `agents`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AgentRecord {
    /// Id of the agent.
    pub id: String,
    /// Its type, for example `backend`.
    pub agent_type: String,
    /// Its name.
    pub name: String,
    /// The configuration for its factory, as it was written.
    pub config: Payload,
    /// Its status.
    pub status: AgentStatus,
    /// When it was last seen.
    pub last_seen_at: Option<Timestamp>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it was deregistered.
    pub deleted_at: Option<Timestamp>,
}

/// A task: a row of `agent_tasks`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskRecord {
    /// Id of the task.
    pub id: String,
    /// The run that assigned it, if any.
    pub run_id: Option<String>,
    /// Type of the agent that performs it.
    pub agent_type: String,
    /// The agent that it is addressed to, if any.
    pub agent_id: Option<String>,
    /// Its status.
    pub status: TaskStatus,
    /// Number of the latest attempt, from 1.
    pub attempt: u32,
    /// The latest failure.
    pub failure: Option<Failure>,
    /// When it was first assigned.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// A version of a workflow that a runtime registered: a row of `workflows`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkflowRecord {
    /// Name and version, as `name@version`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it was deregistered.
    pub deleted_at: Option<Timestamp>,
}

/// A run: a row of `workflow_runs`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunRecord {
    /// Id of the run.
    pub id: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// The shard that owns it.
    pub shard: Shard,
    /// Its status.
    pub status: RunStatus,
    /// The run that started it as a child, if any.
    pub parent_run_id: Option<String>,
    /// Its result, once completed, as it was written.
    pub result: Option<Payload>,
    /// The failure, once failed, cancelled or blocked.
    pub failure: Option<Failure>,
    /// The status text that the workflow set.
    pub status_text: Option<String>,
    /// Something the run waits for that does not progress, such as a task that no agent begins or a
    /// child that is blocked or paused, if that is known. It is not part of the row: the status of a
    /// single run finds it among the run's tasks and children.
    pub waits_for: Option<String>,
    /// The progress that the workflow set, as it was written.
    pub progress: Option<Payload>,
    /// Position of the last event that changed this row.
    pub position: u64,
    /// The first run of its chain of continue-as-new, if that is another one.
    pub first_run_id: Option<String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// The status of a run without its data, for engines that read many runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunSummary {
    /// Id of the run.
    pub id: String,
    /// Name of its workflow.
    pub workflow: String,
    /// The shard that owns it.
    pub shard: Shard,
    /// Its status.
    pub status: RunStatus,
    /// Position of the last event that changed its row.
    pub position: u64,
}

impl From<RunRecord> for RunSummary {
    fn from(row: RunRecord) -> Self {
        let RunRecord { id, workflow, shard, status, position, .. } = row;
        Self { id, workflow, shard, status, position }
    }
}
