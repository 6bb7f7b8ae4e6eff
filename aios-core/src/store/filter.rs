use super::{AgentStatus, RunStatus, Shard, TaskStatus};

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
    /// Deleted ones too.
    pub include_deleted: bool,
}

/// The runs to list; `Default` means all that are not deleted.
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
    /// Changed by an event after this position.
    pub changed_after: u64,
    /// Deleted ones too.
    pub include_deleted: bool,
}
