use super::{AgentStatus, RunStatus, Shard, TaskStatus};
use crate::event::Timestamp;

/// The agents to list; `Default` means all that are not deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Only the agent with this id.
    pub id: Option<String>,
    /// Only agents of this type.
    pub agent_type: Option<String>,
    /// Only agents in this status.
    pub status: Option<AgentStatus>,
    /// Whether deleted agents are listed.
    pub include_deleted: bool,
}

/// The tasks to list; `Default` means all that are not deleted.
///
/// Tasks of a time are listed in the order in which they were assigned first, see [`RunFilter`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only the task with this id.
    pub id: Option<String>,
    /// Only tasks that this run assigned.
    pub run_id: Option<String>,
    /// Only tasks for agents of this type.
    pub agent_type: Option<String>,
    /// Only tasks for this one agent.
    pub agent_id: Option<String>,
    /// Only tasks in this status.
    pub status: Option<TaskStatus>,
    /// Only tasks that were first assigned at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only tasks that were first assigned before this time.
    pub created_before: Option<Timestamp>,
    /// Whether deleted tasks are listed.
    pub include_deleted: bool,
}

/// The runs to list; `Default` means all that are not deleted.
///
/// With `created_after` or `created_before`, the rows are in the order of their creation, and otherwise
/// in the order of their keys. A page belongs to the order of the filter that returned it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only the run with this id.
    pub id: Option<String>,
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs in one of these statuses; empty means any.
    pub statuses: Vec<RunStatus>,
    /// Only runs of one of these shards; empty means any.
    pub shards: Vec<Shard>,
    /// Only runs that continue this run, directly or indirectly.
    pub first_run_id: Option<String>,
    /// Only children of this run.
    pub parent_run_id: Option<String>,
    /// Only runs that an event after this position changed.
    pub changed_after: u64,
    /// Only runs that started at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only runs that started before this time.
    pub created_before: Option<Timestamp>,
    /// Whether deleted runs are listed.
    pub include_deleted: bool,
}
