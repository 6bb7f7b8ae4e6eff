//! Errors of hosting and calling agents.
//!
//! Errors in definitions and options are found when a host starts, those of broker and store also
//! later. Only the latter can be retryable. The code of an agent reports its own failures as a
//! `TaskError` instead.

use aios_core::{
    agent::{InvalidName, TaskId},
    broker::{BrokerError, InvalidAddress},
    catalog::codes,
    event::EventError,
    failure::Failure,
    store::StoreError,
};

/// Errors of running and calling agents.
///
/// # Examples
///
/// ```
/// use aios_agents::agent::{AgentError, AgentHost, AgentSet};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // A host without a broker is refused before anything starts.
/// let error = AgentHost::builder(AgentSet::new()).start().await.unwrap_err();
/// assert!(matches!(error, AgentError::InvalidConfiguration { .. }));
/// assert_eq!(error.code(), "INVALID_AGENT_CONFIGURATION");
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The name of an agent type is not `[a-z][a-z0-9_]*` with at most 100 bytes.
    #[error(transparent)]
    InvalidType(#[from] InvalidName),
    /// The id of an agent can't be part of a mailbox's name: use `[A-Za-z0-9._-]`.
    #[error("the id of an agent is invalid")]
    InvalidId(#[from] InvalidAddress),
    /// A type was defined twice. To have several agents of a type, define it once and
    /// [`register`](super::AgentDefinition::register) each.
    #[error("agent type {agent_type} is defined twice")]
    DuplicateType {
        /// The type.
        agent_type: String,
    },
    /// Two agents have the same id, even if their types differ. Give one of them another id.
    #[error("the id of agent {agent_id} of type {agent_type} is used twice")]
    DuplicateAgent {
        /// The type of one of them.
        agent_type: String,
        /// The id.
        agent_id: String,
    },
    /// An agent was registered for a type that was not defined before. Define the type first.
    #[error("agent type {agent_type} is not defined")]
    UnknownType {
        /// The type.
        agent_type: String,
    },
    /// A schema of an agent is not a valid JSON Schema.
    #[error("the {schema} schema of an agent is invalid: {reason}")]
    InvalidSchema {
        /// Which one: `parameters` or `output`.
        schema: &'static str,
        /// The reason.
        reason: String,
    },
    /// A config cannot be serialised to JSON.
    #[error("the config of agent {name} cannot be serialised to JSON")]
    InvalidConfig {
        /// Name of the agent.
        name: String,
        /// The cause.
        source: EventError,
    },
    /// An option of an agent, a middleware or the host is invalid. The reason names it.
    #[error("invalid agent configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// The broker refused a subscription or an event.
    #[error("broker error")]
    Broker(#[from] BrokerError),
    /// The store failed to record the status of agents.
    #[error("failed to store agent status")]
    Store(#[from] StoreError),
    /// An event could not be encoded.
    #[error("failed to encode an event of an agent")]
    Event(#[from] EventError),
    /// Store or broker permanently refuse something the host needs, so that part of it no longer
    /// works. Remove the reason, and start the host again.
    #[error("the agent host is impaired: {failure}")]
    Impaired {
        /// The part that no longer works, and the reason.
        failure: Failure,
    },
    /// Tasks were still running at the shutdown deadline. They were returned to the broker.
    #[error("tasks were still running at the shutdown deadline: {}", list(.tasks))]
    ShutdownTimeout {
        /// The tasks.
        tasks: Vec<TaskId>,
    },
}

impl AgentError {
    /// Returns whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Returns a stable code for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidType(_) => codes::INVALID_AGENT_TYPE,
            Self::InvalidId(_) => codes::INVALID_AGENT_ID,
            Self::DuplicateType { .. } => codes::DUPLICATE_AGENT_TYPE,
            Self::DuplicateAgent { .. } => codes::DUPLICATE_AGENT,
            Self::UnknownType { .. } => codes::UNKNOWN_AGENT_TYPE,
            Self::InvalidSchema { .. } => codes::INVALID_AGENT_SCHEMA,
            Self::InvalidConfig { .. } => codes::INVALID_AGENT_CONFIG,
            Self::InvalidConfiguration { .. } => codes::INVALID_AGENT_CONFIGURATION,
            Self::Broker(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Event(error) => error.code(),
            Self::Impaired { .. } => codes::AGENT_HOST_IMPAIRED,
            Self::ShutdownTimeout { .. } => codes::SHUTDOWN_TIMEOUT,
        }
    }
}

/// How many tasks an error message lists.
const NAMED: usize = 10;

/// Lists the first tasks and counts the others.
fn list(tasks: &[TaskId]) -> String {
    let named: Vec<_> = tasks.iter().take(NAMED).map(TaskId::as_str).collect();
    match tasks.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        others => format!("{} and {others} others", named.join(", ")),
    }
}
