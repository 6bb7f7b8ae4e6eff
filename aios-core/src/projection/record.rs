use super::{Cell, Change, Query, Table, project};
use crate::{
    event::{Payload, Timestamp},
    failure::Failure,
    store::{
        AgentRecord, AgentStatus, Page, RecordedEvent, RunRecord, RunStatus, RunSummary, Shard,
        TaskRecord, TaskStatus, UnreadableRow, WorkflowRecord,
    },
};

/// A row as an adapter read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The id's text.
    pub id: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// The values of the columns that were read, in the order of [`Query::columns`].
    pub cells: Vec<Cell>,
}

impl Row {
    /// Creates the row that a change creates, with all columns of its table and without the values of
    /// the change.
    #[must_use]
    pub fn empty(change: &Change) -> Self {
        Self {
            id: change.id.clone(),
            created_at: change.at,
            updated_at: change.at,
            deleted_at: None,
            cells: vec![Cell::Null; change.table.columns().len()],
        }
    }

    /// Sets the values of a change to this row, which has all columns of its table.
    pub fn apply(&mut self, change: Change) {
        self.updated_at = change.at;
        change.cells.into_iter().for_each(|(name, cell)| self.set(change.table, name, cell));
    }

    /// Sets a column of this row, which has all columns of its table. An unknown column is ignored.
    pub fn set(&mut self, table: Table, name: &str, cell: Cell) {
        if name == "deleted_at" {
            self.deleted_at = if let Cell::Timestamp(at) = cell { Some(at) } else { None };
        } else if let Some(slot) = table.index(name).and_then(|index| self.cells.get_mut(index)) {
            *slot = cell;
        }
    }
}

/// Returns the record that the first events of a stream create, as a store has it after it has appended
/// them; `None` if they create none.
///
/// The events are those of one append to a stream that did not exist.
#[must_use]
pub fn created<R: Record>(events: &[RecordedEvent]) -> Option<R> {
    let mut row: Option<Row> = None;
    let changes = events.iter().flat_map(project).filter(|change| change.table == R::TABLE);
    for change in changes {
        match &mut row {
            None if change.effect.creates() => row.insert(Row::empty(&change)).apply(change),
            Some(row) if change.effect.updates() && change.id == row.id => row.apply(change),
            _ => {}
        }
    }
    R::from_row(row?).ok()
}

/// A typed row. Conversion fails with the name of the invalid column.
pub trait Record: Sized {
    /// Table of these records.
    const TABLE: Table;

    /// Reads a row.
    ///
    /// # Errors
    ///
    /// The name of the column that is missing or has an invalid value.
    fn from_row(row: Row) -> Result<Self, &'static str>;

    /// Builds a page from the rows that a query with `limit + 1` found. An unreadable row is only
    /// listed by id, unless the query asks for a single row.
    ///
    /// # Errors
    ///
    /// See [`from_row`](Self::from_row).
    fn page(mut rows: Vec<Row>, query: &Query) -> Result<Page<Self>, &'static str> {
        let limit = query.page.limit;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more);
        let next = last.map(|last| query.page_after(&last.id, last.created_at));
        let mut page = Page { rows: Vec::with_capacity(rows.len()), next, unreadable: Vec::new() };
        for row in rows {
            let id = row.id.clone();
            match Self::from_row(row) {
                Ok(record) => page.rows.push(record),
                Err(column) if query.is_for_one() => return Err(column),
                Err(column) => page.unreadable.push(UnreadableRow { id, column }),
            }
        }
        Ok(page)
    }
}

/// Reads the cells of a row in order. A getter fails with the name of its column.
struct Cells(std::vec::IntoIter<Cell>);

impl Cells {
    fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    fn next(&mut self) -> Cell {
        self.0.next().unwrap_or(Cell::Null)
    }

    fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, &'static str> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            _ => Err(name),
        }
    }

    fn text(&mut self, name: &'static str) -> Result<String, &'static str> {
        self.optional_text(name)?.ok_or(name)
    }

    fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, &'static str> {
        parse(&self.text(name)?).ok_or(name)
    }

    fn integer<T: TryFrom<i64>>(&mut self, name: &'static str) -> Result<T, &'static str> {
        match self.next() {
            Cell::Integer(number) => number.try_into().map_err(|_| name),
            _ => Err(name),
        }
    }

    fn shard(&mut self) -> Result<Shard, &'static str> {
        Shard::new(self.integer("shard")?).ok_or("shard")
    }

    fn timestamp(&mut self, name: &'static str) -> Result<Option<Timestamp>, &'static str> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Timestamp(timestamp) => Ok(Some(timestamp)),
            _ => Err(name),
        }
    }

    fn json(&mut self, name: &'static str) -> Result<Option<Payload>, &'static str> {
        match self.next() {
            Cell::Null => Ok(None),
            Cell::Json(payload) => Ok(Some(payload)),
            _ => Err(name),
        }
    }

    fn failure(&mut self, name: &'static str) -> Result<Option<Failure>, &'static str> {
        self.json(name)?.map(|payload| payload.decode().map_err(|_| name)).transpose()
    }
}

impl Record for AgentRecord {
    const TABLE: Table = Table::Agents;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(row.cells);
        Ok(Self {
            id: row.id,
            agent_type: cells.text("agent_type")?,
            name: cells.text("name")?,
            config: cells.json("config")?.unwrap_or_default(),
            status: cells.parsed("status", AgentStatus::parse)?,
            last_seen_at: cells.timestamp("last_seen_at")?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for TaskRecord {
    const TABLE: Table = Table::AgentTasks;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(row.cells);
        Ok(Self {
            id: row.id,
            run_id: cells.optional_text("run_id")?,
            agent_type: cells.text("agent_type")?,
            agent_id: cells.optional_text("agent_id")?,
            status: cells.parsed("status", TaskStatus::parse)?,
            attempt: cells.integer("attempt")?,
            failure: cells.failure("failure")?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for WorkflowRecord {
    const TABLE: Table = Table::Workflows;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(row.cells);
        Ok(Self {
            id: row.id,
            name: cells.text("name")?,
            version: cells.integer("version")?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

impl Record for RunRecord {
    const TABLE: Table = Table::WorkflowRuns;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(row.cells);
        Ok(Self {
            id: row.id,
            workflow: cells.text("workflow")?,
            workflow_version: cells.integer("workflow_version")?,
            shard: cells.shard()?,
            status: cells.parsed("status", RunStatus::parse)?,
            parent_run_id: cells.optional_text("parent_run_id")?,
            result: cells.json("result")?,
            failure: cells.failure("failure")?,
            status_text: cells.optional_text("status_text")?,
            waits_for: None,
            progress: cells.json("progress")?,
            position: cells.integer("position")?,
            first_run_id: cells.optional_text("first_run_id")?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

/// Read from [`Query::run_summaries`].
impl Record for RunSummary {
    const TABLE: Table = Table::WorkflowRuns;

    fn from_row(row: Row) -> Result<Self, &'static str> {
        let mut cells = Cells::new(row.cells);
        Ok(Self {
            id: row.id,
            workflow: cells.text("workflow")?,
            shard: cells.shard()?,
            status: cells.parsed("status", RunStatus::parse)?,
            position: cells.integer("position")?,
        })
    }
}
