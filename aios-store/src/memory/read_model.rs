use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use aios_core::{
    event::Timestamp,
    projection::{Cell, Change, Condition, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, AgentStatus, Page, PageRequest, ReadModels, RunFilter, RunRecord,
        RunStatus, RunSummary, Shard, StoreError, TaskFilter, TaskRecord, Waits, WorkflowRecord,
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

    async fn touch_agents(
        &self,
        agent_ids: &[String],
        at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let tables = &mut self.state().tables;
        Ok(agent_ids.iter().filter(|id| !tables.touch_agent(id, at)).cloned().collect())
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut tables = Tables::default();
        state.log.values().for_each(|recorded| tables.apply(project(recorded)));
        state.tables = tables;
        Ok(())
    }

    fn waits(&self) -> Option<&dyn Waits> {
        Some(self)
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

    /// Notes that an agent that runs was seen; whether there is one.
    fn touch_agent(&mut self, id: &str, at: Timestamp) -> bool {
        let rows = self.0.get_mut(&Table::Agents);
        let row = rows.zip(Key::of(id)).and_then(|(rows, key)| rows.get_mut(&key.uuid));
        let running = Cell::text(AgentStatus::Running.as_str());
        match row.filter(|row| cell(row, Table::Agents, "status") == Some(&running)) {
            None => false,
            Some(row) => {
                set(row, Table::Agents, "last_seen_at", Cell::Timestamp(at));
                row.updated_at = at;
                true
            }
        }
    }

    /// The ids of runs that ended before a moment, the oldest first.
    pub(super) fn ended_before(&self, before: Timestamp) -> Vec<String> {
        let mut ended: Vec<&Row> = self.runs().filter(|row| has_ended(row)).collect();
        ended.retain(|row| row.updated_at < before);
        ended.sort_by_key(|row| row.updated_at);
        ended.into_iter().map(|row| row.id.clone()).collect()
    }

    /// Whether somebody may still ask for a run that has ended: its parent, or the end of its chain.
    pub(super) fn is_wanted(&self, run_id: &str) -> bool {
        let Some(run) = self.run(run_id) else { return false };
        let parent = text(run, "parent_run_id").and_then(|parent| self.run(parent));
        let is_continued = |row| text(row, "status") == Some(RunStatus::Continued.as_str());
        let mut chain = self.runs().filter(|row| text(row, "first_run_id") == Some(run_id));
        parent.is_some_and(|parent| !has_ended(parent))
            || (is_continued(run) && chain.any(|next| !is_continued(next)))
    }

    /// Forgets a run and its tasks.
    pub(super) fn take_out(&mut self, run_id: &str) {
        if let (Some(rows), Some(key)) = (self.0.get_mut(&Table::WorkflowRuns), Key::of(run_id)) {
            rows.remove(&key.uuid);
        }
        let run = Cell::text(run_id);
        if let Some(tasks) = self.0.get_mut(&Table::AgentTasks) {
            tasks.retain(|_, row| cell(row, Table::AgentTasks, "run_id") != Some(&run));
        }
    }

    /// Whether there is a run with this id that has not ended.
    pub(super) fn goes_on(&self, run_id: &str) -> bool {
        self.run(run_id).is_some_and(|run| !has_ended(run))
    }

    /// The keys and ids of the runs of shards that have not ended, after a key, in their order.
    pub(super) fn going_on(
        &self,
        shards: &[Shard],
        after: Option<Uuid>,
    ) -> impl Iterator<Item = (&Uuid, &str)> {
        let shards: Vec<Cell> = shards.iter().map(|shard| Cell::integer(shard.0)).collect();
        let rows = self.0.get(&Table::WorkflowRuns).into_iter().flatten();
        let goes_on = move |(key, row): &(&Uuid, &Row)| {
            after.is_none_or(|after| **key > after)
                && row.deleted_at.is_none()
                && !has_ended(row)
                && cell(row, Table::WorkflowRuns, "shard").is_some_and(|it| shards.contains(it))
        };
        rows.filter(goes_on).map(|(key, row)| (key, row.id.as_str()))
    }

    fn runs(&self) -> impl Iterator<Item = &Row> {
        self.0.get(&Table::WorkflowRuns).into_iter().flat_map(BTreeMap::values)
    }

    fn run(&self, run_id: &str) -> Option<&Row> {
        self.0.get(&Table::WorkflowRuns)?.get(&Key::of(run_id)?.uuid)
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
    let holds = change.only.iter().all(|(name, wanted)| cell(name) == Some(wanted));
    change.effect.updates() && !is_final(row, change.table) && holds
}

fn is_final(row: &Row, table: Table) -> bool {
    match cell(row, table, "status") {
        Some(Cell::Text(status)) => table.final_statuses().contains(&status.as_str()),
        _ => false,
    }
}

fn has_ended(run: &Row) -> bool {
    is_final(run, Table::WorkflowRuns)
}

/// A text of a run's row.
fn text<'r>(run: &'r Row, name: &str) -> Option<&'r str> {
    match cell(run, Table::WorkflowRuns, name) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
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
