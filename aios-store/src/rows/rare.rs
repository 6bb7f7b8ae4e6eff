//! Lists by status, which have indexes for the statuses in which few rows are.

use aios_core::{
    projection::{Cell, Predicate, Query, Table},
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

/// Returns the condition of the indexes of rows in rare statuses, if the query asks for no other rows.
pub(crate) fn rare_condition(query: &Query) -> Option<String> {
    let rare: &[&str] = match query.table {
        Table::WorkflowRuns => &RARE_RUNS,
        Table::AgentTasks => &RARE_TASKS,
        _ => return None,
    };
    is_among(query, rare).then(|| any_status(rare))
}

/// Whether the query asks for rows in some of these statuses alone.
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
