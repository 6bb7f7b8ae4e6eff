use crate::event::{Payload, Timestamp};

/// A read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `agents`: registered agents.
    Agents,
    /// `agent_tasks`: tasks assigned to agents.
    AgentTasks,
    /// `workflows`: registered workflows and versions.
    Workflows,
    /// `workflow_runs`: executions of workflows.
    WorkflowRuns,
}

/// A column other than `id` (the UUID key), `external_id` (the id's text where it is not a UUID),
/// `created_at`, `updated_at` and `deleted_at`, which every table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The kind of its values.
    pub kind: Kind,
}

/// The kind of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Text.
    Text,
    /// A 64-bit integer.
    Integer,
    /// A timestamp, in microseconds.
    Timestamp,
    /// JSON text.
    Json,
}

/// One value of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cell {
    /// NULL.
    #[default]
    Null,
    /// Text.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A timestamp.
    Timestamp(Timestamp),
    /// JSON.
    Json(Payload),
    /// An invalid value in a column.
    Unreadable,
}

impl Cell {
    /// Text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// Text or NULL.
    #[must_use]
    pub fn optional_text(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }

    /// An integer. Values above `i64::MAX` are clamped.
    #[must_use]
    pub fn integer(number: impl TryInto<i64>) -> Self {
        Self::Integer(number.try_into().unwrap_or(i64::MAX))
    }

    /// Whether a column of this kind can hold the value.
    #[must_use]
    pub fn fits(&self, kind: Kind) -> bool {
        match self {
            Self::Null => true,
            Self::Text(_) => kind == Kind::Text,
            Self::Integer(_) => kind == Kind::Integer,
            Self::Timestamp(_) => kind == Kind::Timestamp,
            Self::Json(_) => kind == Kind::Json,
            Self::Unreadable => false,
        }
    }
}

impl Table {
    /// All read models.
    pub const ALL: [Self; 4] =
        [Self::Agents, Self::AgentTasks, Self::Workflows, Self::WorkflowRuns];

    /// Name of the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::AgentTasks => "agent_tasks",
            Self::Workflows => "workflows",
            Self::WorkflowRuns => "workflow_runs",
        }
    }

    /// The table's own columns, in order.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Agents => AGENTS,
            Self::AgentTasks => AGENT_TASKS,
            Self::Workflows => WORKFLOWS,
            Self::WorkflowRuns => WORKFLOW_RUNS,
        }
    }

    /// The final statuses. A row with one of them is never changed again.
    #[must_use]
    pub fn final_statuses(self) -> &'static [&'static str] {
        match self {
            Self::AgentTasks => &["completed", "cancelled"],
            Self::WorkflowRuns => &["completed", "failed", "cancelled", "continued"],
            Self::Agents | Self::Workflows => &[],
        }
    }

    /// Returns the place of one of the table's own columns in [`columns`](Self::columns).
    #[must_use]
    pub fn index(self, name: &str) -> Option<usize> {
        self.columns().iter().position(|column| column.name == name)
    }

    /// Returns one of the table's own columns, or `deleted_at`, by name.
    #[must_use]
    pub fn column(self, name: &str) -> Option<Column> {
        let own = self.columns().iter().copied().find(|column| column.name == name);
        own.or((name == DELETED_AT.name).then_some(DELETED_AT))
    }
}

const DELETED_AT: Column = Column { name: "deleted_at", kind: Kind::Timestamp };

const AGENTS: &[Column] = &[
    Column { name: "agent_type", kind: Kind::Text },
    Column { name: "name", kind: Kind::Text },
    Column { name: "config", kind: Kind::Json },
    Column { name: "status", kind: Kind::Text },
    Column { name: "last_seen_at", kind: Kind::Timestamp },
];

const AGENT_TASKS: &[Column] = &[
    Column { name: "run_id", kind: Kind::Text },
    Column { name: "agent_type", kind: Kind::Text },
    Column { name: "agent_id", kind: Kind::Text },
    Column { name: "status", kind: Kind::Text },
    Column { name: "attempt", kind: Kind::Integer },
    Column { name: "failure", kind: Kind::Json },
];

const WORKFLOWS: &[Column] =
    &[Column { name: "name", kind: Kind::Text }, Column { name: "version", kind: Kind::Integer }];

const WORKFLOW_RUNS: &[Column] = &[
    Column { name: "workflow", kind: Kind::Text },
    Column { name: "workflow_version", kind: Kind::Integer },
    Column { name: "shard", kind: Kind::Integer },
    Column { name: "status", kind: Kind::Text },
    Column { name: "parent_run_id", kind: Kind::Text },
    Column { name: "result", kind: Kind::Json },
    Column { name: "failure", kind: Kind::Json },
    Column { name: "status_text", kind: Kind::Text },
    Column { name: "progress", kind: Kind::Json },
    Column { name: "position", kind: Kind::Integer },
    Column { name: "first_run_id", kind: Kind::Text },
];
