//! Projections: `/projections`, with the events that they could not apply.
//!
//! A projection is known by the position that it has saved in the store, whether or not a process runs it. A
//! process that runs it holds its lease, whose number is the place of the name among all registered ones.

use std::collections::{BTreeMap, BTreeSet};

use aios_agents::{
    projection::{ProjectionDeadLetter, ProjectionHandle},
    runtime::RuntimeError,
};
use aios_core::{
    catalog::{
        codes,
        system::{PROJECTION_REGISTERED, ProjectionRegistered},
    },
    failure::Failure,
    store::{Shard, Store, StreamId},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::engines::page_of;
use crate::http::{
    ApiError,
    layers::{AuditStored, Caller, ProjectionsRead, ProjectionsRedrive, ProjectionsRetire},
    openapi::schema,
    protocol::{
        Document, EmptyBody, Filters, Json, List, Listing, Path, Prefix, Query, Resource, count,
        integer, page, position,
    },
    state::Api,
};

/// Name of the list in cursors.
const LIST: &str = "projections";
/// Type of the resource.
const KIND: &str = "projection";
/// The names of the readers that are projections begin with this.
const READERS: &str = "projections/";
/// Registered names that are read at once.
const REGISTERED: usize = 500;

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_projections))
        .routes(routes!(get_projection))
        .routes(routes!(retire_projection))
        .routes(routes!(list_projection_dead_letters))
        .routes(routes!(redrive_projection))
}

/// A projection with a saved position.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct Projection {
    /// Everything up to this position of the log is applied. A projection that keeps its position in a store of
    /// its own saves it here too, a little later.
    position: u64,
    /// How many positions of the log come after it.
    lag: u64,
    /// Whether a process runs it. One that waits to try again after an error does not.
    is_running: bool,
}

/// All projections, by name.
async fn projections(store: &dyn Store) -> Result<BTreeMap<String, Projection>, ApiError> {
    let saved = store.checkpoints().await?;
    let head = store.head().await?;
    let running = running(store).await?;
    let projections = saved.into_iter().filter_map(|saved| {
        let name = saved.reader.strip_prefix(READERS)?.to_owned();
        let (position, is_running) = (saved.position, running.contains(&name));
        Some((name, Projection { position, lag: head.saturating_sub(position), is_running }))
    });
    Ok(projections.collect())
}

/// The names of the projections whose leases are held.
async fn running(store: &dyn Store) -> Result<BTreeSet<String>, ApiError> {
    let held: BTreeSet<_> = store.leases().await?.into_iter().map(|lease| lease.shard).collect();
    let stream = StreamId::new("system/projections")?;
    let (mut names, mut after) = (BTreeSet::new(), 0);
    loop {
        let events = store.read_stream(&stream, after, REGISTERED).await?;
        let is_last = events.len() < REGISTERED;
        for recorded in events {
            after = recorded.version;
            let is_held = Shard::projection(recorded.version).is_some_and(|it| held.contains(&it));
            if is_held && recorded.event.event_type.segments().2 == PROJECTION_REGISTERED {
                names.insert(recorded.event.data::<ProjectionRegistered>()?.projection);
            }
        }
        if is_last {
            return Ok(names);
        }
    }
}

/// The projection of a request; fails if it has no saved position.
async fn found(api: &Api, name: &str) -> Result<(ProjectionHandle, Projection), ApiError> {
    let missing = || ApiError::missing(codes::PROJECTION_NOT_FOUND, "projection", name);
    let projection = projections(&**api.store()?).await?.remove(name).ok_or_else(missing)?;
    Ok((api.runtime.projection_handle(name)?, projection))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ProjectionQuery {
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List projections
///
/// Returns a page of the projections that have a saved position, in the order of their names, also of those that
/// no process runs. Retention keeps what a projection has not applied.
#[utoipa::path(
    get,
    path = "/projections",
    tag = "projections",
    params(ProjectionQuery),
    security(("bearer" = ["projections:read"]), ("api_key" = ["projections:read"])),
    responses((status = 200, description = "A page of projections.", body = Listing<Projection>)),
)]
async fn list_projections(
    State(api): State<Api>,
    _: Caller<ProjectionsRead>,
    filters: Filters,
    Query(query): Query<ProjectionQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters);
    let request = list.request(query.limit, query.after.as_deref())?;
    let page = page_of(projections(&**api.store()?).await?, &request);
    Ok(list.answer(&api, page, |(name, projection)| Resource::new(KIND, name, projection)))
}

/// Get a projection
#[utoipa::path(
    get,
    path = "/projections/{projection}",
    tag = "projections",
    params(("projection" = String, Path, description = "Name of the projection.")),
    security(("bearer" = ["projections:read"]), ("api_key" = ["projections:read"])),
    responses((status = 200, description = "The projection.", body = Document<Projection>)),
)]
async fn get_projection(
    State(api): State<Api>,
    _: Caller<ProjectionsRead>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let (_, projection) = found(&api, &name).await?;
    Ok(api.document(StatusCode::OK, Resource::new(KIND, name, projection)))
}

/// Retire a projection
///
/// Deletes the saved position of a projection that no process runs, and returns the projection as it was.
/// Retention no longer waits for it. One of the same name that is started later begins again, so that this is also
/// the way to rebuild it.
#[utoipa::path(
    post,
    path = "/projections/{projection}/actions/retire",
    tag = "projections",
    params(("projection" = String, Path, description = "Name of the projection.")),
    security(("bearer" = ["projections:retire"]), ("api_key" = ["projections:retire"])),
    responses((status = 200, description = "It is retired.", body = Document<Projection>)),
)]
async fn retire_projection(
    State(api): State<Api>,
    _: Caller<ProjectionsRetire>,
    _: AuditStored,
    Path(name): Path<String>,
    EmptyBody: EmptyBody,
) -> Result<Response, ApiError> {
    let (handle, projection) = found(&api, &name).await?;
    let running = || {
        let message = format!("a process runs the projection {name}; stop it first");
        ApiError::new(codes::PROJECTION_RUNNING, message)
    };
    if projection.is_running {
        return Err(running());
    }
    match handle.retire().await {
        Ok(true) => Ok(api.document(StatusCode::OK, Resource::new(KIND, name.clone(), projection))),
        Ok(false) => Err(ApiError::missing(codes::PROJECTION_NOT_FOUND, "projection", &name)),
        // A process has begun to run it since.
        Err(RuntimeError::InvalidConfiguration { .. }) => Err(running()),
        Err(error) => Err(error.into()),
    }
}

/// An event that a projection could not apply, and skipped.
#[derive(Debug, Serialize, ToSchema)]
struct SkippedEvent {
    /// Position of the event.
    position: u64,
    /// Id of the event.
    event_id: String,
    /// Type of the event.
    event_type: String,
    /// Why it could not be applied.
    #[schema(value_type = schema::Failure)]
    failure: Failure,
    /// How often it was tried.
    attempts: u32,
}

/// Converts a dead letter to its resource. Its id is the position of the event.
fn skipped(letter: ProjectionDeadLetter) -> Resource<SkippedEvent> {
    let ProjectionDeadLetter { position, event_id, event_type, failure, attempts, .. } = letter;
    let attributes = SkippedEvent { position, event_id, event_type, failure, attempts };
    Resource::new("projection_dead_letter", position.to_string(), attributes)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SkippedQuery {
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// Only events after this position: `meta.next` of the page before.
    #[serde(default, deserialize_with = "position")]
    after: Option<u64>,
}

/// List the events that a projection has skipped
///
/// Returns a page of the events that could not be applied, in the order of the log. Those that were applied since
/// are not among them.
#[utoipa::path(
    get,
    path = "/projections/{projection}/dead-letters",
    tag = "projections",
    params(("projection" = String, Path, description = "Name of the projection."), SkippedQuery),
    security(("bearer" = ["projections:read"]), ("api_key" = ["projections:read"])),
    responses((status = 200, description = "A page of skipped events.", body = Listing<SkippedEvent>)),
)]
async fn list_projection_dead_letters(
    State(api): State<Api>,
    _: Caller<ProjectionsRead>,
    Path(name): Path<String>,
    Query(query): Query<SkippedQuery>,
) -> Result<Response, ApiError> {
    let limit = page::limit(query.limit)?;
    let (handle, _) = found(&api, &name).await?;
    let mut letters = handle.dead_letters(query.after.unwrap_or_default(), limit + 1).await?;
    let has_more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| has_more).map(|last| last.position.to_string());
    Ok(api.listing(letters.into_iter().map(skipped).collect(), next, Vec::new()))
}

/// The body of a redrive.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    /// Position of the event that is applied again.
    #[serde(deserialize_with = "integer")]
    position: u64,
}

/// Let a projection apply a skipped event again
///
/// The request is recorded, whichever process runs the projection. If the event cannot be applied again, it stays
/// a dead letter.
#[utoipa::path(
    post,
    path = "/projections/{projection}/actions/redrive",
    tag = "projections",
    params(("projection" = String, Path, description = "Name of the projection.")),
    request_body = RedriveBody,
    security(("bearer" = ["projections:redrive"]), ("api_key" = ["projections:redrive"])),
    responses((status = 202, description = "The request is recorded.", body = Document<Projection>)),
)]
async fn redrive_projection(
    State(api): State<Api>,
    _: Caller<ProjectionsRedrive>,
    Path(name): Path<String>,
    prefix: Prefix,
    Json(body): Json<RedriveBody>,
) -> Result<Response, ApiError> {
    let (handle, projection) = found(&api, &name).await?;
    handle.redrive(body.position).await?;
    let location = prefix.location(&["projections", &name]);
    Ok(api.accepted(Resource::new(KIND, name, projection), &location))
}
