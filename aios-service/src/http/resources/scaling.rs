//! Load of agents, for autoscalers: `/metrics/scaling`.
//!
//! The number of open tasks comes from the store, because it includes tasks that no process has
//! taken, and because every process gives the same answer. Counting stops at [`TASKS`]: an
//! autoscaler only needs to know that there are many.

use aios_core::{
    event::Timestamp,
    store::{PageRequest, Store, TaskFilter, TaskStatus},
};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::agents::managed;
use crate::http::{
    ApiError,
    layers::{Caller, TasksRead},
    protocol::{Listing, Query, Resource},
    state::Api,
};

/// Type of the resource.
const KIND: &str = "agent_load";
/// Maximum number of agent types in one answer.
const TYPES: usize = 100;
/// How many tasks are counted.
const TASKS: usize = 1000;

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_scaling))
}

/// The work of the agents of a type.
#[derive(Debug, Serialize, ToSchema)]
struct AgentLoad {
    /// Tasks without a result, at most 1,000: those that wait for an agent, and those that agents work
    /// on.
    tasks: usize,
    /// Whether there are more tasks than `tasks` says.
    has_more: bool,
    /// When the oldest of these tasks was assigned first.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ScalingQuery {
    /// Only agents of this type; all types unless given.
    agent_type: Option<String>,
}

/// Get the load of agents
///
/// Returns how many tasks agents of each type have to do, by name, on one page; at most 100 types. A task
/// counts until its result is recorded, so an autoscaler keeps enough processes for the tasks in progress. It
/// does not know which processes have them.
#[utoipa::path(
    get,
    path = "/metrics/scaling",
    tag = "tasks",
    params(ScalingQuery),
    security(("bearer" = ["tasks:read"]), ("api_key" = ["tasks:read"])),
    responses((status = 200, description = "The load of each type.", body = Listing<AgentLoad>)),
)]
async fn get_scaling(
    State(api): State<Api>,
    _: Caller<TasksRead>,
    Query(query): Query<ScalingQuery>,
) -> Result<Response, ApiError> {
    let types = match query.agent_type {
        // A type whose agents have never run may have tasks, too.
        Some(agent_type) => vec![agent_type],
        None => {
            let types = managed(&api)?.types().await?;
            types.into_iter().map(|known| known.agent_type).take(TYPES).collect()
        }
    };
    let store = api.store()?;
    let mut loads = Vec::with_capacity(types.len());
    for agent_type in types {
        let load = load(&**store, &agent_type).await?;
        loads.push(Resource::new(KIND, agent_type, load));
    }
    Ok(api.listing(loads, None, Vec::new()))
}

/// Counts the open tasks of a type.
async fn load(store: &dyn Store, agent_type: &str) -> Result<AgentLoad, ApiError> {
    let filter = TaskFilter {
        agent_type: Some(agent_type.to_owned()),
        status: Some(TaskStatus::Assigned),
        ..TaskFilter::default()
    };
    let page = store.tasks(&filter, &PageRequest::first(TASKS)).await?;
    Ok(AgentLoad {
        tasks: page.rows.len() + page.unreadable.len(),
        has_more: page.next.is_some(),
        oldest_at: page.rows.iter().map(|task| task.created_at).min(),
    })
}
