//! The read models: pages of rows, heartbeats, and the rebuild.
//!
//! A page is one statement on a reading connection. The heartbeats of agents change rows without an
//! event, so they are the only part of the tables that a rebuild does not bring back.

use aios_core::{
    event::{EventId, Payload, Timestamp},
    projection::{Cell, Column, Kind, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, PageSize, ReadModels, RunFilter, RunRecord,
        RunSummary, StoreError, TaskFilter, TaskRecord, Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, params_from_iter, types::Type};
use uuid::Uuid;

use crate::{
    rows::{self, Key, Previous},
    sqlite::{
        SqliteStore,
        read::{LOG_PAGE, Path, asks_for_open_runs, has_few_open_runs, select, stored_events},
        writer::Writer,
    },
};

/// Number of columns that every table has before its own columns.
const COMMON_COLUMNS: usize = 5;

/// The highest number of events in a page while rebuilding.
const REBUILD_PAGE: usize = 1000;

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
        self.writer().call_alone(move |writer| writer.rebuild(&database)).await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
    }
}

impl SqliteStore {
    /// Reads a page.
    ///
    /// For a list of open runs there are two statements, and which one is faster depends on how
    /// many open runs there are. The count is limited, and taken on the same connection right
    /// before.
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
    /// Records that running agents were seen, and returns the ids of those that are not running or
    /// do not exist.
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

    /// Empties the tables and projects the log again, in a transaction of its own. Readers see the old
    /// rows until the commit, and appends wait.
    fn rebuild(&mut self, database: &str) -> rusqlite::Result<()> {
        self.begin.execute([])?;
        self.project_log(database)?;
        self.commit.execute([]).map(drop)
    }

    /// Fills the tables from the log, page by page.
    fn project_log(&mut self, database: &str) -> rusqlite::Result<()> {
        for table in Table::ALL {
            self.connection.execute(&format!("DELETE FROM {}", table.name()), [])?;
        }
        let mut after = 0;
        let mut size = PageSize::new(REBUILD_PAGE);
        loop {
            let limit = i64::try_from(size.events()).unwrap_or(i64::MAX);
            let page = stored_events(self.connection, LOG_PAGE, (after, limit))?;
            let mut previous = Previous::default();
            let recorded =
                page.into_iter().map(|event| event.into_recorded(database, &mut previous));
            let page = recorded.collect::<Result<Vec<_>, _>>();
            let page = page.map_err(|error| unreadable(0, error))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.position.cast_signed();
            size.adapt(page.len(), &page);
            for recorded in page {
                self.changes.apply_all(&project(&recorded))?;
            }
        }
    }
}

/// Decodes a row: the five common columns, then those of the query.
///
/// A cell that can't be decoded becomes `Unreadable`, and `rows::page` decides what that means. An
/// invalid common column fails the read.
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

/// Decodes a cell of this kind.
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
