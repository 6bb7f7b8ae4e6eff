//! Agents: `/agents`.

use aios_core::{
    event::{Payload, Timestamp},
    store::{AgentFilter, AgentRecord, AgentStatus, PageRequest},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError,
    authorize::{AgentsRead, Caller},
    envelope::{Document, Listing, Resource},
    extract::{Path, Query},
    page, schema,
    state::Api,
};

const LIST: &str = "agents";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_agents)).routes(routes!(get_agent))
}

/// An agent that some process hosts or has hosted.
#[derive(Debug, Serialize, ToSchema)]
struct Agent {
    /// Its type.
    agent_type: String,
    /// Its name.
    name: String,
    /// The configuration of its factory.
    #[schema(value_type = serde_json::Value)]
    config: Payload,
    /// Where it stands.
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
    /// When it was deregistered.
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
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
    /// Deregistered agents too.
    include_deleted: Option<bool>,
    /// Most resources of a page; 50 unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `meta.next` of the page before.
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
    Query(query): Query<AgentQuery>,
) -> Result<Response, ApiError> {
    let request = page::request(LIST, query.limit, query.after.as_deref())?;
    let filter = AgentFilter {
        id: None,
        agent_type: query.agent_type,
        status: query.status.as_deref().map(status).transpose()?,
        include_deleted: query.include_deleted.unwrap_or_default(),
    };
    let rows = api.store()?.agents(&filter, &request).await?;
    Ok(page::answer(&api, LIST, rows, resource))
}

fn status(text: &str) -> Result<AgentStatus, ApiError> {
    page::status(text, AgentStatus::parse, AgentStatus::ALL.iter().map(|it| it.as_str()))
}

/// Get an agent
#[utoipa::path(
    get,
    path = "/agents/{agent_id}",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent.")),
    security(("bearer" = ["agents:read"]), ("api_key" = ["agents:read"])),
    responses((status = 200, description = "The agent.", body = Document<Agent>)),
)]
async fn get_agent(
    State(api): State<Api>,
    _: Caller<AgentsRead>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(api.document(StatusCode::OK, resource(find(&api, &id).await?)))
}

/// The row of an agent, also of one that was deregistered.
pub(super) async fn find(api: &Api, id: &str) -> Result<AgentRecord, ApiError> {
    let filter =
        AgentFilter { id: Some(id.to_owned()), include_deleted: true, ..AgentFilter::default() };
    let row = api.store()?.agents(&filter, &PageRequest::first(1)).await?.rows.pop();
    row.ok_or_else(|| ApiError::missing("AGENT_NOT_FOUND", "agent", id))
}
