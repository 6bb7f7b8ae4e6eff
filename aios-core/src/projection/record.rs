use serde::de::DeserializeOwned;

use super::{Cell, Query, Table};
use crate::{
    event::Timestamp,
    store::{
        AgentRecord, AgentStatus, Page, PageRequest, RunRecord, RunStatus, Shard, TaskRecord,
        TaskStatus, WorkflowRecord,
    },
};

/// A row as an adapter read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The id's text.
    pub id: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// The table's own columns, in the order of [`Table::columns`].
    pub cells: Vec<Cell>,
}

/// What a row becomes. Turning fails with the name of the column that makes no sense.
pub trait Record: Sized {
    /// Table of these records.
    const TABLE: Table;

    /// Reads a row.
    ///
    /// # Errors
    ///
    /// The name of the column that is missing or holds what it can't.
    fn from_row(row: Row) -> Result<Self, &'static str>;

    /// Makes a page out of the rows that a query with `limit + 1` found.
    ///
    /// # Errors
    ///
    /// As [`from_row`](Self::from_row).
    fn page(mut rows: Vec<Row>, query: &Query) -> Result<Page<Self>, &'static str> {
        let limit = query.page.limit;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().map(|row| row.id.clone()).filter(|_| more);
        let next = last.map(|after| PageRequest { after: Some(after), limit });
        let rows = rows.into_iter().map(Self::from_row).collect::<Result<_, _>>()?;
        Ok(Page { rows, next })
    }
}

/// Takes a row's cells one after the other.
struct Cells {
    table: Table,
    cells: std::vec::IntoIter<Cell>,
    index: usize,
}

impl Cells {
    fn new(table: Table, cells: Vec<Cell>) -> Self {
        Self { table, cells: cells.into_iter(), index: 0 }
    }

    fn next(&mut self) -> (&'static str, Cell) {
        let name = self.table.columns().get(self.index).map_or("", |column| column.name);
        self.index += 1;
        (name, self.cells.next().unwrap_or(Cell::Null))
    }

    fn optional_text(&mut self) -> Result<Option<String>, &'static str> {
        match self.next() {
            (_, Cell::Null) => Ok(None),
            (_, Cell::Text(text)) => Ok(Some(text)),
            (name, _) => Err(name),
        }
    }

    fn text(&mut self) -> Result<String, &'static str> {
        match self.next() {
            (_, Cell::Text(text)) => Ok(text),
            (name, _) => Err(name),
        }
    }

    fn parsed<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Result<T, &'static str> {
        match self.next() {
            (name, Cell::Text(text)) => parse(&text).ok_or(name),
            (name, _) => Err(name),
        }
    }

    fn integer<T: TryFrom<i64>>(&mut self) -> Result<T, &'static str> {
        match self.next() {
            (name, Cell::Integer(number)) => number.try_into().map_err(|_| name),
            (name, _) => Err(name),
        }
    }

    fn timestamp(&mut self) -> Result<Option<Timestamp>, &'static str> {
        match self.next() {
            (_, Cell::Null) => Ok(None),
            (_, Cell::Timestamp(timestamp)) => Ok(Some(timestamp)),
            (name, _) => Err(name),
        }
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, &'static str> {
        match self.next() {
            (_, Cell::Null) => Ok(None),
            (name, Cell::Json(payload)) => payload.decode().map(Some).map_err(|_| name),
            (name, _) => Err(name),
        }
    }
}

impl Record for AgentRecord {
    const TABLE: Table = Table::Agents;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(Self::TABLE, row.cells);
        Ok(Self {
            id: row.id,
            agent_type: cells.text()?,
            name: cells.text()?,
            config: cells.json()?.unwrap_or_default(),
            status: cells.parsed(AgentStatus::parse)?,
            last_seen_at: cells.timestamp()?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for TaskRecord {
    const TABLE: Table = Table::AgentTasks;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(Self::TABLE, row.cells);
        Ok(Self {
            id: row.id,
            run_id: cells.optional_text()?,
            agent_type: cells.text()?,
            agent_id: cells.optional_text()?,
            status: cells.parsed(TaskStatus::parse)?,
            attempt: cells.integer()?,
            failure: cells.json()?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for WorkflowRecord {
    const TABLE: Table = Table::Workflows;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(Self::TABLE, row.cells);
        Ok(Self {
            id: row.id,
            name: cells.text()?,
            version: cells.integer()?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for RunRecord {
    const TABLE: Table = Table::WorkflowRuns;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(Self::TABLE, row.cells);
        Ok(Self {
            id: row.id,
            workflow: cells.text()?,
            workflow_version: cells.integer()?,
            shard: Shard(cells.integer()?),
            status: cells.parsed(RunStatus::parse)?,
            parent_run_id: cells.optional_text()?,
            result: cells.json()?,
            failure: cells.json()?,
            status_text: cells.optional_text()?,
            progress: cells.json()?,
            position: cells.integer()?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}
