use async_trait::async_trait;

use super::{
    AgentFilter, AgentRecord, Page, PageRequest, RunFilter, RunRecord, RunSummary, StoreError,
    TaskFilter, TaskRecord, Waits, WorkflowRecord,
};
use crate::{event::Timestamp, forward::forward};

/// Tables derived from the log by [`project`](crate::projection::project), in the transaction that
/// appends. They can be rebuilt at any time. Only the time when an agent was last seen may be newer
/// than in the log, see [`touch_agents`](Self::touch_agents).
///
/// # Examples
///
/// All runs that failed, a page at a time:
///
/// ```
/// use aios_core::store::{PageRequest, ReadModels, RunFilter, RunStatus, StoreError};
///
/// async fn failed(store: &dyn ReadModels) -> Result<Vec<String>, StoreError> {
///     let filter = RunFilter { statuses: vec![RunStatus::Failed], ..RunFilter::default() };
///     let mut ids = Vec::new();
///     let mut next = Some(PageRequest::first(500));
///     while let Some(page) = next {
///         let page = store.runs(&filter, &page).await?;
///         ids.extend(page.rows.into_iter().map(|run| run.id));
///         next = page.next;
///     }
///     Ok(ids)
/// }
/// # let _ = failed;
/// ```
#[async_trait]
pub trait ReadModels: Send + Sync + 'static {
    /// A page of agents.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<AgentRecord>, StoreError>;

    /// A page of tasks.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>, StoreError>;

    /// A page of workflows.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn workflows(&self, page: &PageRequest) -> Result<Page<WorkflowRecord>, StoreError>;

    /// A page of runs.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn runs(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError>;

    /// A page of runs without their data, which a store need not read.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn run_summaries(
        &self,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunSummary>, StoreError> {
        let Page { rows, next, unreadable } = self.runs(filter, page).await?;
        Ok(Page { rows: rows.into_iter().map(RunSummary::from).collect(), next, unreadable })
    }

    /// Records outside the log that agents are running now, and returns those that were not
    /// recorded, because they are not known to run: for these, an event is needed.
    ///
    /// The default implementation records nothing, so that every heartbeat is an event.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have recorded some of the agents. Repeating it is safe.
    async fn touch_agents(
        &self,
        agent_ids: &[String],
        _at: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        Ok(agent_ids.to_vec())
    }

    /// Empties all tables and rebuilds them from the log. Appends wait in the meantime. On SQLite, engines
    /// can't renew their leases either: if it takes longer than about half of their `lease_time`, steps
    /// that were running begin again afterwards.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; the tables are then unchanged.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call has rebuilt all tables, or changed none.
    async fn rebuild(&self) -> Result<(), StoreError>;

    /// The recorded waits of runs, if the store supports them. Without them, which is the default,
    /// the new owner of a shard reads all of its runs that have not ended.
    ///
    /// A wrapper returns those of the wrapped store, or itself if it wraps them too.
    fn waits(&self) -> Option<&dyn Waits> {
        None
    }
}

forward!(ReadModels {
    async agents['a, 'b](
        filter: &'a AgentFilter,
        page: &'b PageRequest
    ) -> Result<Page<AgentRecord>, StoreError>;
    async tasks['a, 'b](
        filter: &'a TaskFilter,
        page: &'b PageRequest
    ) -> Result<Page<TaskRecord>, StoreError>;
    async workflows['a](page: &'a PageRequest) -> Result<Page<WorkflowRecord>, StoreError>;
    async runs['a, 'b](
        filter: &'a RunFilter,
        page: &'b PageRequest
    ) -> Result<Page<RunRecord>, StoreError>;
    async run_summaries['a, 'b](
        filter: &'a RunFilter,
        page: &'b PageRequest
    ) -> Result<Page<RunSummary>, StoreError>;
    async touch_agents['a](
        agent_ids: &'a [String],
        at: Timestamp
    ) -> Result<Vec<String>, StoreError>;
    async rebuild[]() -> Result<(), StoreError>;
    fn waits() -> Option<&dyn Waits>;
});
