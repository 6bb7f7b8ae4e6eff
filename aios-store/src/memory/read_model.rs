//! The read models, as rows in ordered maps.
//!
//! Queries and changes are the same data that the SQL stores translate into statements (`Query` and
//! `Change` of `aios_core::projection`). Here they are interpreted row by row. Lists have no
//! index: a list reads the rows of its table in the order of their keys, except that a query for one
//! id looks at that row alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    ops::Bound,
};

use aios_core::{
    event::Timestamp,
    projection::{Cell, Change, Order, Predicate, Query, Record, Row, Table, project},
    store::{
        AgentFilter, AgentRecord, AgentStatus, Page, PageRequest, ReadModels, RunFilter, RunRecord,
        RunStatus, RunSummary, Shard, StoreError, TaskFilter, TaskRecord, Waits, WorkflowRecord,
    },
};
use async_trait::async_trait;
use uuid::Uuid;

use super::MemoryStore;
use crate::{
    retention::Place,
    rows::{self, Key},
};

/// The rows of the read models, by table and key.
///
/// There is no SQL here, so each method evaluates the rows in memory with the semantics of the
/// statements of the SQL stores. The conformance suite checks that the results are equal.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    rows: HashMap<Table, BTreeMap<Uuid, Row>>,
    /// The runs that have ended, in the order in which retention examines them. A run that has ended does not
    /// change any more.
    ended: BTreeSet<Place>,
}

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
        let tables = &mut self.0.state.lock().tables;
        Ok(agent_ids.iter().filter(|id| !tables.touch_agent(id, at)).cloned().collect())
    }

    async fn rebuild(&self) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
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
    /// A page of a table.
    fn page<R: Record>(&self, query: &Query) -> Result<Page<R>, StoreError> {
        let rows = self.0.state.lock().tables.find(query)?;
        rows::page(rows, query, "memory")
    }
}

impl Tables {
    /// Applies the changes of one event, in order.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.apply_one(change));
    }

    /// Applies a change, or ignores it. A change is ignored if its id can't be a key, if there is a
    /// row and it does not update, if there is none and it does not create, or if the row does not
    /// accept it.
    fn apply_one(&mut self, change: Change) {
        let Some(key) = Key::of_change(&change) else { return };
        let rows = self.rows.entry(change.table).or_default();
        let row = match rows.entry(key.uuid) {
            // A new row ignores `only`: that condition is about an existing row.
            Entry::Vacant(entry) if change.effect.creates() => entry.insert(Row::empty(&change)),
            Entry::Occupied(entry) if accepts(entry.get(), &change) => entry.into_mut(),
            _ => return,
        };
        let is_run = change.table == Table::WorkflowRuns;
        row.apply(change);
        if is_run && has_ended(row) {
            self.ended.insert(Place { ended_at: row.updated_at, key: key.uuid });
        }
    }

    /// Records that a running agent was seen. Returns `false` if there is no such agent.
    fn touch_agent(&mut self, id: &str, at: Timestamp) -> bool {
        let rows = self.rows.get_mut(&Table::Agents);
        let row = rows.zip(Key::of(id)).and_then(|(rows, key)| rows.get_mut(&key.uuid));
        let running = Cell::text(AgentStatus::Running.as_str());
        let is_running = |row: &&mut Row| {
            row.deleted_at.is_none() && cell(row, Table::Agents, "status") == Some(&running)
        };
        match row.filter(is_running) {
            None => false,
            Some(row) => {
                row.set(Table::Agents, "last_seen_at", Cell::Timestamp(at));
                row.updated_at = at;
                true
            }
        }
    }

    /// Returns the places and ids of the runs that ended before a time, after a place, oldest first.
    pub(super) fn ended(
        &self,
        after: Option<Place>,
        before: Timestamp,
    ) -> impl Iterator<Item = (Place, &str)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.ended.range((after, Bound::Unbounded));
        let places = places.take_while(move |place| place.ended_at < before);
        let rows = self.rows.get(&Table::WorkflowRuns);
        places.filter_map(move |place| Some((*place, rows?.get(&place.key)?.id.as_str())))
    }

    /// Whether a run is the last one of a chain of several, and has ended.
    pub(super) fn ends_chain(&self, run_id: &str) -> bool {
        let run = self.run(run_id);
        run.is_some_and(|run| text(run, "first_run_id").is_some() && !is_continued(run))
    }

    /// Whether a finished run may still be needed: by its parent, by the last run of its chain, or by the
    /// run that it continued as.
    pub(super) fn is_needed(&self, run_id: &str) -> bool {
        let Some(run) = self.run(run_id) else { return false };
        let parent = text(run, "parent_run_id").and_then(|parent| self.run(parent));
        if parent.is_some_and(|parent| !has_ended(parent)) {
            return true;
        }
        let first = text(run, "first_run_id").unwrap_or(run_id);
        let chain = || self.runs().filter(|row| text(row, "first_run_id") == Some(first));
        let is_first = first == run_id;
        let is_later = |next: &Row| is_continued(next) && position(next) > position(run);
        is_continued(run)
            && (is_first && chain().any(|next| !is_continued(next))
                || chain().any(|next| !has_ended(next)) && !chain().any(is_later))
    }

    /// Removes a run and its tasks.
    pub(super) fn remove_run(&mut self, run_id: &str) {
        if let (Some(rows), Some(key)) = (self.rows.get_mut(&Table::WorkflowRuns), Key::of(run_id))
        {
            let row = rows.remove(&key.uuid);
            let place = row.map(|row| Place { ended_at: row.updated_at, key: key.uuid });
            place.map(|place| self.ended.remove(&place));
        }
        let run = Cell::text(run_id);
        if let Some(tasks) = self.rows.get_mut(&Table::AgentTasks) {
            tasks.retain(|_, row| cell(row, Table::AgentTasks, "run_id") != Some(&run));
        }
    }

    /// Whether there is a run with this id that has not ended.
    pub(super) fn is_open(&self, run_id: &str) -> bool {
        self.run(run_id).is_some_and(|run| !has_ended(run))
    }

    /// Returns the keys and ids of the open runs of the shards, in the order of their keys, after `after`.
    pub(super) fn open_runs(
        &self,
        shards: &[Shard],
        after: Option<Uuid>,
    ) -> impl Iterator<Item = (&Uuid, &str)> {
        let shards: Vec<Cell> = shards.iter().map(|shard| Cell::integer(shard.number())).collect();
        let rows = self.rows.get(&Table::WorkflowRuns).into_iter().flatten();
        rows.filter(move |(key, row)| {
            after.is_none_or(|after| **key > after)
                && row.deleted_at.is_none()
                && !has_ended(row)
                && cell(row, Table::WorkflowRuns, "shard").is_some_and(|it| shards.contains(it))
        })
        .map(|(key, row)| (key, row.id.as_str()))
    }

    /// All rows of runs, in the order of their keys.
    fn runs(&self) -> impl Iterator<Item = &Row> {
        self.rows.get(&Table::WorkflowRuns).into_iter().flat_map(BTreeMap::values)
    }

    /// The row of a run.
    fn run(&self, run_id: &str) -> Option<&Row> {
        self.rows.get(&Table::WorkflowRuns)?.get(&Key::of(run_id)?.uuid)
    }

    /// Returns the rows of a query's page, and one more row if there is one.
    pub(crate) fn find(&self, query: &Query) -> Result<Vec<Row>, StoreError> {
        let start = rows::page_start(query)?;
        let Some(rows) = self.rows.get(&query.table) else { return Ok(Vec::new()) };
        let is_after = |key: &Uuid, row: &Row| {
            start.is_none_or(|start| match start.created_at {
                Some(created_at) => (row.created_at, *key) > (created_at, start.key),
                None => *key > start.key,
            })
        };
        let candidates = match id_of(query).map(Key::of) {
            Some(None) => return Ok(Vec::new()),
            Some(Some(key)) => rows.range(key.uuid..=key.uuid),
            None => rows.range::<Uuid, _>(..),
        };
        let found = candidates.filter(|(key, row)| is_after(key, row) && matches_query(row, query));
        let limit = query.page.limit.saturating_add(1);
        let page: Vec<_> = match query.order {
            Order::Key => found.take(limit).collect(),
            Order::Created => {
                let mut all: Vec<_> = found.collect();
                all.sort_by_key(|(key, row)| (row.created_at, **key));
                all.truncate(limit);
                all
            }
        };
        Ok(page.into_iter().map(|(_, row)| select_columns(row, query)).collect())
    }
}

/// The id of the only row that a query can find, so that it need not look at the others.
fn id_of(query: &Query) -> Option<&str> {
    query.conditions.iter().find_map(|condition| match condition {
        Predicate::Id(id) => Some(id.as_str()),
        _ => None,
    })
}

/// Whether a change applies to an existing row. A row in a final status accepts nothing: what a
/// process reports late does not bring a finished run or task back.
fn accepts(row: &Row, change: &Change) -> bool {
    change.effect.updates()
        && !is_final(row, change.table)
        && change.only.iter().all(|(name, wanted)| has(row, change.table, name, wanted))
}

/// Whether a column of a row has a value. `deleted_at` is not among the cells of a table, but
/// changes may ask for it.
fn has(row: &Row, table: Table, name: &str, wanted: &Cell) -> bool {
    match name {
        "deleted_at" => row.deleted_at.map_or(Cell::Null, Cell::Timestamp) == *wanted,
        name => cell(row, table, name) == Some(wanted),
    }
}

/// Whether the status of a row never changes again.
fn is_final(row: &Row, table: Table) -> bool {
    match cell(row, table, "status") {
        Some(Cell::Text(status)) => table.final_statuses().contains(&status.as_str()),
        _ => false,
    }
}

/// Whether a run completed, failed, was cancelled, or continued as another run.
fn has_ended(run: &Row) -> bool {
    is_final(run, Table::WorkflowRuns)
}

/// Whether a run ended by continuing as another run of the same chain.
fn is_continued(run: &Row) -> bool {
    text(run, "status") == Some(RunStatus::Continued.as_str())
}

/// Returns the text in a column of a run's row.
fn text<'r>(run: &'r Row, name: &str) -> Option<&'r str> {
    match cell(run, Table::WorkflowRuns, name) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// Returns the position of the last event of a run.
fn position(run: &Row) -> i64 {
    match cell(run, Table::WorkflowRuns, "position") {
        Some(Cell::Integer(position)) => *position,
        _ => 0,
    }
}

/// Returns a row with the columns that the query selects.
fn select_columns(row: &Row, query: &Query) -> Row {
    let wanted = query.columns.iter().map(|column| cell(row, query.table, column.name).cloned());
    let cells = wanted.map(Option::unwrap_or_default).collect();
    Row { cells, id: row.id.clone(), ..*row }
}

/// Returns the cell of a column by its name.
fn cell<'r>(row: &'r Row, table: Table, name: &str) -> Option<&'r Cell> {
    row.cells.get(table.index(name)?)
}

/// Whether a row fulfils all conditions of a query.
fn matches_query(row: &Row, query: &Query) -> bool {
    query.conditions.iter().all(|condition| match condition {
        Predicate::Id(id) => row.id == *id,
        Predicate::In(name, cells) => {
            cell(row, query.table, name).is_some_and(|cell| cells.contains(cell))
        }
        Predicate::Above(name, bound) => {
            matches!(cell(row, query.table, name), Some(Cell::Integer(number)) if number > bound)
        }
        Predicate::CreatedAfter(at) => row.created_at >= *at,
        Predicate::CreatedBefore(at) => row.created_at < *at,
        Predicate::NotDeleted => row.deleted_at.is_none(),
    })
}
