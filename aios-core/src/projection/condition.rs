use super::{Cell, Column, Table};
use crate::{
    event::Timestamp,
    store::{AgentFilter, PageRequest, RunFilter, TaskFilter},
};

/// A predicate on rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// The id of the row, as text, is this one.
    Id(String),
    /// A column has one of these values; at least one is given.
    In(&'static str, Vec<Cell>),
    /// An integer column is above this value.
    Above(&'static str, i64),
    /// The row was created at this time or later.
    CreatedAfter(Timestamp),
    /// The row was created before this time.
    CreatedBefore(Timestamp),
    /// The row is not deleted.
    NotDeleted,
}

/// The order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By key.
    Key,
    /// By `created_at`, then by key.
    Created,
}

/// The row after which a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// When the row was created, if the rows are ordered by that.
    pub created_at: Option<Timestamp>,
    /// Id of the row.
    pub id: &'a str,
}

/// The rows of a table to read, as data that an adapter converts to its own query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The table.
    pub table: Table,
    /// The table's own columns to read, in the order of the table.
    pub columns: Vec<Column>,
    /// Predicates that all must hold.
    pub conditions: Vec<Predicate>,
    /// The order of the rows.
    pub order: Order,
    /// The page.
    pub page: PageRequest,
}

impl Query {
    /// The agents that match a filter.
    #[must_use]
    pub fn agents(filter: &AgentFilter, page: &PageRequest) -> Self {
        let conditions = [
            filter.id.clone().map(Predicate::Id),
            equals("agent_type", filter.agent_type.as_deref()),
            equals("status", filter.status.map(crate::store::AgentStatus::as_str)),
            not_deleted(filter.include_deleted),
        ];
        Self::new(Table::Agents, conditions, page)
    }

    /// The tasks that match a filter.
    #[must_use]
    pub fn tasks(filter: &TaskFilter, page: &PageRequest) -> Self {
        let conditions = [
            filter.id.clone().map(Predicate::Id),
            equals("run_id", filter.run_id.as_deref()),
            equals("agent_type", filter.agent_type.as_deref()),
            equals("agent_id", filter.agent_id.as_deref()),
            equals("status", filter.status.map(crate::store::TaskStatus::as_str)),
            filter.created_after.map(Predicate::CreatedAfter),
            filter.created_before.map(Predicate::CreatedBefore),
            not_deleted(filter.include_deleted),
        ];
        Self::new(Table::AgentTasks, conditions, page)
    }

    /// All workflows that are not deleted.
    #[must_use]
    pub fn workflows(page: &PageRequest) -> Self {
        Self::new(Table::Workflows, [not_deleted(false)], page)
    }

    /// The summaries of the runs that match a filter.
    #[must_use]
    pub fn run_summaries(filter: &RunFilter, page: &PageRequest) -> Self {
        Self::runs(filter, page).only(&["workflow", "shard", "status", "position"])
    }

    /// The runs that match a filter.
    #[must_use]
    pub fn runs(filter: &RunFilter, page: &PageRequest) -> Self {
        let statuses = filter.statuses.iter().map(|status| Cell::text(status.as_str())).collect();
        let shards = filter.shards.iter().map(|shard| Cell::integer(shard.number())).collect();
        let changed = i64::try_from(filter.changed_after).unwrap_or(i64::MAX);
        let conditions = [
            filter.id.clone().map(Predicate::Id),
            equals("workflow", filter.workflow.as_deref()),
            one_of("status", statuses),
            one_of("shard", shards),
            equals("first_run_id", filter.first_run_id.as_deref()),
            equals("parent_run_id", filter.parent_run_id.as_deref()),
            (changed > 0).then_some(Predicate::Above("position", changed)),
            filter.created_after.map(Predicate::CreatedAfter),
            filter.created_before.map(Predicate::CreatedBefore),
            not_deleted(filter.include_deleted),
        ];
        Self::new(Table::WorkflowRuns, conditions, page)
    }

    /// The same rows with only these columns.
    #[must_use]
    pub fn only(mut self, columns: &[&str]) -> Self {
        self.columns.retain(|column| columns.contains(&column.name));
        self
    }

    /// Whether the query asks for one row by its id.
    #[must_use]
    pub fn is_for_one(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Predicate::Id(_)))
    }

    /// The row after which the page begins, if it is not the first one; `Err` if `after` of the page is
    /// not one of a page in this order.
    ///
    /// # Errors
    ///
    /// The text of `after`.
    pub fn start(&self) -> Result<Option<Start<'_>>, &str> {
        let Some(after) = self.page.after.as_deref() else { return Ok(None) };
        if self.order == Order::Key {
            return Ok(Some(Start { created_at: None, id: after }));
        }
        let (micros, id) = after.split_once('/').ok_or(after)?;
        let micros = micros.parse().map_err(|_| after)?;
        Ok(Some(Start { created_at: Some(Timestamp::from_micros(micros)), id }))
    }

    /// The page after the row with this id that was created at this time.
    #[must_use]
    pub fn page_after(&self, id: &str, created_at: Timestamp) -> PageRequest {
        let after = match self.order {
            Order::Key => id.to_owned(),
            Order::Created => format!("{}/{id}", created_at.as_micros()),
        };
        PageRequest { after: Some(after), limit: self.page.limit }
    }

    fn new(
        table: Table,
        conditions: impl IntoIterator<Item = Option<Predicate>>,
        page: &PageRequest,
    ) -> Self {
        let limit = page.limit.clamp(1, crate::store::MAX_PAGE);
        let conditions: Vec<_> = conditions.into_iter().flatten().collect();
        let is_of_a_time = |condition: &Predicate| {
            matches!(condition, Predicate::CreatedAfter(_) | Predicate::CreatedBefore(_))
        };
        let order = match conditions.iter().any(is_of_a_time) {
            true => Order::Created,
            false => Order::Key,
        };
        let page = PageRequest { after: page.after.clone(), limit };
        Self { table, columns: table.columns().to_vec(), conditions, order, page }
    }
}

fn equals(column: &'static str, text: Option<&str>) -> Option<Predicate> {
    text.map(|text| Predicate::In(column, vec![Cell::text(text)]))
}

fn one_of(column: &'static str, cells: Vec<Cell>) -> Option<Predicate> {
    (!cells.is_empty()).then_some(Predicate::In(column, cells))
}

fn not_deleted(include_deleted: bool) -> Option<Predicate> {
    (!include_deleted).then_some(Predicate::NotDeleted)
}
