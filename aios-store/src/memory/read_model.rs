use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use aios_core::{
    projection::{Cell, Change, Condition, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, Page, PageRequest, ReadModels, RunFilter, RunRecord, RunSummary,
        StoreError, TaskFilter, TaskRecord, WorkflowRecord,
    },
};
use async_trait::async_trait;
use uuid::Uuid;

use super::MemoryStore;
use crate::rows::{self, Key};

/// The read models: rows by key.
#[derive(Debug, Default)]
pub(super) struct Tables(HashMap<Table, BTreeMap<Uuid, Row>>);

#[async_trait]
impl ReadModels for MemoryStore {
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError> {
        self.page(&Query::agents(filter, page))
    }

    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError> {
        self.page(&Query::tasks(filter, page))
    }

    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError> {
        self.page(&Query::workflows(page))
    }

    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError> {
        self.page(&Query::runs(filter, page))
    }

    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        self.page(&Query::run_summaries(filter, page))
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut tables = Tables::default();
        state.log.iter().for_each(|recorded| tables.apply(project(recorded)));
        state.tables = tables;
        Ok(())
    }
}

impl MemoryStore {
    fn page<R: Record>(&self, query: &Query) -> Result<Page<R>, StoreError> {
        let rows = self.state().tables.find(query)?;
        rows::page(rows, query, "memory")
    }
}

impl Tables {
    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.apply_one(change));
    }

    fn apply_one(&mut self, change: Change) {
        let Some(key) = Key::of_change(&change) else { return };
        let rows = self.0.entry(change.table).or_default();
        let row = match rows.entry(key.uuid) {
            Entry::Vacant(place) if change.effect.creates() => place.insert(empty_row(&change)),
            Entry::Occupied(place) if takes(place.get(), &change) => place.into_mut(),
            _ => return,
        };
        row.updated_at = change.at;
        change.cells.into_iter().for_each(|(name, cell)| set(row, change.table, name, cell));
    }

    /// What a query finds, and one row more if there is one.
    fn find(&self, query: &Query) -> Result<Vec<Row>, StoreError> {
        let start = rows::page_start(query)?;
        let Some(rows) = self.0.get(&query.table) else { return Ok(Vec::new()) };
        let after = rows.iter().filter(|(key, _)| start.is_none_or(|start| **key > start));
        let found = after.filter(|(_, row)| fulfils(row, query)).map(|(_, row)| part(row, query));
        Ok(found.take(query.page.limit.saturating_add(1)).collect())
    }
}

fn empty_row(change: &Change) -> Row {
    Row {
        id: change.id.clone(),
        created_at: change.at,
        updated_at: change.at,
        deleted_at: None,
        cells: vec![Cell::Null; change.table.columns().len()],
    }
}

/// Whether a change changes a row that is there.
fn takes(row: &Row, change: &Change) -> bool {
    let cell = |name: &str| cell(row, change.table, name);
    let is_final = match cell("status") {
        Some(Cell::Text(status)) => change.table.final_statuses().contains(&status.as_str()),
        _ => false,
    };
    let holds = change.only.iter().all(|(name, wanted)| cell(name) == Some(wanted));
    change.effect.updates() && !is_final && holds
}

/// The columns of a row that a query asks for.
fn part(row: &Row, query: &Query) -> Row {
    let wanted = query.columns.iter().map(|column| cell(row, query.table, column.name).cloned());
    let cells = wanted.map(Option::unwrap_or_default).collect();
    Row { cells, id: row.id.clone(), ..*row }
}

fn cell<'r>(row: &'r Row, table: Table, name: &str) -> Option<&'r Cell> {
    row.cells.get(index(table, name)?)
}

fn set(row: &mut Row, table: Table, name: &str, cell: Cell) {
    if name == "deleted_at" {
        row.deleted_at = if let Cell::Timestamp(at) = cell { Some(at) } else { None };
    } else if let Some(place) = index(table, name).and_then(|index| row.cells.get_mut(index)) {
        *place = cell;
    }
}

fn index(table: Table, name: &str) -> Option<usize> {
    table.columns().iter().position(|column| column.name == name)
}

fn fulfils(row: &Row, query: &Query) -> bool {
    query.conditions.iter().all(|condition| {
        let cell = |name: &str| cell(row, query.table, name);
        match condition {
            Condition::Id(id) => row.id == *id,
            Condition::In(name, cells) => cell(name).is_some_and(|cell| cells.contains(cell)),
            Condition::Above(name, bound) => {
                matches!(cell(name), Some(Cell::Integer(number)) if number > bound)
            }
            Condition::NotDeleted => row.deleted_at.is_none(),
        }
    })
}
