//! Runs: `/runs`.
//!
//! Reads come from the read models of the store, and commands go to the journal.

mod commands;
mod read;

use aios_agents::RunHandle;
use aios_core::{
    catalog::codes,
    event::{Payload, Timestamp},
    failure::Failure,
    store::{RunFilter, RunRecord, RunStatus},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::{
    commands::{CancelBody, handle},
    read::duration,
};
use crate::http::{ApiError, openapi::schema, protocol::Resource, state::Api};

/// Type of the resource.
const KIND: &str = "run";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(read::list_runs))
        .routes(routes!(read::get_run))
        .routes(routes!(read::get_journal))
        .routes(routes!(read::get_result))
        .routes(routes!(commands::signal_run))
        .routes(routes!(commands::cancel_run))
        .routes(routes!(commands::pause_run))
        .routes(routes!(commands::resume_run))
        .routes(routes!(commands::fork_run))
        .routes(routes!(commands::retry_run))
}

/// A run of a workflow.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Run {
    /// Name of its workflow.
    workflow: String,
    /// Version of its workflow.
    workflow_version: u32,
    /// Its status.
    #[schema(value_type = schema::RunStatus)]
    status: RunStatus,
    /// The run that started it as a child.
    parent_run_id: Option<String>,
    /// The first run of the chain of continue-as-new to which it belongs, if that is another one.
    first_run_id: Option<String>,
    /// Its result, once completed.
    #[schema(value_type = serde_json::Value)]
    result: Option<Payload>,
    /// The failure, once failed, cancelled or blocked.
    #[schema(value_type = Option<schema::Failure>)]
    failure: Option<Failure>,
    /// The status text that the workflow set.
    status_text: Option<String>,
    /// Something it waits for that does not progress: a task that no agent has begun, or a child that is
    /// blocked or paused. Only in the answer to a request for one run; `null` if nothing is known.
    waits_for: Option<String>,
    /// How far the workflow says it is.
    #[schema(value_type = serde_json::Value)]
    progress: Option<Payload>,
    /// Position of the last event that changed the run.
    position: u64,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it changed last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When it was deleted.
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
}

/// Converts a row to its resource.
fn resource(row: RunRecord) -> Resource<Run> {
    let run = Run {
        workflow: row.workflow,
        workflow_version: row.workflow_version,
        status: row.status,
        parent_run_id: row.parent_run_id,
        first_run_id: row.first_run_id,
        result: row.result,
        failure: row.failure,
        status_text: row.status_text,
        waits_for: row.waits_for,
        progress: row.progress,
        position: row.position,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
    };
    Resource::new(KIND, row.id, run)
}

/// The row of the run with exactly this id. An id that no run can have is refused, as by every command.
pub(crate) async fn find(api: &Api, id: &str) -> Result<RunRecord, ApiError> {
    let store = api.store()?;
    api.runtime.handle_unchecked(id)?;
    let filter =
        RunFilter { id: Some(id.to_owned()), include_deleted: true, ..RunFilter::default() };
    let page = aios_core::store::PageRequest::first(1);
    let row = store.runs(&filter, &page).await?.rows.pop();
    row.ok_or_else(|| ApiError::missing(codes::RUN_NOT_FOUND, "run", id))
}

/// Whether there is a run with exactly this id.
pub(crate) async fn exists(api: &Api, id: &str) -> Result<bool, ApiError> {
    match find(api, id).await {
        Ok(_) => Ok(true),
        Err(error) if error.code == codes::RUN_NOT_FOUND => Ok(false),
        Err(error) => Err(error),
    }
}

/// A run that a request started: as it was created, or as it stands if it existed before.
pub(crate) async fn started(api: &Api, run: &RunHandle) -> Result<Resource<Run>, ApiError> {
    match run.created() {
        Some(row) => Ok(resource(row.clone())),
        None => current(api, run.id()).await,
    }
}

/// The state of a run after a request that changed it.
pub(crate) async fn current(api: &Api, id: &str) -> Result<Resource<Run>, ApiError> {
    find(api, id).await.map(resource)
}
