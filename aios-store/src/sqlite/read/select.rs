//! Statements that read the tables, and the indexes that they use.
//!
//! SQLite chooses an index by rules and by statistics. There are no statistics, because nothing
//! runs `ANALYZE`, so the rules decide, and they do not know that most runs are completed. For the
//! lists that matter, the statement names its index with `INDEXED BY`. If that index did not exist,
//! the statement would fail instead of becoming slow.
//!
//! Every list ends with `LIMIT`, and the index returns the rows in the order of the list, so a page
//! costs as much as it has rows, whatever the size of the table. The exception is the list of few
//! open runs, which is sorted.

use aios_core::{
    projection::{Cell, Order, Predicate, Query, Table},
    store::{RunStatus, StoreError},
};
use rusqlite::{Connection, types::Value};
use uuid::Uuid;

use crate::{
    rows::{self, Key, PartialIndex},
    sqlite::writer::{push, value},
};

/// A condition with at most this many values is written as comparisons joined by `OR`. See
/// [`conditional`].
const INLINE_LIMIT: usize = 8;

/// Returns the statement of a page, which has one row more than the page, and its parameters.
///
/// # Errors
///
/// [`StoreError::InvalidConfiguration`] if the start of the page is invalid.
pub(crate) fn select(query: &Query, path: Path) -> Result<(String, Vec<Value>), StoreError> {
    let mut values = Vec::new();
    let mut conditions = Vec::new();
    if let Some(start) = rows::page_start(query)? {
        if let Some(created_at) = start.created_at {
            conditions.push("(created_at, id) > (?, ?)".to_owned());
            values.push(Value::Integer(created_at.as_micros()));
        } else {
            conditions.push("id > ?".to_owned());
        }
        values.push(blob(start.key));
    }
    for condition in &query.conditions {
        conditions.push(conditional(condition, &mut values));
    }
    let index = path.index(query, &mut conditions);
    let filter = if conditions.is_empty() { "1".to_owned() } else { conditions.join(" AND ") };
    let mut columns = String::new();
    for column in &query.columns {
        push(&mut columns, &[", ", column.name]);
    }
    let table = query.table.name();
    // A number in the text, because the plan depends on it.
    let limit = i64::try_from(query.page.limit).unwrap_or(i64::MAX).saturating_add(1);
    let order = match query.order {
        Order::Key => "id",
        Order::Created => "created_at, id",
    };
    let sql = format!(
        "SELECT id, external_id, created_at, updated_at, deleted_at{columns} FROM {table}{index}
         WHERE {filter} ORDER BY {order} LIMIT {limit}"
    );
    Ok((sql, values))
}

/// How the rows of a query are found. SQLite has no statistics, and would rather find all rows in a
/// status and sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// As SQLite chooses.
    Any,
    /// In the order of time.
    Created,
    /// By a partial index, in the order of the query.
    Partial,
    /// Among the runs that have not ended; they are sorted.
    OpenRuns,
}

impl Path {
    /// A condition that few rows fulfil comes first: SQLite finds those by an index of its own
    /// choice, and sorting them is cheap.
    pub(crate) fn of(query: &Query) -> Self {
        if query.conditions.iter().any(is_selective) {
            Self::Any
        } else if PartialIndex::of(query).is_some() {
            Self::Partial
        } else if query.order == Order::Created {
            Self::Created
        } else {
            Self::Any
        }
    }

    /// Returns the clause that names the index, whose condition the query repeats.
    fn index(self, query: &Query, conditions: &mut Vec<String>) -> String {
        let table = query.table.name();
        match self {
            Self::Any => String::new(),
            Self::Created => format!(" INDEXED BY idx_{table}_created_at"),
            Self::Partial => {
                let Some(index) = PartialIndex::of(query) else { return String::new() };
                conditions.push(index.condition);
                format!(" INDEXED BY {}", index.name)
            }
            Self::OpenRuns => {
                conditions.push(rows::any_status(&OPEN));
                format!(" INDEXED BY idx_{table}_shard")
            }
        }
    }
}

/// Whether few rows match a condition.
fn is_selective(condition: &Predicate) -> bool {
    match condition {
        Predicate::Id(_) => true,
        Predicate::In(name, _) => SELECTIVE.contains(name),
        _ => false,
    }
}

/// Columns by which few rows are found.
const SELECTIVE: [&str; 4] = ["run_id", "first_run_id", "agent_id", "shard"];

/// The statuses of runs that have not ended, in alphabetical order.
const OPEN: [&str; 4] = [
    RunStatus::Blocked.as_str(),
    RunStatus::Cancelling.as_str(),
    RunStatus::Paused.as_str(),
    RunStatus::Running.as_str(),
];

/// More runs than this that have not ended are found while all rows are read in order. Fewer are faster
/// to sort.
const FEW_OPEN_RUNS: usize = 2_000;

/// Whether the query lists runs that have not ended, and would read all runs otherwise.
pub(crate) fn asks_for_open_runs(query: &Query) -> bool {
    query.table == Table::WorkflowRuns
        && matches!(Path::of(query), Path::Any | Path::Created)
        && !query.conditions.iter().any(is_selective)
        && rows::is_among(query, &OPEN)
}

/// Whether the open runs are few enough to be sorted. Counts at most one more than that.
pub(crate) fn has_few_open_runs(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT count(*) <= {FEW_OPEN_RUNS} FROM
             (SELECT 1 FROM workflow_runs WHERE {} LIMIT {FEW_OPEN_RUNS} + 1)",
        rows::any_status(&OPEN)
    );
    connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))
}

/// A text that needs no quoting in SQL.
fn plain_text(cell: &Cell) -> Option<&str> {
    let Cell::Text(text) = cell else { return None };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_plain.then_some(text.as_str())
}

/// Returns the SQL of a condition, and appends its parameters in the order of their placeholders.
fn conditional(condition: &Predicate, values: &mut Vec<Value>) -> String {
    match condition {
        Predicate::Id(id) => {
            // No row has an invalid id, and nothing equals NULL.
            values.push(Key::of(id).map_or(Value::Null, |key| blob(key.uuid)));
            "id = ?".to_owned()
        }
        // SQLite uses a partial index only if the query repeats its condition: the same comparisons, with
        // the values in alphabetical order and in the text.
        Predicate::In(name, cells) if cells.len() <= INLINE_LIMIT => {
            let mut cells: Vec<&Cell> = cells.iter().collect();
            cells.sort_by_key(|cell| match cell {
                Cell::Text(text) => text.as_str(),
                _ => "",
            });
            let compare = |cell: &Cell| match plain_text(cell) {
                Some(text) if *name == "status" => format!("{name} = '{text}'"),
                _ => {
                    values.push(value(cell));
                    format!("{name} = ?")
                }
            };
            format!("({})", cells.into_iter().map(compare).collect::<Vec<_>>().join(" OR "))
        }
        Predicate::In(name, cells) => {
            values.extend(cells.iter().map(value));
            format!("{name} IN ({})", vec!["?"; cells.len()].join(", "))
        }
        Predicate::Above(name, bound) => {
            values.push(Value::Integer(*bound));
            format!("{name} > ?")
        }
        Predicate::CreatedAfter(at) => {
            values.push(Value::Integer(at.as_micros()));
            "created_at >= ?".to_owned()
        }
        Predicate::CreatedBefore(at) => {
            values.push(Value::Integer(at.as_micros()));
            "created_at < ?".to_owned()
        }
        Predicate::NotDeleted => "deleted_at IS NULL".to_owned(),
    }
}

/// Keys are stored as 16 bytes, which sort like the UUIDs.
fn blob(key: Uuid) -> Value {
    Value::Blob(key.into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Timestamp,
        store::{PageRequest, RunFilter, Shard, TaskFilter, TaskStatus},
    };
    use rusqlite::params_from_iter;

    use super::*;
    use crate::sqlite::{SqliteOptions, schema::open_writer};

    /// Returns SQLite's plan of a query.
    fn plan(query: &Query) -> String {
        plan_by(query, Path::of(query))
    }

    fn plan_by(query: &Query, path: Path) -> String {
        let connection = open_writer(&SqliteOptions::memory(), None).unwrap();
        let (sql, values) = select(query, path).unwrap();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement.query_map(params_from_iter(values.iter()), |row| row.get(3)).unwrap();
        steps.collect::<rusqlite::Result<Vec<String>>>().unwrap().join("; ")
    }

    #[test]
    fn should_find_the_open_runs_of_shards_by_index() {
        use RunStatus::{Blocked, Cancelling, Paused, Running};
        let statuses = vec![Running, Cancelling, Paused, Blocked];
        for shards in [vec![Shard::new(1).unwrap()], Shard::all().collect()] {
            let filter = RunFilter { shards, statuses: statuses.clone(), ..RunFilter::default() };
            let plan = plan(&Query::run_summaries(&filter, &PageRequest::default()));
            assert!(plan.contains("idx_workflow_runs_shard"), "{plan}");
        }
    }

    #[test]
    fn should_list_rows_of_a_time_or_of_a_workflow_in_order_by_index() {
        let at = Some(Timestamp::UNIX_EPOCH);
        let text = || Some("x".to_owned());
        let page = PageRequest { after: Some("7/r1".to_owned()), limit: 50 };
        let statuses = vec![RunStatus::Completed];
        let of_a_time =
            RunFilter { created_after: at, statuses: statuses.clone(), ..RunFilter::default() };
        let of_a_workflow = RunFilter { workflow: text(), ..RunFilter::default() };
        let of_both = RunFilter { statuses, ..of_a_workflow.clone() };
        let tasks = TaskFilter { created_before: at, agent_type: text(), ..TaskFilter::default() };
        let of_an_agent = TaskFilter { agent_id: text(), ..TaskFilter::default() };
        for (query, index) in [
            (Query::runs(&of_a_time, &page), "idx_workflow_runs_created_at"),
            (Query::runs(&of_a_workflow, &page), "idx_workflow_runs_workflow"),
            (Query::runs(&of_both, &page), "idx_workflow_runs_workflow"),
            (Query::tasks(&tasks, &page), "idx_agent_tasks_created_at"),
            (Query::tasks(&of_an_agent, &page), "idx_agent_tasks_agent_id"),
        ] {
            let plan = plan(&query);
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
    #[test]
    fn should_find_rows_in_rare_statuses_in_order_by_index() {
        let at = Some(Timestamp::UNIX_EPOCH);
        let page = PageRequest::default();
        let rare = vec![RunStatus::Failed, RunStatus::Paused];
        let of_a_time =
            RunFilter { statuses: rare.clone(), created_after: at, ..RunFilter::default() };
        let text = || Some("x".to_owned());
        let open = TaskFilter {
            status: Some(TaskStatus::Assigned),
            agent_type: text(),
            ..TaskFilter::default()
        };
        let failed = TaskFilter { status: Some(TaskStatus::Failed), ..TaskFilter::default() };
        for (query, index) in [
            (
                Query::runs(&RunFilter { workflow: text(), ..of_a_time.clone() }, &page),
                "idx_workflow_runs_rare_created_at",
            ),
            (Query::runs(&of_a_time, &page), "idx_workflow_runs_rare_created_at"),
            (
                Query::runs(&RunFilter { statuses: rare, ..RunFilter::default() }, &page),
                "idx_workflow_runs_rare",
            ),
            (Query::tasks(&failed, &page), "idx_agent_tasks_rare"),
            (Query::tasks(&open, &page), "idx_agent_tasks_assigned"),
            (
                Query::tasks(&TaskFilter { created_after: at, ..failed }, &page),
                "idx_agent_tasks_rare_created_at",
            ),
        ] {
            let plan = plan(&query);
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn should_find_few_open_runs_by_index() {
        let running = RunFilter { statuses: vec![RunStatus::Running], ..RunFilter::default() };
        let query = Query::runs(&running, &PageRequest::default());
        assert!(asks_for_open_runs(&query));
        assert!(plan_by(&query, Path::OpenRuns).contains("idx_workflow_runs_shard"));
        let of_a_shard = RunFilter { shards: vec![Shard::new(1).unwrap()], ..running };
        assert!(!asks_for_open_runs(&Query::runs(&of_a_shard, &PageRequest::default())));
    }
}
