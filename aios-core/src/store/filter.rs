use super::{AgentStatus, RunStatus, Shard, TaskStatus};
use crate::event::Timestamp;

/// The agents to list; `Default` means all that are not deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// This one.
    pub id: Option<String>,
    /// Of this type.
    pub agent_type: Option<String>,
    /// In this status.
    pub status: Option<AgentStatus>,
    /// Deleted ones too.
    pub include_deleted: bool,
}

/// The tasks to list; `Default` means all that are not deleted.
///
/// Tasks of a time are listed in the order in which they were assigned first, see [`RunFilter`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// This one.
    pub id: Option<String>,
    /// Assigned by this run.
    pub run_id: Option<String>,
    /// For agents of this type.
    pub agent_type: Option<String>,
    /// For this one agent.
    pub agent_id: Option<String>,
    /// In this status.
    pub status: Option<TaskStatus>,
    /// First assigned at this time or later.
    pub created_after: Option<Timestamp>,
    /// First assigned before this time.
    pub created_before: Option<Timestamp>,
    /// Deleted ones too.
    pub include_deleted: bool,
}

/// The runs to list; `Default` means all that are not deleted.
///
/// With `created_after` or `created_before`, the rows are in the order of their creation, and otherwise
/// in that of their keys. A page belongs to the order of the filter that returned it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// With this id.
    pub id: Option<String>,
    /// Of this workflow.
    pub workflow: Option<String>,
    /// In one of these statuses; empty means any.
    pub statuses: Vec<RunStatus>,
    /// Of one of these shards; empty means any.
    pub shards: Vec<Shard>,
    /// That continue this run, directly or indirectly.
    pub first_run_id: Option<String>,
    /// That this run started as its children.
    pub parent_run_id: Option<String>,
    /// Changed by an event after this position.
    pub changed_after: u64,
    /// Started at this time or later.
    pub created_after: Option<Timestamp>,
    /// Started before this time.
    pub created_before: Option<Timestamp>,
    /// Deleted ones too.
    pub include_deleted: bool,
}
