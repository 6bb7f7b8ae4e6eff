use aios_core::{
    event::{EventId, Payload, Timestamp},
    projection::{Cell, Column, Kind, Order, Predicate, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, ReadModels, RunFilter, RunRecord, RunStatus,
        RunSummary, StoreError, TaskFilter, TaskRecord, Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;
use rusqlite::{
    Connection, params_from_iter,
    types::{Type, Value},
};
use uuid::Uuid;

use super::{
    SqliteStore,
    apply::{apply_all, push, value},
    read::{LOG_PAGE, stored_events},
    writer::Writer,
};
use crate::rows::{self, Key, PartialIndex};

/// A condition with at most this many values is written as comparisons joined by `OR`. See
/// [`conditional`].
const INLINE_LIMIT: usize = 8;

/// Number of columns that every table has before its own columns.
const COMMON_COLUMNS: usize = 5;

/// Number of events in a page while rebuilding.
const REBUILD_PAGE: i64 = 1000;

#[async_trait]
impl ReadModels for SqliteStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.page(Query::agents(filter, page)).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.page(Query::tasks(filter, page)).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.page(Query::workflows(page)).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.page(Query::runs(filter, page)).await
    }

    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        self.page(Query::run_summaries(filter, page)).await
    }

    async fn touch_agents(
        &self,
        agent_ids: &[String],
        at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let agent_ids = agent_ids.to_vec();
        self.writer().call(move |writer| writer.touch_agents(&agent_ids, at)).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        let database = self.database().to_owned();
        self.writer().call(move |writer| writer.rebuild(&database)).await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
    }
}

impl SqliteStore {
    async fn page<R: Record>(&self, query: Query) -> Result<Page<R>, StoreError> {
        let (sql, values) = select(&query, Path::of(&query))?;
        let of_open_runs = match asks_for_open_runs(&query) {
            true => Some(select(&query, Path::OpenRuns)?.0),
            false => None,
        };
        let columns = query.columns.clone();
        let find = move |connection: &Connection| {
            let sql = match &of_open_runs {
                Some(sql) if has_few_open_runs(connection)? => sql,
                _ => &sql,
            };
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement
                .query_map(params_from_iter(values.iter()), |row| read_row(row, &columns))?;
            rows.collect::<rusqlite::Result<Vec<Row>>>()
        };
        let rows = self.read("read a table", find).await?;
        rows::page(rows, &query, self.database())
    }
}

impl Writer<'_> {
    fn touch_agents(&self, agent_ids: &[String], at: Timestamp) -> rusqlite::Result<Vec<String>> {
        let sql = "UPDATE agents SET last_seen_at = ?2, updated_at = ?2
                   WHERE id = ?1 AND status = 'running' AND deleted_at IS NULL";
        let mut touch = self.connection.prepare_cached(sql)?;
        let mut unknown = Vec::new();
        for id in agent_ids {
            let key = Key::of(id).map(|key| key.uuid.as_bytes().to_vec());
            if touch.execute((key, at.as_micros()))? == 0 {
                unknown.push(id.clone());
            }
        }
        Ok(unknown)
    }

    fn rebuild(&self, database: &str) -> rusqlite::Result<()> {
        for table in Table::ALL {
            self.connection.execute(&format!("DELETE FROM {}", table.name()), [])?;
        }
        let mut after = 0_i64;
        loop {
            let page = stored_events(self.connection, LOG_PAGE, (after, REBUILD_PAGE))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.position;
            for event in page {
                let recorded =
                    event.into_recorded(database).map_err(|error| unreadable(0, error))?;
                apply_all(self.connection, &project(&recorded))?;
            }
        }
    }
}

fn select(query: &Query, path: Path) -> Result<(String, Vec<Value>), StoreError> {
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
    values.push(Value::Integer(i64::try_from(query.page.limit + 1).unwrap_or(i64::MAX)));
    let mut columns = String::new();
    for column in &query.columns {
        push(&mut columns, &[", ", column.name]);
    }
    let table = query.table.name();
    let order = match query.order {
        Order::Key => "id",
        Order::Created => "created_at, id",
    };
    let sql = format!(
        "SELECT id, external_id, created_at, updated_at, deleted_at{columns} FROM {table}{index}
         WHERE {filter} ORDER BY {order} LIMIT ?"
    );
    Ok((sql, values))
}

/// How the rows of a query are found. SQLite has no statistics, and would rather find all rows in a
/// status and sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
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
    fn of(query: &Query) -> Self {
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

fn asks_for_open_runs(query: &Query) -> bool {
    query.table == Table::WorkflowRuns
        && matches!(Path::of(query), Path::Any | Path::Created)
        && !query.conditions.iter().any(is_selective)
        && rows::is_among(query, &OPEN)
}

fn has_few_open_runs(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT count(*) <= {FEW_OPEN_RUNS} FROM
             (SELECT 1 FROM workflow_runs WHERE {} LIMIT {FEW_OPEN_RUNS} + 1)",
        rows::any_status(&OPEN)
    );
    connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))
}

fn conditional(condition: &Predicate, values: &mut Vec<Value>) -> String {
    match condition {
        Predicate::Id(id) => {
            // No row has an invalid id, and nothing equals NULL.
            values.push(Key::of(id).map_or(Value::Null, |key| blob(key.uuid)));
            "id = ?".to_owned()
        }
        // SQLite uses a partial index only if the query repeats its condition: the same comparisons, with
        // the values in alphabetical order.
        Predicate::In(name, cells) if cells.len() <= INLINE_LIMIT => {
            let mut cells: Vec<&Cell> = cells.iter().collect();
            cells.sort_by_key(|cell| match cell {
                Cell::Text(text) => text.as_str(),
                _ => "",
            });
            values.extend(cells.iter().copied().map(value));
            format!("({})", vec![format!("{name} = ?"); cells.len()].join(" OR "))
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

fn blob(key: Uuid) -> Value {
    Value::Blob(key.into_bytes().to_vec())
}

fn read_row(row: &rusqlite::Row<'_>, columns: &[Column]) -> rusqlite::Result<Row> {
    let key = Uuid::from_bytes(row.get(0)?);
    let external_id: Option<String> = row.get(1)?;
    let cells = (COMMON_COLUMNS..)
        .zip(columns)
        .map(|(index, column)| read_cell(row, index, column.kind).unwrap_or(Cell::Unreadable))
        .collect();
    Ok(Row {
        id: external_id.unwrap_or_else(|| EventId::from(key).to_string()),
        created_at: Timestamp::from_micros(row.get(2)?),
        updated_at: Timestamp::from_micros(row.get(3)?),
        deleted_at: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_micros),
        cells,
    })
}

fn read_cell(row: &rusqlite::Row<'_>, index: usize, kind: Kind) -> rusqlite::Result<Cell> {
    let cell = match kind {
        Kind::Text => row.get::<_, Option<String>>(index)?.map(Cell::Text),
        Kind::Integer => row.get::<_, Option<i64>>(index)?.map(Cell::Integer),
        Kind::Timestamp => row
            .get::<_, Option<i64>>(index)?
            .map(|micros| Cell::Timestamp(Timestamp::from_micros(micros))),
        Kind::Json => row
            .get::<_, Option<String>>(index)?
            .map(Payload::from_text)
            .transpose()
            .map_err(|error| unreadable(index, error))?
            .map(Cell::Json),
    };
    Ok(cell.unwrap_or(Cell::Null))
}

/// The error for a row with an invalid value.
fn unreadable(
    column: usize,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(cause))
}

#[cfg(test)]
mod tests {
    use aios_core::store::{Shard, TaskStatus};

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
        let (at, text) = (Some(Timestamp::UNIX_EPOCH), || Some("x".to_owned()));
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
        let (at, page) = (Some(Timestamp::UNIX_EPOCH), PageRequest::default());
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
