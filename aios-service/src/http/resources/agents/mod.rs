//! Agents: `/agents`.
//!
//! The API changes the desired state of an agent, which is in the log; processes with a factory of
//! its type converge to it. Status and `last_seen_at` are what those processes report. The two
//! change independently, so the tag of an agent covers its desired state only: a heartbeat must not
//! make a PUT with `If-Match` fail. A GET therefore never answers 304.

mod write;

use aios_agents::agent::{ManagedAgent, ManagedAgentError, ManagedAgents};
use aios_core::{
    catalog::codes,
    event::{Payload, Timestamp},
    store::{AgentFilter, AgentRecord, AgentStatus, PageRequest},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{
    ApiError,
    layers::{AgentsRead, Caller},
    openapi::schema,
    protocol::{Document, Filters, List, Listing, Path, Query, Resource, count, etag, page},
    state::Api,
};

/// Name of the list in cursors.
const LIST: &str = "agents";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_agents, write::create_agent))
        .routes(routes!(get_agent, write::replace_agent, write::delete_agent))
        .routes(routes!(write::restart_agent))
}

/// An agent that processes host or have to host.
#[derive(Debug, Serialize, ToSchema)]
struct Agent {
    /// Its type.
    agent_type: String,
    /// Its name.
    name: String,
    /// The configuration of its factory.
    #[schema(value_type = serde_json::Value)]
    config: Payload,
    /// Its status.
    #[schema(value_type = schema::AgentStatus)]
    status: AgentStatus,
    /// When its process last said that it is there.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen_at: Option<Timestamp>,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it changed last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When it was deleted.
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
}

/// The tag of an agent: it changes with its desired state, not with its status.
fn tag(agent: &ManagedAgent) -> String {
    let AgentRecord { agent_type, name, config, .. } = &agent.record;
    match agent.version {
        Some(version) => versioned(version),
        None => etag::of(&(agent_type, name, config)),
    }
}

/// The tag of a version.
fn versioned(version: u64) -> String {
    format!("\"{version}\"")
}

/// The type of the resource is `<agent type>_agent`, for example `backend_agent`.
fn resource(row: AgentRecord) -> Resource<Agent> {
    let kind = format!("{}_agent", row.agent_type);
    let agent = Agent {
        agent_type: row.agent_type,
        name: row.name,
        config: row.config,
        status: row.status,
        last_seen_at: row.last_seen_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
    };
    Resource::new(kind, row.id, agent)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AgentQuery {
    /// Only agents of this type.
    agent_type: Option<String>,
    /// Only agents in this status.
    #[param(value_type = Option<schema::AgentStatus>)]
    status: Option<String>,
    /// Only agents that were created at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only agents that were created before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Deleted agents too.
    include_deleted: Option<bool>,
    /// Maximum number of resources of a page; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before, with the same filters.
    after: Option<String>,
}

/// List agents
///
/// Returns a page of agents, in a stable order.
#[utoipa::path(
    get,
    path = "/agents",
    tag = "agents",
    params(AgentQuery),
    security(("bearer" = ["agents:read"]), ("api_key" = ["agents:read"])),
    responses((status = 200, description = "A page of agents.", body = Listing<Agent>)),
)]
async fn list_agents(
    State(api): State<Api>,
    _: Caller<AgentsRead>,
    filters: Filters,
    Query(query): Query<AgentQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters);
    let request = list.request(query.limit, query.after.as_deref())?;
    let filter = AgentFilter {
        id: None,
        agent_type: query.agent_type,
        status: query.status.as_deref().map(status).transpose()?,
        include_deleted: query.include_deleted.unwrap_or_default(),
    };
    let AgentQuery { created_after, created_before, .. } = query;
    let (store, filter) = (api.store()?, &filter);
    let read = |request| async move {
        let mut page = store.agents(filter, &request).await?;
        page.rows.retain(|row| {
            created_after.is_none_or(|time| row.created_at >= time)
                && created_before.is_none_or(|time| row.created_at < time)
        });
        Ok(page)
    };
    list.respond(&api, request, resource, read).await
}

/// Reads the filter by status.
fn status(text: &str) -> Result<AgentStatus, ApiError> {
    page::status(text, AgentStatus::parse, AgentStatus::ALL.iter().map(|it| it.as_str()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AgentGetQuery {
    /// Also if it was deleted.
    include_deleted: Option<bool>,
}

/// Get an agent
#[utoipa::path(
    get,
    path = "/agents/{agent_id}",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent."), AgentGetQuery),
    security(("bearer" = ["agents:read"]), ("api_key" = ["agents:read"])),
    responses((status = 200, description = "The agent.", body = Document<Agent>)),
)]
async fn get_agent(
    State(api): State<Api>,
    _: Caller<AgentsRead>,
    Path(id): Path<String>,
    Query(query): Query<AgentGetQuery>,
) -> Result<Response, ApiError> {
    let agent = managed(&api)?.get(&id).await?;
    if !query.include_deleted.unwrap_or_default() {
        check_not_deleted(&agent.record)?;
    }
    let tag = tag(&agent);
    Ok(etag::with(api.document(StatusCode::OK, resource(agent.record)), &tag))
}

/// Fails with 410 if the agent was deleted.
pub(super) fn check_not_deleted(agent: &AgentRecord) -> Result<(), ApiError> {
    match agent.deleted_at {
        None => Ok(()),
        Some(_) => Err(ManagedAgentError::Deleted { agent_id: agent.id.clone() }.into()),
    }
}

/// The agents that can be changed. Fails with `NO_STORE` in a process without a store.
pub(crate) fn managed(api: &Api) -> Result<ManagedAgents, ApiError> {
    api.store()?;
    Ok(api.runtime.managed_agents()?)
}

/// The row of an agent, even if the agent was deregistered.
pub(crate) async fn find(api: &Api, id: &str) -> Result<AgentRecord, ApiError> {
    let filter =
        AgentFilter { id: Some(id.to_owned()), include_deleted: true, ..AgentFilter::default() };
    let row = api.store()?.agents(&filter, &PageRequest::first(1)).await?.rows.pop();
    row.ok_or_else(|| ApiError::missing(codes::AGENT_NOT_FOUND, "agent", id))
}
