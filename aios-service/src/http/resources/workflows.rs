//! Workflows: `/workflows`.
//!
//! The list has the versions that processes have registered.

use std::time::Duration;

use aios_agents::RunHandle;
use aios_core::{
    catalog::codes,
    event::{Payload, Timestamp},
    store::{PageRequest, WorkflowRecord},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::runs::{self, Run};
use crate::http::{
    ApiError,
    layers::{Caller, RequestIds, RunsSignal, RunsStart, WorkflowsRead, metadata},
    protocol::{
        Document, Filters, Json, List, Listing, Path, Prefix, Query, Resource, count, etag, object,
    },
    state::Api,
};

/// Type of the resource.
const KIND: &str = "workflow";
/// Name of the list in cursors.
const LIST: &str = "workflows";
/// Rows that are read at once to find the versions of a workflow.
const SEARCH: usize = 1000;

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_workflows))
        .routes(routes!(get_workflow))
        .routes(routes!(execute_workflow))
        .routes(routes!(signal_with_start))
}

/// A version of a workflow that some process has registered.
#[derive(Debug, Serialize, ToSchema)]
struct Workflow {
    /// Its name.
    name: String,
    /// Its version.
    version: u32,
    /// When it was registered first.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was registered last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Converts a row to its resource.
fn resource(row: WorkflowRecord) -> Resource<Workflow> {
    let WorkflowRecord { id, name, version, created_at, updated_at, .. } = row;
    Resource::new(KIND, id, Workflow { name, version, created_at, updated_at })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WorkflowQuery {
    /// Only versions of the workflow with this name.
    name: Option<String>,
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List workflows
///
/// Returns a page of the versions of workflows, in a stable order.
#[utoipa::path(
    get,
    path = "/workflows",
    tag = "workflows",
    params(WorkflowQuery),
    security(("bearer" = ["workflows:read"]), ("api_key" = ["workflows:read"])),
    responses((status = 200, description = "A page of workflows.", body = Listing<Workflow>)),
)]
async fn list_workflows(
    State(api): State<Api>,
    _: Caller<WorkflowsRead>,
    filters: Filters,
    Query(query): Query<WorkflowQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters);
    let request = list.request(query.limit, query.after.as_deref())?;
    let (store, name) = (api.store()?, query.name.as_deref());
    let read = |request| async move {
        let mut page = store.workflows(&request).await?;
        page.rows.retain(|row| name.is_none_or(|name| row.name == name));
        Ok(page)
    };
    list.respond(&api, request, resource, read).await
}

/// Get a workflow
///
/// Returns a version of a workflow, or the highest version if only the name is given.
#[utoipa::path(
    get,
    path = "/workflows/{workflow}",
    tag = "workflows",
    params(("workflow" = String, Path, description = "`name@version`, or the name.")),
    security(("bearer" = ["workflows:read"]), ("api_key" = ["workflows:read"])),
    responses((status = 200, description = "The workflow.", body = Document<Workflow>)),
)]
async fn get_workflow(
    State(api): State<Api>,
    _: Caller<WorkflowsRead>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut request = PageRequest::first(SEARCH);
    let mut found = None::<WorkflowRecord>;
    loop {
        let page = api.store()?.workflows(&request).await?;
        let named = page.rows.into_iter().filter(|row| row.id == id || row.name == id);
        found = found.into_iter().chain(named).max_by_key(|row| row.version);
        match page.next {
            Some(next) => request = next,
            None => break,
        }
    }
    let row = found.ok_or_else(|| ApiError::missing(codes::WORKFLOW_NOT_FOUND, KIND, &id))?;
    let workflow = resource(row);
    let tag = etag::of(&workflow);
    Ok(etag::answer(&headers, &tag, || api.document(StatusCode::OK, workflow)))
}

/// The body of a start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExecuteBody {
    /// Input of the workflow; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    input: Payload,
    /// Id of the run; a new UUID unless given. Starting again with the same id and input returns
    /// the run that exists.
    #[serde(default)]
    #[schema(required = false, example = "release-7")]
    run_id: Option<String>,
    /// When the run begins; at once unless given.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime, required = false)]
    start_at: Option<Timestamp>,
    /// After how many seconds the run begins; not together with `start_at`.
    #[serde(default)]
    #[schema(required = false, minimum = 0)]
    delay_seconds: Option<f64>,
    /// Correlation id of all events that the run causes.
    #[serde(default)]
    #[schema(required = false)]
    correlation_id: Option<String>,
}

/// Start a run
///
/// Starts a run of the latest version of a workflow.
#[utoipa::path(
    post,
    path = "/workflows/{workflow}/actions/execute",
    tag = "workflows",
    params(("workflow" = String, Path, description = "Name of the workflow.")),
    request_body = ExecuteBody,
    security(("bearer" = ["runs:start"]), ("api_key" = ["runs:start"])),
    responses((status = 202, description = "The run is started.", body = Document<Run>)),
)]
async fn execute_workflow(
    State(api): State<Api>,
    caller: Caller<RunsStart>,
    ids: RequestIds,
    Path(workflow): Path<String>,
    prefix: Prefix,
    headers: HeaderMap,
    Json(body): Json<ExecuteBody>,
) -> Result<Response, ApiError> {
    let mut start = api.runtime.start(workflow.as_str(), &body.input);
    match (body.start_at, body.delay_seconds) {
        (Some(_), Some(_)) => {
            let message = "give `start_at` or `delay_seconds`, not both";
            return Err(ApiError::new(codes::INVALID_REQUEST, message));
        }
        (Some(at), None) => start = start.at(at),
        (None, Some(delay)) => start = start.after(seconds("delay_seconds", delay)?),
        (None, None) => {}
    }
    let metadata = metadata(&caller.identity, &headers, body.correlation_id);
    let run_id = body.run_id.unwrap_or_else(|| ids.id_of("run").to_string());
    let run = start.id(run_id).metadata(metadata).await?;
    started(&api, &prefix, &run).await
}

/// A signal that is sent together with a start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartSignal {
    /// Name of the signal for which the workflow waits.
    #[schema(example = "approval")]
    name: String,
    /// The payload of the signal; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Payload,
    /// Id of the signal. A signal with the same id is sent to the run only once.
    #[serde(default)]
    #[schema(required = false)]
    id: Option<String>,
}

/// The body of a signal with a start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignalWithStartBody {
    /// Id of the run.
    #[schema(example = "order-7")]
    run_id: String,
    /// Input of the workflow if the run has to be started; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    input: Payload,
    /// The signal.
    #[serde(deserialize_with = "object")]
    signal: StartSignal,
    /// Correlation id of all events that the run causes.
    #[serde(default)]
    #[schema(required = false)]
    correlation_id: Option<String>,
}

/// Send a signal, and start the run first if it does not exist
///
/// Start and signal are one atomic append, so no run is started without its signal, and no signal
/// that comes before its run is lost.
#[utoipa::path(
    post,
    path = "/workflows/{workflow}/actions/signal-with-start",
    tag = "workflows",
    params(("workflow" = String, Path, description = "Name of the workflow.")),
    request_body = SignalWithStartBody,
    security(
        ("bearer" = ["runs:start", "runs:signal"]),
        ("api_key" = ["runs:start", "runs:signal"])
    ),
    responses((status = 202, description = "The signal is recorded.", body = Document<Run>)),
)]
async fn signal_with_start(
    State(api): State<Api>,
    caller: Caller<RunsStart>,
    _: Caller<RunsSignal>,
    ids: RequestIds,
    Path(workflow): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    Json(body): Json<SignalWithStartBody>,
) -> Result<Response, ApiError> {
    let StartSignal { name, payload, id } = body.signal;
    let mut start =
        api.runtime.signal_with_start(&workflow, body.run_id, &body.input, name, &payload);
    if let Some(id) = id.or_else(|| ids.request().map(|id| id.to_string())) {
        start = start.signal_id(id);
    }
    let metadata = metadata(&caller.identity, &headers, body.correlation_id);
    let run = start.metadata(metadata).await?;
    started(&api, &prefix, &run).await
}

/// The answer to a start: the run, and where it is.
async fn started(api: &Api, prefix: &Prefix, run: &RunHandle) -> Result<Response, ApiError> {
    let location = prefix.location(&["runs", run.id()]);
    Ok(api.accepted(runs::started(api, run).await?, &location))
}

/// Reads a number of seconds.
pub(crate) fn seconds(field: &str, seconds: f64) -> Result<Duration, ApiError> {
    Duration::try_from_secs_f64(seconds).map_err(|error| {
        ApiError::new(codes::INVALID_REQUEST, format!("`{field}` is not a duration: {error}"))
    })
}
