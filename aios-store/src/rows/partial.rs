//! The partial indexes of lists by status, each for statuses in which few rows are.
//!
//! By far most runs are completed or running, and most tasks are completed. An index on the status
//! of every row would be written for each of them and would help no list of them. The migrations
//! therefore create partial indexes of the other statuses. A database uses a partial index only if
//! the query implies its condition, and the planners of SQLite and PostgreSQL recognise that most
//! reliably if the query repeats the condition word for word. This module knows the conditions, and
//! the stores append them to their statements.
//!
//! The statuses of [`RARE_RUNS`] and [`RARE_TASKS`] and their order have to be those of the
//! migrations.

use aios_core::{
    projection::{Cell, Order, Predicate, Query, Table},
    store::{RunStatus, TaskStatus},
};

/// Statuses of runs that few runs have, in alphabetical order. Most are completed or running.
const RARE_RUNS: [&str; 6] = [
    RunStatus::Blocked.as_str(),
    RunStatus::Cancelled.as_str(),
    RunStatus::Cancelling.as_str(),
    RunStatus::Continued.as_str(),
    RunStatus::Failed.as_str(),
    RunStatus::Paused.as_str(),
];

/// Statuses of tasks that few tasks have, in alphabetical order.
const RARE_TASKS: [&str; 2] = [TaskStatus::Cancelled.as_str(), TaskStatus::Failed.as_str()];

/// The status of tasks without a result.
const OPEN_TASKS: [&str; 1] = [TaskStatus::Assigned.as_str()];

/// A partial index that has all rows of a query in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartialIndex {
    /// Name of the index, for `INDEXED BY` in statements of SQLite.
    pub(crate) name: &'static str,
    /// The condition of the index, as the migrations write it.
    pub(crate) condition: String,
}

impl PartialIndex {
    /// Returns the index of a query, if there is one.
    ///
    /// The order of the query selects the index, because the rows have to come out of it sorted.
    /// The query has to be restricted to the statuses of the index; one further status would need
    /// rows that the index does not have.
    pub(crate) fn of(query: &Query) -> Option<Self> {
        let (name, statuses): (_, &[&str]) = match (query.table, query.order) {
            (Table::WorkflowRuns, Order::Key) => ("idx_workflow_runs_rare", &RARE_RUNS),
            (Table::WorkflowRuns, Order::Created) => {
                ("idx_workflow_runs_rare_created_at", &RARE_RUNS)
            }
            (Table::AgentTasks, Order::Key) if is_of_open_tasks(query) => {
                ("idx_agent_tasks_assigned", &OPEN_TASKS)
            }
            (Table::AgentTasks, Order::Key) => ("idx_agent_tasks_rare", &RARE_TASKS),
            (Table::AgentTasks, Order::Created) => ("idx_agent_tasks_rare_created_at", &RARE_TASKS),
            _ => return None,
        };
        is_among(query, statuses).then(|| Self { name, condition: any_status(statuses) })
    }
}

/// Whether the query is the one of autoscalers: the open tasks of some agent types.
fn is_of_open_tasks(query: &Query) -> bool {
    let is_type = |condition: &Predicate| matches!(condition, Predicate::In("agent_type", _));
    query.conditions.iter().any(is_type) && is_among(query, &OPEN_TASKS)
}

/// Whether the query asks for rows in some of these statuses and in no other status.
pub(crate) fn is_among(query: &Query, statuses: &[&str]) -> bool {
    let is_one =
        |cell: &Cell| matches!(cell, Cell::Text(text) if statuses.contains(&text.as_str()));
    query.conditions.iter().any(
        |condition| matches!(condition, Predicate::In("status", cells) if cells.iter().all(is_one)),
    )
}

/// Returns the condition of an index of rows in these statuses, as the migrations write it.
pub(crate) fn any_status(statuses: &[&str]) -> String {
    let terms: Vec<_> = statuses.iter().map(|status| format!("status = '{status}'")).collect();
    format!("({})", terms.join(" OR "))
}
