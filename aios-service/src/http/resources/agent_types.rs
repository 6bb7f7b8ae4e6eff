//! Types of agents: `/agent-types`.
//!
//! A type is known because a process hosts or has hosted agents of it. The types are few, so there
//! are no pages.

use aios_agents::agent::AgentType as Known;
use aios_core::{catalog::codes, event::Payload};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::agents::managed;
use crate::http::{
    ApiError,
    layers::{AgentsRead, Caller},
    protocol::{Document, Listing, Path, Resource, etag},
    state::Api,
};

/// Type of the resource.
const KIND: &str = "agent_type";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_agent_types)).routes(routes!(get_agent_type))
}

/// A type of agents.
#[derive(Debug, Serialize, ToSchema)]
struct AgentType {
    /// JSON Schema of the configuration, if agents of this type can be created over the API.
    #[schema(value_type = serde_json::Value)]
    config_schema: Option<Payload>,
    /// JSON Schema of the parameters of tasks, if it is known.
    #[schema(value_type = serde_json::Value)]
    parameters_schema: Option<Payload>,
    /// JSON Schema of the output of tasks, if it is known.
    #[schema(value_type = serde_json::Value)]
    output_schema: Option<Payload>,
}

/// Converts a known type to its resource.
fn resource(known: Known) -> Resource<AgentType> {
    let Known { agent_type, config_schema, parameters_schema, output_schema, .. } = known;
    Resource::new(KIND, agent_type, AgentType { config_schema, parameters_schema, output_schema })
}

/// List agent types
///
/// Returns the types of agents that processes host or have hosted, by name, on one page.
#[utoipa::path(
    get,
    path = "/agent-types",
    tag = "agents",
    security(("bearer" = ["agents:read"]), ("api_key" = ["agents:read"])),
    responses((status = 200, description = "All agent types.", body = Listing<AgentType>)),
)]
async fn list_agent_types(
    State(api): State<Api>,
    _: Caller<AgentsRead>,
) -> Result<Response, ApiError> {
    let types = managed(&api)?.types().await?;
    Ok(api.listing(types.into_iter().map(resource).collect(), None, Vec::new()))
}

/// Get an agent type
#[utoipa::path(
    get,
    path = "/agent-types/{agent_type}",
    tag = "agents",
    params(("agent_type" = String, Path, description = "Name of the type.")),
    security(("bearer" = ["agents:read"]), ("api_key" = ["agents:read"])),
    responses((status = 200, description = "The agent type.", body = Document<AgentType>)),
)]
async fn get_agent_type(
    State(api): State<Api>,
    _: Caller<AgentsRead>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let types = managed(&api)?.types().await?;
    let found = types.into_iter().find(|known| known.agent_type == name);
    let found =
        found.ok_or_else(|| ApiError::missing(codes::AGENT_TYPE_NOT_FOUND, "agent type", &name))?;
    let found = resource(found);
    let tag = etag::of(&found);
    Ok(etag::answer(&headers, &tag, || api.document(StatusCode::OK, found)))
}
