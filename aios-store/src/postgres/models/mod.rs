//! The read models: pages of rows, and heartbeats.
//!
//! The appending functions write the rows; this module reads them. Column names come from the
//! catalogue of `aios-core` and are written into the text, values are always bound. A page needs no
//! transaction: one statement sees one snapshot.
//!
//! A timestamp is bound as text with a cast, in the same form in which the projection sends it. The
//! rows of a list come out of an index in the order of the page, so its cost does not depend on the
//! size of the table.

mod rebuild;
mod retention;
mod wait;

use std::collections::HashSet;

use aios_core::{
    event::{EventId, Payload, Timestamp},
    projection::{Cell, Column, Kind, Order, Predicate, Query, Record, Row},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, ReadModels, RunFilter, RunRecord, RunSummary,
        StoreError, TaskFilter, TaskRecord, Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;
use sqlx::{Postgres, QueryBuilder, Row as _, postgres::PgRow};
use uuid::Uuid;

use self::rebuild::rebuild;
use super::{
    PostgresStore,
    append::timestamp,
    connection::Statement,
    nul_escape::{escape, unescape},
    schema::Schema,
    timestamp::PgTimestamp,
};
use crate::rows::{self, Key, PartialIndex};

/// Number of columns that every table has before its own columns.
const COMMON_COLUMNS: usize = 5;

/// Records that running agents were seen, and returns the keys of those.
const TOUCH: &str = "\
    UPDATE {schema}.agents SET last_seen_at = at, updated_at = at
    FROM (SELECT timestamptz 'epoch' + $2 * interval '1 microsecond' AS at) AS now
    WHERE id = ANY($1) AND status = 'running' AND deleted_at IS NULL RETURNING id";

#[async_trait]
impl ReadModels for PostgresStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.page(&Query::agents(filter, page)).await
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.page(&Query::tasks(filter, page)).await
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.page(&Query::workflows(page)).await
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.page(&Query::runs(filter, page)).await
    }

    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        self.page(&Query::run_summaries(filter, page)).await
    }

    async fn touch_agents(
        &self,
        agent_ids: &[String],
        at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.touch(agent_ids, at).await
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        rebuild(&self.0.database).await
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
    }
}

impl PostgresStore {
    /// Records that agents were seen, and returns the ids of those that are not running or do not
    /// exist.
    ///
    /// An id that can't be a key cannot be in the table, so it is unknown too.
    async fn touch(&self, agent_ids: &[String], at: Timestamp) -> Result<Vec<String>, StoreError> {
        let database = &self.0.database;
        let operation = "record that agents were seen";
        let keys: Vec<Uuid> = agent_ids.iter().filter_map(|id| Some(Key::of(id)?.uuid)).collect();
        let query = Statement::new(database.schema().fill(TOUCH)).bind(keys).bind(at.as_micros());
        let rows = database.fetch_all(operation, query).await?;
        let touched: sqlx::Result<HashSet<Uuid>> = rows.iter().map(|row| row.try_get(0)).collect();
        let touched = touched.map_err(|error| database.error(operation, error))?;
        let unknown = agent_ids
            .iter()
            .filter(|id| Key::of(id).is_none_or(|key| !touched.contains(&key.uuid)));
        Ok(unknown.cloned().collect())
    }

    /// Reads a page in one statement.
    async fn page<R: Record>(&self, query: &Query) -> Result<Page<R>, StoreError> {
        let database = &self.0.database;
        let mut builder = select(database.schema(), query)?;
        let rows = database.fetch_all("read a table", Statement::of(builder.build())).await?;
        let rows: sqlx::Result<Vec<Row>> =
            rows.iter().map(|row| read_row(&query.columns, row)).collect();
        let rows = rows.map_err(|error| database.error("read a table", error))?;
        rows::page(rows, query, database.name())
    }
}

/// Selects one row more than the page has, to know whether there is another page.
///
/// The conditions are joined by `AND`, in this order: the start of the page, the filter, and the condition
/// of the partial index. The last one repeats a part of the filter in the words of the index, without
/// which PostgreSQL would not use it.
fn select(schema: &Schema, query: &Query) -> Result<QueryBuilder<'static, Postgres>, StoreError> {
    let mut builder =
        QueryBuilder::new("SELECT id, external_id, created_at, updated_at, deleted_at");
    for column in &query.columns {
        builder.push(format!(", {}", column.name));
    }
    let table = query.table.name();
    builder.push(schema.fill(&format!(" FROM {{schema}}.{table} WHERE {{primary}}")));
    if let Some(start) = rows::page_start(query)? {
        if let Some(created_at) = start.created_at {
            builder.push(" AND (created_at, id) > (");
            bind_timestamp(&mut builder, created_at);
            builder.push(", ").push_bind(start.key).push(")");
        } else {
            builder.push(" AND id > ").push_bind(start.key);
        }
    }
    query.conditions.iter().for_each(|condition| restrict(&mut builder, condition));
    if let Some(index) = PartialIndex::of(query) {
        builder.push(format!(" AND {}", index.condition));
    }
    let limit = i64::try_from(query.page.limit.saturating_add(1)).unwrap_or(i64::MAX);
    builder.push(match query.order {
        Order::Key => " ORDER BY id LIMIT ",
        Order::Created => " ORDER BY created_at, id LIMIT ",
    });
    builder.push_bind(limit);
    Ok(builder)
}

/// Adds a condition. An id that can't be a key is bound as NULL, which equals nothing.
fn restrict(builder: &mut QueryBuilder<'static, Postgres>, condition: &Predicate) {
    match condition {
        Predicate::Id(id) => {
            builder.push(" AND id = ").push_bind(Key::of(id).map(|key| key.uuid));
        }
        Predicate::In(name, cells) => {
            builder.push(format!(" AND {name} = "));
            match cells.as_slice() {
                // Rows with one value can be read from an index in order, and those of a list can't.
                [Cell::Integer(number)] => {
                    builder.push_bind(*number);
                }
                [cell] => {
                    builder.push_bind(text(cell));
                }
                cells => {
                    builder.push("ANY (");
                    any_of(builder, cells);
                    builder.push(")");
                }
            }
        }
        Predicate::Above(name, bound) => {
            builder.push(format!(" AND {name} > ")).push_bind(*bound);
        }
        Predicate::CreatedAfter(at) => {
            builder.push(" AND created_at >= ");
            bind_timestamp(builder, *at);
        }
        Predicate::CreatedBefore(at) => {
            builder.push(" AND created_at < ");
            bind_timestamp(builder, *at);
        }
        Predicate::NotDeleted => {
            builder.push(" AND deleted_at IS NULL");
        }
    }
}

/// Binds a timestamp as text, like those that `apply_changes` stores.
fn bind_timestamp(builder: &mut QueryBuilder<'static, Postgres>, at: Timestamp) {
    builder.push_bind(timestamp(at)).push("::timestamptz");
}

/// Binds the cells as an array. Filters compare either texts or integers.
fn any_of(builder: &mut QueryBuilder<'static, Postgres>, cells: &[Cell]) {
    let integers: Vec<i64> = cells.iter().filter_map(integer).collect();
    if integers.is_empty() {
        let texts: Vec<String> = cells.iter().filter_map(text).collect();
        builder.push_bind(texts);
    } else {
        builder.push_bind(integers);
    }
}

/// The integer of a cell.
fn integer(cell: &Cell) -> Option<i64> {
    if let Cell::Integer(number) = cell { Some(*number) } else { None }
}

/// The text of a cell, as it is stored.
fn text(cell: &Cell) -> Option<String> {
    if let Cell::Text(text) = cell { Some(escape(text.clone())) } else { None }
}

/// Decodes a row: the five common columns, then those of the query. A cell that can't be decoded
/// becomes `Unreadable`.
fn read_row(columns: &[Column], row: &PgRow) -> sqlx::Result<Row> {
    let key: Uuid = row.try_get(0)?;
    let external_id: Option<String> = row.try_get(1)?;
    let cells = columns
        .iter()
        .zip(COMMON_COLUMNS..)
        .map(|(column, index)| read_cell(*column, row, index).unwrap_or(Cell::Unreadable))
        .collect();
    Ok(Row {
        id: external_id.map(unescape).unwrap_or_else(|| EventId::from(key).to_string()),
        created_at: row.try_get::<PgTimestamp, _>(2)?.0,
        updated_at: row.try_get::<PgTimestamp, _>(3)?.0,
        deleted_at: row.try_get::<Option<PgTimestamp>, _>(4)?.map(|timestamp| timestamp.0),
        cells,
    })
}

/// Decodes a cell.
fn read_cell(column: Column, row: &PgRow, index: usize) -> sqlx::Result<Cell> {
    let cell = match column.kind {
        Kind::Text => {
            row.try_get::<Option<String>, _>(index)?.map(|text| Cell::Text(unescape(text)))
        }
        Kind::Integer => row.try_get::<Option<i64>, _>(index)?.map(Cell::Integer),
        Kind::Timestamp => row
            .try_get::<Option<PgTimestamp>, _>(index)?
            .map(|timestamp| Cell::Timestamp(timestamp.0)),
        Kind::Json => row.try_get::<Option<String>, _>(index)?.map(json).transpose()?,
    };
    Ok(cell.unwrap_or(Cell::Null))
}

/// Decodes JSON, which is stored as text.
fn json(text: String) -> sqlx::Result<Cell> {
    let payload = Payload::from_text(text);
    payload.map(Cell::Json).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
