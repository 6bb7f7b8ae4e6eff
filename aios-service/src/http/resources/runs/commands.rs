//! Commands for runs: signal, cancel, pause, resume, fork, retry.
//!
//! A command is an event in the journal of the run, appended whether or not an engine owns the run
//! at this moment. The answer is therefore 202: the command is recorded, and its effect comes
//! later. Commands derive their ids from the `Idempotency-Key`, if there is one.

use aios_agents::{RunHandle, RuntimeError};
use aios_core::event::Payload;
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Run, current};
use crate::{
    auth::Identity,
    http::{
        ApiError,
        layers::{
            Caller, RequestIds, RunsCancel, RunsFork, RunsPause, RunsResume, RunsRetry, RunsSignal,
            metadata,
        },
        protocol::{Document, EmptyBody, Json, OptionalJson, Path, Prefix, integer},
        state::Api,
    },
};

/// The body of a signal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalBody {
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

/// Send a signal to a run
///
/// The signal is kept until the workflow waits for it. If the run has continued as another one, the
/// signal is sent to that.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/signal",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    request_body = SignalBody,
    security(("bearer" = ["runs:signal"]), ("api_key" = ["runs:signal"])),
    responses((status = 202, description = "The signal is recorded.", body = Document<Run>)),
)]
pub(super) async fn signal_run(
    State(api): State<Api>,
    caller: Caller<RunsSignal>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    Json(body): Json<SignalBody>,
) -> Result<Response, ApiError> {
    let handle = handle(&api, &ids, &caller.identity, &headers, &id)?;
    match &body.id {
        Some(id) => handle.signal_with_id(id, &body.name, &body.payload).await?,
        None => handle.signal(&body.name, &body.payload).await?,
    }
    accepted(&api, &prefix, &id).await
}

/// The body of a cancellation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CancelBody {
    /// The reason, which becomes part of the failure of the run.
    #[serde(default)]
    #[schema(required = false)]
    reason: Option<String>,
    /// Whether the run ends at once, without the rest of its compensations; `false` unless given.
    #[serde(default)]
    #[schema(required = false)]
    terminate: bool,
}

impl CancelBody {
    /// Cancels a run as the caller has asked.
    pub(in crate::http) async fn apply(
        self,
        run: &RunHandle,
        caller: &Identity,
    ) -> Result<(), RuntimeError> {
        let reason = self.reason.unwrap_or_else(|| format!("cancelled by {}", caller.subject));
        match self.terminate {
            true => run.terminate(reason).await,
            false => run.cancel(reason).await,
        }
    }
}

/// Cancel a run
///
/// The run compensates and ends as cancelled. Cancelling a run again has no effect unless it is blocked.
/// A run with a compensation that does not end is ended with `terminate`.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/cancel",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    request_body = CancelBody,
    security(("bearer" = ["runs:cancel"]), ("api_key" = ["runs:cancel"])),
    responses((status = 202, description = "The cancellation is recorded.", body = Document<Run>)),
)]
pub(super) async fn cancel_run(
    State(api): State<Api>,
    caller: Caller<RunsCancel>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    OptionalJson(body): OptionalJson<CancelBody>,
) -> Result<Response, ApiError> {
    let run = handle(&api, &ids, &caller.identity, &headers, &id)?;
    body.apply(&run, &caller.identity).await?;
    accepted(&api, &prefix, &id).await
}

/// Pause a run
///
/// Until it is resumed, the run starts nothing and does not end. Pausing a paused run has no effect.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/pause",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    security(("bearer" = ["runs:pause"]), ("api_key" = ["runs:pause"])),
    responses((status = 202, description = "The pause is recorded.", body = Document<Run>)),
)]
pub(super) async fn pause_run(
    State(api): State<Api>,
    caller: Caller<RunsPause>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    EmptyBody: EmptyBody,
) -> Result<Response, ApiError> {
    handle(&api, &ids, &caller.identity, &headers, &id)?.pause().await?;
    accepted(&api, &prefix, &id).await
}

/// Resume a run
///
/// Resumes a paused run and tries a blocked one again. Has no effect on other runs.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/resume",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    security(("bearer" = ["runs:resume"]), ("api_key" = ["runs:resume"])),
    responses((status = 202, description = "The resumption is recorded.", body = Document<Run>)),
)]
pub(super) async fn resume_run(
    State(api): State<Api>,
    caller: Caller<RunsResume>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    EmptyBody: EmptyBody,
) -> Result<Response, ApiError> {
    handle(&api, &ids, &caller.identity, &headers, &id)?.resume().await?;
    accepted(&api, &prefix, &id).await
}

/// The body of a fork.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForkBody {
    /// Number of the first operation that the new run does itself.
    #[serde(deserialize_with = "integer")]
    operation: u64,
    /// Id of the new run; a new UUID unless given.
    #[serde(default)]
    #[schema(required = false)]
    run_id: Option<String>,
}

/// Fork a run
///
/// Starts a new run with a copy of the journal up to an operation, which continues from there with
/// the current code.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/fork",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    request_body = ForkBody,
    security(("bearer" = ["runs:fork"]), ("api_key" = ["runs:fork"])),
    responses((status = 202, description = "The new run is started.", body = Document<Run>)),
)]
pub(super) async fn fork_run(
    State(api): State<Api>,
    caller: Caller<RunsFork>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    Json(body): Json<ForkBody>,
) -> Result<Response, ApiError> {
    let new_id = body.run_id.unwrap_or_else(|| ids.id_of("run").to_string());
    let forked =
        handle(&api, &ids, &caller.identity, &headers, &id)?.fork(body.operation, new_id).await?;
    accepted(&api, &prefix, forked.id()).await
}

/// The body of a retry.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {
    /// Id of the new run; a new UUID unless given.
    #[serde(default)]
    #[schema(required = false)]
    run_id: Option<String>,
}

/// Retry a failed run from its failed operation
///
/// Starts a new run with a copy of the journal up to the operation with which the run failed, and with
/// all signals. The new run does that operation again and continues with the current code.
#[utoipa::path(
    post,
    path = "/runs/{run_id}/actions/retry",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    request_body = RetryBody,
    security(("bearer" = ["runs:retry"]), ("api_key" = ["runs:retry"])),
    responses((status = 202, description = "The new run is started.", body = Document<Run>)),
)]
pub(super) async fn retry_run(
    State(api): State<Api>,
    caller: Caller<RunsRetry>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    OptionalJson(body): OptionalJson<RetryBody>,
) -> Result<Response, ApiError> {
    let new_id = body.run_id.unwrap_or_else(|| ids.id_of("run").to_string());
    let retried = handle(&api, &ids, &caller.identity, &headers, &id)?.retry(new_id).await?;
    accepted(&api, &prefix, retried.id()).await
}

/// A handle for a run, which its commands look up. What it records has the user and the trace of the
/// request, and derives from its `Idempotency-Key`.
pub(in crate::http) fn handle(
    api: &Api,
    ids: &RequestIds,
    caller: &Identity,
    headers: &HeaderMap,
    run_id: &str,
) -> Result<RunHandle, ApiError> {
    let handle = api.runtime.handle_unchecked(run_id)?;
    let handle = handle.with_metadata(metadata(caller, headers, None));
    Ok(match ids.request() {
        Some(request) => handle.with_request_id(request),
        None => handle,
    })
}

/// The answer to a command: the run as it is now, and where it is.
async fn accepted(api: &Api, prefix: &Prefix, id: &str) -> Result<Response, ApiError> {
    let location = prefix.location(&["runs", id]);
    Ok(api.accepted(current(api, id).await?, &location))
}
