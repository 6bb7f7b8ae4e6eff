//! Tasks: `/tasks`.
//!
//! A task of the API is a run with a single task, so its result is that of the run, and it survives
//! a crash like every run. The two routes that assign one differ only in who is named: agents of a
//! type, or one agent, whose row is read first to find its type and whether it was deleted.
//!
//! The list of the tasks of an agent is the list of tasks with one filter.

mod actions;
mod retry;

use std::time::Duration;

use aios_agents::workflow::Target;
use aios_core::{
    catalog::codes,
    event::{Metadata, Payload, Timestamp},
    failure::Failure,
    store::{PageRequest, TaskFilter, TaskRecord, TaskStatus},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::retry::TaskRetry;
use super::{
    agents,
    runs::{self, Run},
    workflows::seconds,
};
use crate::http::{
    ApiError,
    layers::{Caller, RequestIds, TasksCreate, TasksRead, metadata},
    openapi::{SHORTEST_TIMEOUT_SECONDS, schema},
    protocol::{
        Document, Filters, Json, List, Listing, Path, Prefix, Query, Resource, count, etag,
        optional_object, page,
    },
    state::Api,
};

/// The kind of the resource in answers.
const KIND: &str = "task";
/// The list that a cursor belongs to, so that it can't be used for another one.
const LIST: &str = "tasks";

/// The routes, with those of single tasks in `actions`.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_tasks, create_task))
        .routes(routes!(get_task))
        .routes(routes!(actions::get_task_result))
        .routes(routes!(actions::cancel_task))
        .routes(routes!(list_tasks_of_agent, create_task_of_agent))
}

/// A task of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Task {
    /// The run that assigned it.
    run_id: Option<String>,
    /// Type of the agent that does it.
    agent_type: String,
    /// The one agent that was asked for.
    agent_id: Option<String>,
    /// Its status.
    #[schema(value_type = schema::TaskStatus)]
    status: TaskStatus,
    /// Number of the latest attempt, from 1.
    attempt: u32,
    /// The latest failure.
    #[schema(value_type = Option<schema::Failure>)]
    failure: Option<Failure>,
    /// When it was assigned first.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it changed last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When it was deleted.
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
}

/// The resource of a row.
fn resource(row: TaskRecord) -> Resource<Task> {
    let task = Task {
        run_id: row.run_id,
        agent_type: row.agent_type,
        agent_id: row.agent_id,
        status: row.status,
        attempt: row.attempt,
        failure: row.failure,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
    };
    Resource::new(KIND, row.id, task)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TaskQuery {
    /// Only tasks in this status.
    #[param(value_type = Option<schema::TaskStatus>)]
    status: Option<String>,
    /// Only tasks of this run.
    run_id: Option<String>,
    /// Only tasks for agents of this type.
    agent_type: Option<String>,
    /// Only tasks for this one agent.
    agent_id: Option<String>,
    /// Only tasks of this time or later. With a filter by time, tasks are in the order of time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only tasks before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Deleted tasks too.
    include_deleted: Option<bool>,
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List tasks
///
/// Returns a page of tasks, in a stable order.
#[utoipa::path(
    get,
    path = "/tasks",
    tag = "tasks",
    params(TaskQuery),
    security(("bearer" = ["tasks:read"]), ("api_key" = ["tasks:read"])),
    responses((status = 200, description = "A page of tasks.", body = Listing<Task>)),
)]
async fn list_tasks(
    State(api): State<Api>,
    _: Caller<TasksRead>,
    filters: Filters,
    Query(query): Query<TaskQuery>,
) -> Result<Response, ApiError> {
    page_of(&api, filters, query).await
}

/// A page of tasks. With a filter by time, the order is that of time.
async fn page_of(api: &Api, filters: Filters, query: TaskQuery) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters)
        .by_time(query.created_after.is_some() || query.created_before.is_some());
    let request = list.request(query.limit, query.after.as_deref())?;
    let filter = TaskFilter {
        id: None,
        run_id: query.run_id,
        agent_type: query.agent_type,
        agent_id: query.agent_id,
        status: query.status.as_deref().map(status).transpose()?,
        created_after: query.created_after,
        created_before: query.created_before,
        include_deleted: query.include_deleted.unwrap_or_default(),
    };
    let (store, filter) = (api.store()?, &filter);
    let read = |request| async move { store.tasks(filter, &request).await };
    list.respond(api, request, resource, read).await
}

/// The status with this name; the error lists all of them.
fn status(text: &str) -> Result<TaskStatus, ApiError> {
    page::status(text, TaskStatus::parse, TaskStatus::ALL.iter().map(|it| it.as_str()))
}

/// Get a task
#[utoipa::path(
    get,
    path = "/tasks/{task_id}",
    tag = "tasks",
    params(("task_id" = String, Path, description = "Id of the task, with `/` written as `%2F`.")),
    security(("bearer" = ["tasks:read"]), ("api_key" = ["tasks:read"])),
    responses((status = 200, description = "The task.", body = Document<Task>)),
)]
async fn get_task(
    State(api): State<Api>,
    _: Caller<TasksRead>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let task = resource(find(&api, &id).await?);
    let tag = etag::of(&task);
    Ok(etag::answer(&headers, &tag, || api.document(StatusCode::OK, task)))
}

/// The row of a task.
async fn find(api: &Api, id: &str) -> Result<TaskRecord, ApiError> {
    let id = id.to_owned();
    let filter =
        TaskFilter { id: Some(id.clone()), include_deleted: true, ..TaskFilter::default() };
    let row = api.store()?.tasks(&filter, &PageRequest::first(1)).await?.rows.pop();
    row.ok_or_else(|| ApiError::missing(codes::TASK_NOT_FOUND, KIND, &id))
}

/// The body of a task outside a workflow.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TaskBody {
    /// Type of the agents that may do it.
    #[schema(example = "backend")]
    agent_type: String,
    /// The one agent that has to do it; any agent of the type unless given.
    #[serde(default)]
    #[schema(required = false)]
    agent_id: Option<String>,
    /// Parameters of the task; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    parameters: Payload,
    /// Timeout of each attempt, in seconds, at least 0.001.
    #[serde(default)]
    #[schema(required = false)]
    timeout_seconds: Option<f64>,
    /// Timeout of all attempts together, in seconds, at least 0.001.
    #[serde(default)]
    #[schema(required = false)]
    total_timeout_seconds: Option<f64>,
    /// How often and when failed attempts are repeated; five attempts with growing delays unless given.
    #[serde(default, deserialize_with = "optional_object")]
    #[schema(required = false)]
    retry: Option<TaskRetry>,
    /// Correlation id of all events that the task causes.
    #[serde(default)]
    #[schema(required = false)]
    correlation_id: Option<String>,
    /// Id of the run that does the task; a new UUID unless given.
    #[serde(default)]
    #[schema(required = false)]
    run_id: Option<String>,
}

/// Assign a task to agents of a type, or to one agent
///
/// The task is a run with a single task, with the durability of every run.
#[utoipa::path(
    post,
    path = "/tasks",
    tag = "tasks",
    request_body = TaskBody,
    security(("bearer" = ["tasks:create"]), ("api_key" = ["tasks:create"])),
    responses((status = 202, description = "The run is started.", body = Document<Run>)),
)]
async fn create_task(
    State(api): State<Api>,
    caller: Caller<TasksCreate>,
    ids: RequestIds,
    prefix: Prefix,
    headers: HeaderMap,
    Json(body): Json<TaskBody>,
) -> Result<Response, ApiError> {
    let metadata = metadata(&caller.identity, &headers, body.correlation_id.clone());
    start(&api, &ids, &prefix, metadata, body).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AgentTaskQuery {
    /// Only tasks in this status.
    #[param(value_type = Option<schema::TaskStatus>)]
    status: Option<String>,
    /// Only tasks of this time or later. With a filter by time, tasks are in the order of time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only tasks before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List the tasks of an agent
///
/// Returns a page of the tasks that were assigned to this one agent.
#[utoipa::path(
    get,
    path = "/agents/{agent_id}/tasks",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent."), AgentTaskQuery),
    security(("bearer" = ["tasks:read"]), ("api_key" = ["tasks:read"])),
    responses((status = 200, description = "A page of tasks.", body = Listing<Task>)),
)]
async fn list_tasks_of_agent(
    State(api): State<Api>,
    _: Caller<TasksRead>,
    Path(id): Path<String>,
    filters: Filters,
    Query(query): Query<AgentTaskQuery>,
) -> Result<Response, ApiError> {
    agents::find(&api, &id).await?;
    let AgentTaskQuery { status, created_after, created_before, limit, after } = query;
    let run_id = None;
    let agent_type = None;
    let include_deleted = None;
    let agent_id = Some(id);
    let query = TaskQuery {
        status,
        run_id,
        agent_type,
        agent_id,
        created_after,
        created_before,
        include_deleted,
        limit,
        after,
    };
    page_of(&api, filters, query).await
}

/// The body of a task for one agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AgentTaskBody {
    /// Parameters of the task; `null` unless given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    parameters: Payload,
    /// Timeout of each attempt, in seconds, at least 0.001.
    #[serde(default)]
    #[schema(required = false)]
    timeout_seconds: Option<f64>,
    /// Timeout of all attempts together, in seconds, at least 0.001.
    #[serde(default)]
    #[schema(required = false)]
    total_timeout_seconds: Option<f64>,
    /// How often and when failed attempts are repeated; five attempts with growing delays unless given.
    #[serde(default, deserialize_with = "optional_object")]
    #[schema(required = false)]
    retry: Option<TaskRetry>,
    /// Correlation id of all events that the task causes.
    #[serde(default)]
    #[schema(required = false)]
    correlation_id: Option<String>,
    /// Id of the run that does the task; a new UUID unless given.
    #[serde(default)]
    #[schema(required = false)]
    run_id: Option<String>,
}

/// Assign a task to an agent
///
/// The task is a run with a single task, with the durability of every run.
#[utoipa::path(
    post,
    path = "/agents/{agent_id}/tasks",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent.")),
    request_body = AgentTaskBody,
    security(("bearer" = ["tasks:create"]), ("api_key" = ["tasks:create"])),
    responses((status = 202, description = "The run is started.", body = Document<Run>)),
)]
async fn create_task_of_agent(
    State(api): State<Api>,
    caller: Caller<TasksCreate>,
    ids: RequestIds,
    Path(id): Path<String>,
    prefix: Prefix,
    headers: HeaderMap,
    Json(body): Json<AgentTaskBody>,
) -> Result<Response, ApiError> {
    let agent = agents::find(&api, &id).await?;
    let run_id = body.run_id.unwrap_or_else(|| ids.id_of("run").to_string());
    // A repeated request gets the run of the first one, even if the agent was deleted since.
    if agents::check_not_deleted(&agent).is_err() && !runs::exists(&api, &run_id).await? {
        agents::check_not_deleted(&agent)?;
    }
    let agent_type = agent.agent_type;
    let (agent_id, run_id) = (Some(id), Some(run_id));
    let body = TaskBody {
        agent_type,
        agent_id,
        parameters: body.parameters,
        timeout_seconds: body.timeout_seconds,
        total_timeout_seconds: body.total_timeout_seconds,
        retry: body.retry,
        correlation_id: body.correlation_id,
        run_id,
    };
    let metadata = metadata(&caller.identity, &headers, body.correlation_id.clone());
    start(&api, &ids, &prefix, metadata, body).await
}

/// Starts the run of a task. Without an id in the body, the id comes from the idempotency key if
/// the request has one, so that a repeated request finds the run of the first.
async fn start(
    api: &Api,
    ids: &RequestIds,
    prefix: &Prefix,
    metadata: Metadata,
    body: TaskBody,
) -> Result<Response, ApiError> {
    let target: Target = match body.agent_id {
        Some(agent_id) => (body.agent_type, agent_id).into(),
        None => body.agent_type.into(),
    };
    let mut task = api.runtime.task(target, &body.parameters);
    if let Some(timeout) = body.timeout_seconds {
        task = task.timeout(timeout_of("timeout_seconds", timeout)?);
    }
    if let Some(timeout) = body.total_timeout_seconds {
        task = task.total_timeout(timeout_of("total_timeout_seconds", timeout)?);
    }
    if let Some(retry) = body.retry {
        task = task.retry(retry.policy()?);
    }
    let run_id = body.run_id.unwrap_or_else(|| ids.id_of("run").to_string());
    let run = task.id(run_id).metadata(metadata).await?;
    let location = prefix.location(&["runs", run.id()]);
    Ok(api.accepted(runs::started(api, &run).await?, &location))
}

/// Reads a timeout in seconds.
fn timeout_of(field: &str, timeout: f64) -> Result<Duration, ApiError> {
    if timeout < SHORTEST_TIMEOUT_SECONDS {
        let message = format!("`{field}` is at least {SHORTEST_TIMEOUT_SECONDS}, not {timeout}");
        return Err(ApiError::new(codes::INVALID_REQUEST, message));
    }
    seconds(field, timeout)
}
