//! Agents as resources.
//!
//! Changes carry the version that the caller has seen, as `If-Match`. Two callers that change the
//! same agent therefore cannot overwrite each other: the second one gets `PRECONDITION_FAILED`.
//! Changes are sent once: a repeated attempt would meet the version that the first one has made.

use std::future::IntoFuture;

use aios_core::{
    BoxFuture,
    event::{EventError, Payload},
};
use axum::http::{HeaderValue, Method, header};
use serde::Serialize;

use super::{Agent, AgentType, Client, ClientError, convert::encode};

/// An agent, and the version of its desired state.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VersionedAgent {
    /// The agent.
    pub agent: Agent,
    /// The `ETag` of the agent. It changes when the agent is replaced, deleted or restarted.
    pub version: String,
}

/// Creates an agent. Await it.
///
/// Unless the id is set, a type has one agent of a name: creating another one fails with
/// `AGENT_EXISTS`. An agent that was deleted can be created again.
///
/// # Cancel safety
///
/// If it is cancelled, the agent may or may not have been created. Creating it again then fails with
/// `AGENT_EXISTS`.
///
/// # Examples
///
/// ```no_run
/// use aios_service::client::{Client, ClientError};
/// use serde_json::json;
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let created = client.create_agent("researcher", "web", &json!({ "model": "small" })).await?;
/// println!("{} has version {}", created.agent.id, created.version);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is created until it is awaited"]
pub struct CreateAgent {
    client: Client,
    agent_type: String,
    name: String,
    config: Result<Payload, EventError>,
    id: Option<String>,
}

/// The body of a new agent.
#[derive(Serialize)]
struct CreateBody {
    agent_type: String,
    name: String,
    config: Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// The body of a changed agent.
#[derive(Serialize)]
struct ReplaceBody<'a> {
    name: &'a str,
    config: Payload,
}

impl CreateAgent {
    /// Sets the id of the agent. It derives from type and name unless set.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

impl IntoFuture for CreateAgent {
    type Output = Result<VersionedAgent, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { client, agent_type, name, config, id } = self;
            let body = CreateBody { agent_type, name, config: config?, id };
            let request = client.connection.post(&["agents"], &body)?;
            versioned(client.connection.tagged(&request).await?)
        })
    }
}

impl Client {
    /// Creates an agent, which every process with a factory of its type hosts. Await it to get the
    /// agent.
    pub fn create_agent<C: Serialize + ?Sized>(
        &self,
        agent_type: &str,
        name: &str,
        config: &C,
    ) -> CreateAgent {
        CreateAgent {
            client: self.clone(),
            agent_type: agent_type.to_owned(),
            name: name.to_owned(),
            config: encode(config),
            id: None,
        }
    }

    /// An agent, with the version that a change can expect.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `AGENT_NOT_FOUND` if there is no such agent.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn versioned_agent(&self, id: &str) -> Result<VersionedAgent, ClientError> {
        versioned(self.connection.tagged(&self.connection.get(&["agents", id])?).await?)
    }

    /// Gives an agent another name and another config. `version` is the one that it is expected to
    /// have, or `*` for any.
    ///
    /// # Examples
    ///
    /// A change that is repeated if another caller was faster:
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ClientError};
    /// use serde_json::json;
    ///
    /// # async fn example(client: Client, id: &str) -> Result<(), ClientError> {
    /// loop {
    ///     let current = client.versioned_agent(id).await?;
    ///     let config = json!({ "model": "large" });
    ///     match client.replace_agent(id, &current.agent.name, &config, &current.version).await {
    ///         Err(error) if error.code() == "PRECONDITION_FAILED" => {}
    ///         replaced => return replaced.map(drop),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `PRECONDITION_FAILED` if it has another version, and with
    /// `AGENT_NOT_FOUND` or `AGENT_DELETED` if it is not there.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have changed the agent.
    pub async fn replace_agent<C: Serialize + ?Sized>(
        &self,
        id: &str,
        name: &str,
        config: &C,
        version: &str,
    ) -> Result<VersionedAgent, ClientError> {
        let body = ReplaceBody { name, config: encode(config)? };
        let request = self.connection.request(Method::PUT, &["agents", id])?.with_json(&body)?;
        let request = request.with_header(header::IF_MATCH, expected(version)?).once();
        versioned(self.connection.tagged(&request).await?)
    }

    /// Deletes an agent. `version` is the one that it is expected to have, or `*` for any.
    ///
    /// # Errors
    ///
    /// See [`replace_agent`](Self::replace_agent).
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have deleted the agent.
    pub async fn delete_agent(&self, id: &str, version: &str) -> Result<Agent, ClientError> {
        let request = self.connection.request(Method::DELETE, &["agents", id])?;
        let request = request.with_header(header::IF_MATCH, expected(version)?).once();
        self.connection.one(&request).await
    }

    /// Lets every process that hosts an agent create it again.
    ///
    /// The agent keeps its id, name and config. The answer comes when the request is recorded,
    /// which is before the agent runs again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `AGENT_NOT_FOUND` or `AGENT_DELETED` if it is not there.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have restarted the agent.
    pub async fn restart_agent(&self, id: &str) -> Result<Agent, ClientError> {
        let path = ["agents", id, "actions", "restart"];
        self.connection.one(&self.connection.post(&path, &serde_json::json!({}))?).await
    }

    /// The types of agents that processes host or have hosted.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn agent_types(&self) -> Result<Vec<AgentType>, ClientError> {
        Ok(self.connection.page(&self.connection.get(&["agent-types"])?).await?.items)
    }
}

/// An agent with its tag, which the service always sends.
fn versioned((agent, tag): (Agent, Option<String>)) -> Result<VersionedAgent, ClientError> {
    let version = tag.ok_or_else(|| ClientError::InvalidResponse {
        reason: "an agent has no ETag".to_owned(),
        request_id: None,
    })?;
    Ok(VersionedAgent { agent, version })
}

/// The header of a condition.
fn expected(version: &str) -> Result<HeaderValue, ClientError> {
    HeaderValue::try_from(version).map_err(|error| ClientError::InvalidArgument {
        name: "the version of an agent",
        reason: error.to_string(),
    })
}
