//! The task or child that a waiting run depends on, for people who ask why it does not end.
//!
//! The answer comes from the read models: no journal is read, and the run need not be in memory.

use aios_core::{
    catalog::codes,
    store::{PageRequest, ReadModels, RunFilter, RunRecord, RunStatus, TaskFilter, TaskStatus},
};

use super::{JournalError, Journals, journals::PAGE};

impl Journals {
    /// The part of a run that does not progress, if one is known: a task that no agent has begun,
    /// or a child that is blocked or paused.
    pub(crate) async fn stalled_on(&self, run_id: &str) -> Result<Option<String>, JournalError> {
        match self.unclaimed(run_id).await? {
            None => self.stalled_child(run_id).await,
            unclaimed => Ok(unclaimed),
        }
    }

    /// A description of the oldest task of a run that no agent has begun, if there is one.
    async fn unclaimed(&self, run_id: &str) -> Result<Option<String>, JournalError> {
        let filter = TaskFilter {
            run_id: Some(run_id.to_owned()),
            status: Some(TaskStatus::Assigned),
            ..TaskFilter::default()
        };
        let tasks = self.store.tasks(&filter, &PageRequest::first(PAGE)).await?.rows;
        let unclaimed = tasks.into_iter().filter_map(|task| {
            let failure = task.failure?;
            let holds = match failure.code.as_str() {
                // A later attempt may have begun since the report.
                codes::TASK_UNCLAIMED => failure.details.get("attempt") == Some(task.attempt),
                // No queue has taken an attempt, and no agent has begun one since.
                codes::AGENT_NOT_FOUND => true,
                _ => false,
            };
            holds.then_some((task.created_at, task.agent_type, task.id, failure.message))
        });
        Ok(unclaimed.min().map(|(_, agent_type, id, message)| {
            let operation = id.rsplit('/').next().unwrap_or_default();
            format!("task {agent_type} #{operation}: {message}")
        }))
    }

    /// The oldest child of a run that is blocked or paused.
    async fn stalled_child(&self, run_id: &str) -> Result<Option<String>, JournalError> {
        let filter = RunFilter {
            parent_run_id: Some(run_id.to_owned()),
            statuses: vec![RunStatus::Blocked, RunStatus::Paused],
            ..RunFilter::default()
        };
        let children = self.store.runs(&filter, &PageRequest::first(PAGE)).await?.rows;
        Ok(children.into_iter().min_by_key(|run| run.created_at).map(|child| describe(&child)))
    }
}

/// The message about a child that does not progress.
fn describe(child: &RunRecord) -> String {
    let RunRecord { workflow, id, .. } = child;
    match &child.failure {
        Some(failure) if child.status == RunStatus::Blocked => {
            format!("child {workflow} {id:?} is blocked: {}", failure.message)
        }
        _ => format!("child {workflow} {id:?} is {}", child.status),
    }
}
