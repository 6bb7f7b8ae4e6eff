use std::time::Duration;

use aios_core::{
    agent::{TaskCompleted, TaskId},
    catalog::{
        agent::{self, TASK_CANCELLED, TASK_COMPLETED},
        codes,
        workflow::{self, OPERATION_FAILED, OperationFailed},
    },
    event::{Event, Payload},
    failure::Failure,
    store::{StreamId, TaskRecord, TaskStatus},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{KIND, Task, find, resource};
use crate::http::{
    ApiError,
    layers::{Caller, RequestIds, TasksCancel, TasksRead},
    openapi::schema,
    protocol::{Document, OptionalJson, Path, Prefix, Query, Resource},
    resources::runs::{self, CancelBody, duration},
    state::Api,
};

/// Name of the workflow that runs a task outside of a workflow.
const SINGLE_TASK: &str = "single_task";
/// Events of a journal that are read at once.
const PAGE: usize = 100;

/// Cancel a task
///
/// Cancels a task that was assigned with `/tasks` or `/agents/{agent_id}/tasks`, together with its
/// run. A task of a workflow is cancelled with its run only, because the workflow waits for it.
#[utoipa::path(
    post,
    path = "/tasks/{task_id}/actions/cancel",
    tag = "tasks",
    params(("task_id" = String, Path, description = "Id of the task, with `/` written as `%2F`.")),
    request_body = CancelBody,
    security(("bearer" = ["tasks:cancel"]), ("api_key" = ["tasks:cancel"])),
    responses((status = 202, description = "The cancellation is recorded.", body = Document<Task>)),
)]
pub(super) async fn cancel_task(
    State(api): State<Api>,
    caller: Caller<TasksCancel>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    OptionalJson(body): OptionalJson<CancelBody>,
) -> Result<Response, ApiError> {
    let run_id = run_of(&find(&api, &id).await?)?;
    if runs::find(&api, &run_id).await?.workflow != SINGLE_TASK {
        let message = format!("the task belongs to a workflow; cancel its run {run_id}");
        let details = serde_json::json!({ "run_id": run_id });
        return Err(ApiError::new(codes::TASK_OF_WORKFLOW, message).with_details(details));
    }
    let run = runs::handle(&api, &ids, &caller.identity, &headers, &run_id)?;
    body.apply(&run, &caller.identity).await?;
    let location = prefix.location(&["tasks", &id]);
    Ok(api.accepted(resource(find(&api, &id).await?), &location))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TaskResultQuery {
    /// How long to wait for the end of the task, for example `30s` or `500ms`. Without it, the answer
    /// comes at once. A time longer than 4/5 of the time that a request may take counts as that.
    #[param(example = "20s")]
    wait: Option<String>,
}

/// How a task ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskResult {
    /// Status of the task.
    #[schema(value_type = schema::TaskStatus)]
    status: TaskStatus,
    /// The output of the agent, if it completed the task.
    #[schema(value_type = serde_json::Value)]
    output: Option<Payload>,
    /// The failure, if all attempts have failed.
    #[schema(value_type = Option<schema::Failure>)]
    failure: Option<Failure>,
}

/// Wait for the result of a task
///
/// Answers with 200 if the task has ended, and with 202 if it has not ended in the time of `wait`.
#[utoipa::path(
    get,
    path = "/tasks/{task_id}/result",
    tag = "tasks",
    params(
        ("task_id" = String, Path, description = "Id of the task, with `/` written as `%2F`."),
        TaskResultQuery
    ),
    security(("bearer" = ["tasks:read"]), ("api_key" = ["tasks:read"])),
    responses(
        (status = 200, description = "The task has ended.", body = Document<TaskResult>),
        (status = 202, description = "The task has not ended yet.", body = Document<TaskResult>),
    ),
)]
pub(super) async fn get_task_result(
    State(api): State<Api>,
    _: Caller<TasksRead>,
    Path(id): Path<String>,
    Query(query): Query<TaskResultQuery>,
) -> Result<Response, ApiError> {
    let wait = query.wait.as_deref().map_or(Ok(Duration::ZERO), duration)?;
    let wait = wait.min(api.options.longest_wait());
    let row = find(&api, &id).await?;
    let mut result = recorded(&api, &row).await?;
    if result.is_none() && !wait.is_zero() {
        result = tokio::select! {
            biased;
            ended = ended(&api, &row) => Some(ended?),
            () = api.options.clock.sleep(wait) => None,
            () = api.options.shutdown.begun() => None,
        };
    }
    if let Some(result) = result {
        return Ok(api.document(StatusCode::OK, Resource::new(KIND, id, result)));
    }
    // The task may have ended since.
    let now = find(&api, &id).await?;
    let result = if now == row { None } else { recorded(&api, &now).await? };
    let (code, result) = match result {
        Some(result) => (StatusCode::OK, result),
        None => {
            let status = now.status;
            (StatusCode::ACCEPTED, TaskResult { status, output: None, failure: None })
        }
    };
    Ok(api.document(code, Resource::new(KIND, id, result)))
}

/// The result of a task that is already in the journal of the run. A task that has not ended an attempt
/// has none, and the journal is not read.
async fn recorded(api: &Api, row: &TaskRecord) -> Result<Option<TaskResult>, ApiError> {
    if row.status == TaskStatus::Assigned {
        return Ok(None);
    }
    let id = TaskId::new(row.id.as_str());
    let stream = StreamId::of_run(&run_of(row)?)?;
    let mut after = 0;
    loop {
        let events = api.store()?.read_stream(&stream, after, PAGE).await?;
        let is_last = events.len() < PAGE;
        for recorded in events {
            after = recorded.version;
            if let Some(result) = result_of(&id, &recorded.event)? {
                return Ok(Some(result));
            }
        }
        if is_last {
            return Ok(None);
        }
    }
}

/// Follows the journal of the run to the end of the task.
async fn ended(api: &Api, row: &TaskRecord) -> Result<TaskResult, ApiError> {
    let id = TaskId::new(row.id.as_str());
    let mut events = api.runtime.handle(&run_of(row)?).await?.events(0);
    while let Some(recorded) = events.next().await? {
        if let Some(result) = result_of(&id, &recorded.event)? {
            return Ok(result);
        }
    }
    // The run has ended before the task.
    let TaskRecord { failure, .. } = find(api, &row.id).await?;
    Ok(TaskResult { status: TaskStatus::Cancelled, output: None, failure })
}

/// The result of a task, if an event records it.
fn result_of(id: &TaskId, event: &Event) -> Result<Option<TaskResult>, ApiError> {
    #[derive(Deserialize)]
    struct Cancelled {
        task_id: TaskId,
    }
    Ok(match event.event_type.segments() {
        (agent::DOMAIN, _, TASK_COMPLETED) => {
            let TaskCompleted { task_id, output, .. } = event.data()?;
            let status = TaskStatus::Completed;
            let output = Some(output);
            (task_id == *id).then_some(TaskResult { status, output, failure: None })
        }
        (agent::DOMAIN, _, TASK_CANCELLED) => {
            let Cancelled { task_id } = event.data()?;
            let status = TaskStatus::Cancelled;
            let output = None;
            (task_id == *id).then_some(TaskResult { status, output, failure: None })
        }
        (workflow::DOMAIN, _, OPERATION_FAILED) => {
            let OperationFailed { operation, failure, .. } = event.data()?;
            let is_it = id.run().is_some_and(|(_, own)| own == operation);
            let status = TaskStatus::Failed;
            let failure = Some(failure);
            is_it.then_some(TaskResult { status, output: None, failure })
        }
        _ => None,
    })
}

fn run_of(row: &TaskRecord) -> Result<String, ApiError> {
    row.run_id
        .clone()
        .ok_or_else(|| ApiError::missing(codes::RUN_NOT_FOUND, "run of task", &row.id))
}
