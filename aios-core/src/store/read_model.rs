use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Shard, StoreError, Waits};
use crate::{
    event::{Payload, Timestamp},
    failure::Failure,
};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text in the table.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Parses the text in the table.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

status! {
    /// The status of a run.
    RunStatus {
        /// It progresses, or waits for a task, a timer or a signal.
        Running = "running",
        /// It is paused.
        Paused = "paused",
        /// The current code does not match its journal, or no engine has its code.
        Blocked = "blocked",
        /// It is being cancelled, and compensates.
        Cancelling = "cancelling",
        /// It ended with a result.
        Completed = "completed",
        /// It ended with a failure.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// It ended by continuing as another run.
        Continued = "continued",
    }
}

impl RunStatus {
    /// Whether the run has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Continued)
    }
}

status! {
    /// The status of a task.
    TaskStatus {
        /// It is assigned to an agent.
        Assigned = "assigned",
        /// It ended with a result.
        Completed = "completed",
        /// Its last attempt failed.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

status! {
    /// The status of an agent.
    AgentStatus {
        /// It shall run, and no process has said that it runs it.
        Waiting = "waiting",
        /// It takes tasks.
        Running = "running",
        /// It missed its heartbeats.
        Missing = "missing",
        /// It was stopped.
        Stopped = "stopped",
        /// Its factory failed, and is retried.
        Failed = "failed",
    }
}

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
    /// Something the run waits for that does not progress, such as a task that no agent begins, if that
    /// is known. It is not part of the row: the status of a single run finds it among the
    /// run's tasks.
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

/// The page to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Continues after the row with this id; from the start if `None`. Pages are ordered by the key
    /// of the id.
    pub after: Option<String>,
    /// The maximum number of rows, 1 to [`MAX_PAGE`](super::MAX_PAGE).
    pub limit: usize,
}

impl PageRequest {
    /// The first page of at most `limit` rows.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(100)
    }
}

/// One page of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The id after which the next page begins; `None` on the last one.
    pub next: Option<PageRequest>,
    /// Rows of this page that cannot be read. A query for a single row fails instead.
    pub unreadable: Vec<UnreadableRow>,
}

/// A row with a value that this version of aios cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRow {
    /// Id of the row.
    pub id: String,
    /// The column with that value.
    pub column: &'static str,
}

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

/// Tables derived from the log by [`project`](crate::projection::project), in the transaction that
/// appends. They can be rebuilt at any time. Only the time when an agent was last seen may be newer
/// than in the log, see [`touch_agents`](Self::touch_agents).
#[async_trait]
pub trait ReadModels: Send + Sync + 'static {
    /// A page of agents.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError>;

    /// A page of tasks.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError>;

    /// A page of workflows.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError>;

    /// A page of runs.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError>;

    /// A page of runs without their data, which a store need not read.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        let Page { rows, next, unreadable } = self.runs(filter, page).await?;
        Ok(Page { rows: rows.into_iter().map(RunSummary::from).collect(), next, unreadable })
    }

    /// Records outside the log that agents are running now, and returns those that were not
    /// recorded, because they are not known to run: for these, an event is needed.
    ///
    /// The default implementation records nothing, so that every heartbeat is an event.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    async fn touch_agents(
        &self,
        agent_ids: &[String],
        _at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        Ok(agent_ids.to_vec())
    }

    /// Empties all tables and rebuilds them from the log. Appends wait in the meantime.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; the tables are then unchanged.
    async fn rebuild(&self) -> Result<(), StoreError>;

    /// The recorded waits of runs, if the store supports them. Without them, which is the default,
    /// the new owner of a shard reads all of its runs that have not ended.
    ///
    /// A wrapper returns those of the wrapped store, or itself if it wraps them too.
    fn waits(&self) -> Option<&dyn Waits> {
        None
    }
}
