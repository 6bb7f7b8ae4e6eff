//! Reading runs: lists, journals, and waiting for results.
//!
//! Waiting is bounded by 4/5 of the time that a request may take, so that the answer 202 still
//! arrives, and ends with the shutdown of the process. A client asks again.

use std::time::Duration;

use aios_agents::RunError;
use aios_core::{
    catalog::codes,
    event::{Payload, Timestamp},
    failure::Failure,
    store::{RunFilter, RunRecord, RunStatus, Store, StoreError, StreamId},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{KIND, Run, find, resource};
use crate::http::{
    ApiError,
    layers::{Caller, RunsRead},
    openapi::schema,
    protocol::{
        Document, Filters, List, Listing, Path, Query, Resource, count, etag, number, page,
        parts::{self, Room},
        position,
    },
    resources::events::{Event, recorded},
    state::Api,
};

/// Name of the list in cursors.
const LIST: &str = "runs";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunQuery {
    /// Only runs in one of these statuses, separated by commas.
    #[param(example = "running,paused")]
    status: Option<String>,
    /// Only runs of this workflow.
    workflow: Option<String>,
    /// Only runs that continue this one.
    first_run_id: Option<String>,
    /// Only runs that an event after this position of the log has changed.
    #[serde(default, deserialize_with = "position")]
    changed_after: Option<u64>,
    /// Only runs of this time or later. With a filter by time, runs are in the order of time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only runs before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Deleted runs too.
    include_deleted: Option<bool>,
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List runs
///
/// Returns a page of runs, in a stable order.
#[utoipa::path(
    get,
    path = "/runs",
    tag = "runs",
    params(RunQuery),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses((status = 200, description = "A page of runs.", body = Listing<Run>)),
)]
pub(super) async fn list_runs(
    State(api): State<Api>,
    _: Caller<RunsRead>,
    filters: Filters,
    Query(query): Query<RunQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters)
        .by_time(query.created_after.is_some() || query.created_before.is_some());
    let request = list.request(query.limit, query.after.as_deref())?;
    let filter = RunFilter {
        workflow: query.workflow,
        statuses: query.status.as_deref().map_or(Ok(Vec::new()), statuses)?,
        first_run_id: query.first_run_id,
        changed_after: query.changed_after.unwrap_or_default(),
        created_after: query.created_after,
        created_before: query.created_before,
        include_deleted: query.include_deleted.unwrap_or_default(),
        ..RunFilter::default()
    };
    let (store, filter) = (api.store()?, &filter);
    let read = |request| async move { store.runs(filter, &request).await };
    list.respond(&api, request, resource, read).await
}

/// Reads the filter by statuses.
fn statuses(text: &str) -> Result<Vec<RunStatus>, ApiError> {
    let all = || RunStatus::ALL.iter().map(|status| status.as_str());
    text.split(',').map(|part| page::status(part, RunStatus::parse, all())).collect()
}

/// Get a run
///
/// Returns the run with exactly this id, even if it has continued as another run.
#[utoipa::path(
    get,
    path = "/runs/{run_id}",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run.")),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses((status = 200, description = "The run.", body = Document<Run>)),
)]
pub(super) async fn get_run(
    State(api): State<Api>,
    _: Caller<RunsRead>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut row = find(&api, &id).await?;
    row.waits_for = api.runtime.waits_for(&row).await?;
    let run = resource(row);
    let tag = etag::of(&run);
    Ok(etag::answer(&headers, &tag, || api.document(StatusCode::OK, run)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JournalQuery {
    /// Maximum number of events of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// Only events with a version above this one.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// Read the journal of a run
///
/// Returns a page of the events of the run, in order. `meta.next` is the version after which the
/// next page begins; `null` if there are no more events now.
#[utoipa::path(
    get,
    path = "/runs/{run_id}/journal",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run."), JournalQuery),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses((status = 200, description = "A page of events.", body = Listing<Event>)),
)]
pub(super) async fn get_journal(
    State(api): State<Api>,
    _: Caller<RunsRead>,
    Path(id): Path<String>,
    Query(query): Query<JournalQuery>,
) -> Result<Response, ApiError> {
    let limit = page::limit(query.limit)?;
    find(&api, &id).await?;
    let stream = StreamId::of_run(&id)?;
    let after = query.after.unwrap_or_default();
    let (events, next) = journal(&**api.store()?, &stream, after, limit).await?;
    Ok(api.listing(events, next.map(|version| version.to_string()), Vec::new()))
}

/// The events of a stream after a version, and the version after which there are more. There are at most
/// `limit`, and fewer if they are large.
async fn journal(
    store: &dyn Store,
    stream: &StreamId,
    mut after: u64,
    limit: usize,
) -> Result<(Vec<Resource<Event>>, Option<u64>), StoreError> {
    let mut room = Room::new();
    let mut found = Vec::new();
    loop {
        let part = room.part(limit - found.len());
        let mut events = store.read_stream(stream, after, part + 1).await?;
        let has_more = events.len() > part;
        events.truncate(part);
        let (mut rows, mut size) = (0, 0);
        for event in events {
            let version = event.version;
            let event = recorded(event);
            let bytes = parts::bytes(&event);
            if !room.takes(1, bytes) {
                return Ok((found, Some(after)));
            }
            (after, rows, size) = (version, rows + 1, size + bytes);
            found.push(event);
        }
        if !has_more || found.len() >= limit {
            return Ok((found, has_more.then_some(after)));
        }
        room.grow(rows, size);
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ResultQuery {
    /// How long to wait for the end of the run, for example `30s` or `500ms`. Without it, the
    /// answer comes at once. A time longer than 4/5 of the time that a request may take counts as
    /// that.
    #[param(example = "20s")]
    wait: Option<String>,
}

/// How a run ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunResult {
    /// Status of the run.
    #[schema(value_type = schema::RunStatus)]
    status: RunStatus,
    /// Its result, if it completed.
    #[schema(value_type = serde_json::Value)]
    result: Option<Payload>,
    /// The failure, if it failed, was cancelled or is blocked.
    #[schema(value_type = Option<schema::Failure>)]
    failure: Option<Failure>,
}

/// Wait for the result of a run
///
/// Follows the run to its end, also through runs that it continues as. Answers with 200 if the run
/// has ended or is blocked, and with 202 if neither has happened in the time of `wait`.
#[utoipa::path(
    get,
    path = "/runs/{run_id}/result",
    tag = "runs",
    params(("run_id" = String, Path, description = "Id of the run."), ResultQuery),
    security(("bearer" = ["runs:read"]), ("api_key" = ["runs:read"])),
    responses(
        (status = 200, description = "The run has ended.", body = Document<RunResult>),
        (status = 202, description = "The run has not ended yet.", body = Document<RunResult>),
    ),
)]
pub(super) async fn get_result(
    State(api): State<Api>,
    _: Caller<RunsRead>,
    Path(id): Path<String>,
    Query(query): Query<ResultQuery>,
) -> Result<Response, ApiError> {
    let wait = query.wait.as_deref().map_or(Ok(Duration::ZERO), duration)?;
    let wait = wait.min(api.options.longest_wait());
    let handle = api.runtime.handle(&id).await?;
    // An end that is already in the store is found without waiting.
    let row = handle.status().await?;
    let is_over = row.status.is_final() || row.status == RunStatus::Blocked;
    let ended = match is_over || !wait.is_zero() {
        false => None,
        true => tokio::select! {
            biased;
            ended = handle.result::<Payload>() => Some(ended),
            () = api.options.clock.sleep(wait.max(Duration::from_millis(500))) => None,
            () = api.options.shutdown.begun(), if !is_over => None,
        },
    };
    let (status, result) = match ended {
        Some(ended) => (StatusCode::OK, outcome(ended)?),
        None => present(handle.status().await?),
    };
    Ok(api.document(status, Resource::new(KIND, id, result)))
}

/// The answer after a wait. The run may have ended between the wait and the reading of its row.
fn present(row: RunRecord) -> (StatusCode, RunResult) {
    let RunRecord { status, result, failure, .. } = row;
    let (code, result, failure) = match status {
        RunStatus::Completed => (StatusCode::OK, Some(result.unwrap_or_default()), None),
        RunStatus::Failed | RunStatus::Cancelled | RunStatus::Blocked => {
            (StatusCode::OK, None, failure)
        }
        _ => (StatusCode::ACCEPTED, None, None),
    };
    (code, RunResult { status, result, failure })
}

/// The outcome of a run that has ended. A failed run is data here, and not an error of the request.
fn outcome(ended: Result<Payload, RunError>) -> Result<RunResult, ApiError> {
    let (status, failure) = match ended {
        Ok(result) => {
            let status = RunStatus::Completed;
            return Ok(RunResult { status, result: Some(result), failure: None });
        }
        Err(RunError::Failed { failure, .. }) => (RunStatus::Failed, failure),
        Err(RunError::Cancelled { failure, .. }) => (RunStatus::Cancelled, failure),
        Err(RunError::Blocked { failure, .. }) => (RunStatus::Blocked, failure),
        Err(RunError::Runtime(error)) => return Err(error.into()),
        Err(error) => return Err(ApiError::panicked().with_cause(error.to_string())),
    };
    Ok(RunResult { status, result: None, failure: Some(failure) })
}

/// Greatest number of a time to wait.
const MAX_NUMBER: u64 = 999_999_999;

/// Reads `30s`, `500ms`, `2m` or a number of seconds.
pub(in crate::http) fn duration(text: &str) -> Result<Duration, ApiError> {
    let number_ends = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(number_ends);
    let number = number(digits).filter(|it| *it <= MAX_NUMBER);
    let duration = number.and_then(|number| match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        _ => None,
    });
    duration.ok_or_else(|| {
        let message = "`wait` is a whole number with at most 9 digits and one of ms, s and m, for example `30s`";
        ApiError::new(codes::MALFORMED_REQUEST, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_durations() {
        for (text, millis) in [("30s", 30_000), ("5", 5000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1h", "0000000001s", "01s", "1000000000", "1s ", "١s"]
        {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
