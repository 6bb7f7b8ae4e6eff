//! Changes of agents: create, replace, delete, restart.
//!
//! A change is one event in the stream of the agent. Its id derives from the `Idempotency-Key`, if
//! there is one, so a request that is handled again after a crash appends nothing twice. A PUT and
//! a DELETE need `If-Match`. Its tags become the expected versions of the change, which are compared where
//! the change is appended: another change in between is a conflict and not lost. They count only for a
//! change that could be made without them (RFC 9110, section 13.2.1), so an agent that was deleted is
//! answered with 410, whatever tag the client has.

use aios_agents::agent::{Change, ExpectedVersion};
use aios_core::event::Payload;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Agent, managed, resource, tag, versioned};
use crate::{
    auth::Identity,
    http::{
        ApiError,
        layers::{
            AgentsCreate, AgentsDelete, AgentsReplace, AgentsRestart, Caller, RequestIds, metadata,
        },
        protocol::{Document, EmptyBody, IfMatch, Json, Path, Prefix, etag},
        state::Api,
    },
};

/// The body of a new agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateAgentBody {
    /// Its type. A process with a factory of the type hosts the agent; until then it waits.
    #[schema(example = "backend")]
    agent_type: String,
    /// Its name, unique in its type unless `id` is given.
    #[schema(example = "Backend Developer", min_length = 1, max_length = 255)]
    name: String,
    /// The configuration of its factory, which fits the `config_schema` of the type; `null` unless
    /// given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    config: Payload,
    /// Its id, of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`. Derives from type and name unless given.
    #[serde(default)]
    #[schema(required = false, example = "agent-123")]
    id: Option<String>,
}

/// Create a new agent
///
/// Every process with a factory of the type creates the agent, again after each restart, until it is
/// deleted. If no process has one, the agent waits. An agent that was deleted can be created again.
#[utoipa::path(
    post,
    path = "/agents",
    tag = "agents",
    request_body = CreateAgentBody,
    security(("bearer" = ["agents:create"]), ("api_key" = ["agents:create"])),
    responses((status = 201, description = "The agent is created.", body = Document<Agent>)),
)]
pub(super) async fn create_agent(
    State(api): State<Api>,
    caller: Caller<AgentsCreate>,
    ids: RequestIds,
    prefix: Prefix,
    headers: HeaderMap,
    Json(body): Json<CreateAgentBody>,
) -> Result<Response, ApiError> {
    let CreateAgentBody { agent_type, name, config, id } = body;
    let change = change(&caller.identity, &headers, &ids);
    let agents = managed(&api)?;
    let agent = agents.create(&agent_type, &name, id.as_deref(), config, change).await?;
    let location = prefix.location(&["agents", &agent.record.id]);
    let tag = tag(&agent);
    Ok(etag::with(api.created(resource(agent.record), &location), &tag))
}

/// The body of a changed agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplaceAgentBody {
    /// Its name.
    #[schema(example = "Backend Developer", min_length = 1, max_length = 255)]
    name: String,
    /// The configuration of its factory, which fits the `config_schema` of the type; `null` unless
    /// given.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    config: Payload,
}

/// Replace an agent
///
/// Processes create the agent again from its new configuration. Id and type stay.
#[utoipa::path(
    put,
    path = "/agents/{agent_id}",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent.")),
    request_body = ReplaceAgentBody,
    security(("bearer" = ["agents:replace"]), ("api_key" = ["agents:replace"])),
    responses((status = 200, description = "The agent is replaced.", body = Document<Agent>)),
)]
pub(super) async fn replace_agent(
    State(api): State<Api>,
    caller: Caller<AgentsReplace>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<ReplaceAgentBody>,
) -> Result<Response, ApiError> {
    let change = conditional(&caller.identity, &headers)?;
    let agent = managed(&api)?.replace(&id, &body.name, body.config, change).await?;
    let tag = tag(&agent);
    Ok(etag::with(api.document(StatusCode::OK, resource(agent.record)), &tag))
}

/// Delete an agent
///
/// Processes stop the agent; tasks that it works on end as usual. It stays in the list with
/// `include_deleted`.
#[utoipa::path(
    delete,
    path = "/agents/{agent_id}",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent.")),
    security(("bearer" = ["agents:delete"]), ("api_key" = ["agents:delete"])),
    responses((status = 200, description = "The agent is deleted.", body = Document<Agent>)),
)]
pub(super) async fn delete_agent(
    State(api): State<Api>,
    caller: Caller<AgentsDelete>,
    Path(id): Path<String>,
    headers: HeaderMap,
    EmptyBody: EmptyBody,
) -> Result<Response, ApiError> {
    let change = conditional(&caller.identity, &headers)?;
    let agent = managed(&api)?.delete(&id, change).await?;
    Ok(api.document(StatusCode::OK, resource(agent.record)))
}

/// Restart an agent
///
/// Every process that hosts the agent creates it again from its configuration.
#[utoipa::path(
    post,
    path = "/agents/{agent_id}/actions/restart",
    tag = "agents",
    params(("agent_id" = String, Path, description = "Id of the agent.")),
    security(("bearer" = ["agents:restart"]), ("api_key" = ["agents:restart"])),
    responses((status = 202, description = "The restart is recorded.", body = Document<Agent>)),
)]
pub(super) async fn restart_agent(
    State(api): State<Api>,
    caller: Caller<AgentsRestart>,
    ids: RequestIds,
    Path(id): Path<String>,
    (prefix, headers): (Prefix, HeaderMap),
    EmptyBody: EmptyBody,
) -> Result<Response, ApiError> {
    let change = change(&caller.identity, &headers, &ids);
    let agent = managed(&api)?.restart(&id, change).await?;
    let location = prefix.location(&["agents", &id]);
    Ok(api.accepted(resource(agent.record), &location))
}

/// A change by this caller, without a condition.
fn change(identity: &Identity, headers: &HeaderMap, ids: &RequestIds) -> Change {
    let metadata = metadata(identity, headers, None);
    let event_id = ids.request().map(|_| ids.id_of("agent"));
    Change { metadata, event_id, expected: ExpectedVersion::Any }
}

/// A change of an agent that fulfils the conditions of the request.
fn conditional(identity: &Identity, headers: &HeaderMap) -> Result<Change, ApiError> {
    let expected = expected(&IfMatch::required(headers)?, &etag::none_match(headers));
    Ok(Change { expected, ..change(identity, headers, &RequestIds::default()) })
}

/// The versions that an agent may have. Tags that are no version match none.
fn expected(condition: &IfMatch, refused: &[String]) -> ExpectedVersion {
    let versions = |tags: &[String]| tags.iter().filter_map(|tag| version(tag)).collect::<Vec<_>>();
    let none = versions(refused);
    match condition.is_any() {
        _ if refused.iter().any(|tag| tag == etag::ANY) => ExpectedVersion::OneOf(Vec::new()),
        true if none.is_empty() => ExpectedVersion::Any,
        true => ExpectedVersion::NoneOf(none),
        false => {
            let mut versions = versions(condition.tags());
            versions.retain(|version| !none.contains(version));
            ExpectedVersion::OneOf(versions)
        }
    }
}

/// The version in a [`tag`].
fn version(tag: &str) -> Option<u64> {
    let version = tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    (versioned(version) == tag).then_some(version)
}
