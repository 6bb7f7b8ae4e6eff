use std::fmt::Write;

use aios_core::{
    event::{EventId, Payload, Timestamp},
    projection::{Cell, Change, Column, Condition, Kind, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, ReadModels, RunFilter, RunRecord, RunSummary,
        StoreError, TaskFilter, TaskRecord, WorkflowRecord,
    },
};
use async_trait::async_trait;
use rusqlite::{
    Connection, ToSql, params_from_iter,
    types::{Type, Value},
};
use uuid::Uuid;

use super::{
    SqliteStore,
    read::{LOG_PAGE, stored_events},
    writer::Writer,
};
use crate::rows::{self, Key};

/// Events read at once while rebuilding.
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
}

impl SqliteStore {
    async fn page<R: Record>(&self, query: Query) -> Result<Page<R>, StoreError> {
        let (sql, values) = select(&query)?;
        let columns = query.columns.clone();
        let find = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let rows =
                statement.query_map(params_from_iter(values.iter()), |row| read(row, &columns))?;
            rows.collect::<rusqlite::Result<Vec<Row>>>()
        };
        let rows = self.read("read a table", find).await?;
        rows::page(rows, &query, self.database())
    }
}

impl Writer<'_> {
    fn touch_agents(&self, agent_ids: &[String], at: Timestamp) -> rusqlite::Result<Vec<String>> {
        let sql = "UPDATE agents SET last_seen_at = ?2, updated_at = ?2
                   WHERE id = ?1 AND status = 'running'";
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

/// Changes the tables as the projection says.
pub(super) fn apply_all(connection: &Connection, changes: &[Change]) -> rusqlite::Result<()> {
    changes.iter().try_for_each(|change| apply(connection, change))
}

fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    let Some(key) = Key::of_change(change) else { return Ok(()) };
    let creates = change.effect.creates();
    let sql = if creates { insert(change) } else { update(change) };
    let key_bytes = &key.uuid.as_bytes()[..];
    let at = change.at.as_micros();
    let only = change.only.iter().filter(|_| change.effect.updates());
    let cells = change.cells.iter().chain(only);
    let cells: Vec<Value> = cells.map(|(_, cell)| value(cell)).collect();
    let mut parameters: Vec<&dyn ToSql> = vec![&key_bytes, &at];
    if creates {
        parameters.push(&key.external_id);
    }
    parameters.extend(cells.iter().map(|cell| -> &dyn ToSql { cell }));
    connection.prepare_cached(&sql)?.execute(&*parameters).map(drop)
}

/// The parameters are the key, the moment, the id's text, the cells, and what the row must hold.
fn insert(change: &Change) -> String {
    let (mut names, mut places, mut sets) = (String::new(), String::new(), String::new());
    for (number, (name, _)) in (4_usize..).zip(&change.cells) {
        // Writing to a string can't fail.
        let _ = write!(names, ", {name}");
        let _ = write!(places, ", ?{number}");
        let _ = write!(sets, ", {name} = excluded.{name}");
    }
    let conflict = match change.effect.updates() {
        false => "DO NOTHING".to_owned(),
        true => {
            let open = still_open(change, 4 + change.cells.len());
            format!("DO UPDATE SET updated_at = excluded.updated_at{sets} WHERE true{open}")
        }
    };
    let table = change.table.name();
    format!(
        "INSERT INTO {table} (id, external_id, created_at, updated_at{names})
         VALUES (?1, ?3, ?2, ?2{places})
         ON CONFLICT (id) {conflict}"
    )
}

/// The parameters are the key, the moment, the cells, and what the row must hold.
fn update(change: &Change) -> String {
    let mut sets = String::new();
    for (number, (name, _)) in (3_usize..).zip(&change.cells) {
        // Writing to a string can't fail.
        let _ = write!(sets, ", {name} = ?{number}");
    }
    let (table, open) = (change.table.name(), still_open(change, 3 + change.cells.len()));
    format!("UPDATE {table} SET updated_at = ?2{sets} WHERE id = ?1{open}")
}

/// What a row must hold so that it is changed; `first` is the number of the first parameter.
fn still_open(change: &Change, first: usize) -> String {
    let table = change.table.name();
    let mut conditions = String::new();
    // Writing to a string can't fail.
    for (number, (name, _)) in (first..).zip(&change.only) {
        let _ = write!(conditions, " AND {table}.{name} = ?{number}");
    }
    let statuses = change.table.final_statuses().join("', '");
    if !statuses.is_empty() {
        let _ = write!(conditions, " AND {table}.status NOT IN ('{statuses}')");
    }
    conditions
}

fn value(cell: &Cell) -> Value {
    match cell {
        // The projection never writes what is unreadable.
        Cell::Null | Cell::Unreadable => Value::Null,
        Cell::Text(text) => Value::Text(text.clone()),
        Cell::Integer(number) => Value::Integer(*number),
        Cell::Timestamp(at) => Value::Integer(at.as_micros()),
        Cell::Json(payload) => Value::Text(payload.as_str().to_owned()),
    }
}

fn select(query: &Query) -> Result<(String, Vec<Value>), StoreError> {
    let mut values = Vec::new();
    let mut wanted = Vec::new();
    if let Some(start) = rows::page_start(query)? {
        wanted.push("id > ?".to_owned());
        values.push(blob(start));
    }
    for condition in &query.conditions {
        wanted.push(conditional(condition, &mut values));
    }
    let filter = if wanted.is_empty() { "1".to_owned() } else { wanted.join(" AND ") };
    values.push(Value::Integer(i64::try_from(query.page.limit + 1).unwrap_or(i64::MAX)));
    let own: String =
        query.columns.iter().fold(String::new(), |own, column| own + ", " + column.name);
    let sql = format!(
        "SELECT id, external_id, created_at, updated_at, deleted_at{own} FROM {}
         WHERE {filter} ORDER BY id LIMIT ?",
        query.table.name()
    );
    Ok((sql, values))
}

fn conditional(condition: &Condition, values: &mut Vec<Value>) -> String {
    match condition {
        Condition::Id(id) => {
            // No row has an id that can't be one.
            values.push(Key::of(id).map_or(Value::Null, |key| blob(key.uuid)));
            "id = ?".to_owned()
        }
        Condition::In(name, cells) => {
            values.extend(cells.iter().map(value));
            format!("{name} IN ({})", vec!["?"; cells.len()].join(", "))
        }
        Condition::Above(name, bound) => {
            values.push(Value::Integer(*bound));
            format!("{name} > ?")
        }
        Condition::NotDeleted => "deleted_at IS NULL".to_owned(),
    }
}

fn blob(key: Uuid) -> Value {
    Value::Blob(key.into_bytes().to_vec())
}

fn read(row: &rusqlite::Row<'_>, columns: &[Column]) -> rusqlite::Result<Row> {
    let key = Uuid::from_bytes(row.get(0)?);
    let external_id: Option<String> = row.get(1)?;
    let moment =
        |index| row.get(index).map(|micros: Option<i64>| micros.map(Timestamp::from_micros));
    let own = (5_usize..).zip(columns);
    let cell = |(index, column): (usize, &Column)| cell(row, index, column.kind);
    let cells = own.map(|own| cell(own).unwrap_or(Cell::Unreadable)).collect();
    Ok(Row {
        id: external_id.unwrap_or_else(|| EventId::from(key).to_string()),
        created_at: Timestamp::from_micros(row.get(2)?),
        updated_at: Timestamp::from_micros(row.get(3)?),
        deleted_at: moment(4)?,
        cells,
    })
}

fn cell(row: &rusqlite::Row<'_>, index: usize, kind: Kind) -> rusqlite::Result<Cell> {
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

/// What a row holds makes no sense.
fn unreadable(
    column: usize,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(cause))
}
