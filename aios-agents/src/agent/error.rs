use aios_core::{
    agent::{InvalidName, TaskError, TaskId},
    broker::{BrokerError, InvalidAddress},
    event::EventError,
    failure::Failure,
    store::StoreError,
};

/// What those who run agents could not do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// An agent type has a name that can't be a segment of an event type.
    #[error(transparent)]
    InvalidType(#[from] InvalidName),
    /// An agent has an id that can't be part of a mailbox's name.
    #[error("the id of an agent is invalid")]
    InvalidId(#[from] InvalidAddress),
    /// A type was defined twice.
    #[error("agent type {agent_type} is defined twice")]
    DuplicateType {
        /// The type.
        agent_type: String,
    },
    /// Two agents of a type have the same id.
    #[error("agent {agent_id} of type {agent_type} is registered twice")]
    DuplicateAgent {
        /// The type.
        agent_type: String,
        /// The id.
        agent_id: String,
    },
    /// An agent was registered for a type that was not defined before.
    #[error("agent type {agent_type} is not defined")]
    UnknownType {
        /// The type.
        agent_type: String,
    },
    /// A schema of an agent is no valid JSON Schema.
    #[error("the {schema} schema of an agent is invalid: {reason}")]
    InvalidSchema {
        /// Which one: `parameters` or `output`.
        schema: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A config can't be written as JSON.
    #[error("the config of agent {name} can't be JSON")]
    InvalidConfig {
        /// Name of the agent.
        name: String,
        /// What is wrong with it.
        source: EventError,
    },
    /// An option makes no sense.
    #[error("invalid agent configuration: {reason}")]
    InvalidConfiguration {
        /// What is wrong.
        reason: String,
    },
    /// A factory could not make its agent.
    #[error("agent {agent_id} can't be created: {failure}")]
    Factory {
        /// Id of the agent.
        agent_id: String,
        /// What the factory said.
        failure: Box<TaskError>,
    },
    /// The broker refused a subscription or an event.
    #[error("the broker does not serve the agents")]
    Broker(#[from] BrokerError),
    /// The store refused what agents announce.
    #[error("the store does not keep what the agents announce")]
    Store(#[from] StoreError),
    /// An event could not be made.
    #[error("an event of an agent can't be written")]
    Event(#[from] EventError),
    /// Store or broker refuse for good what the host needs, so that it does not do everything any more.
    #[error("the agent host is impaired: {failure}")]
    Impaired {
        /// What it can't do, and why.
        failure: Failure,
    },
    /// Tasks still ran when the time to shut down was over. They were given back to the broker.
    #[error("tasks still ran when the time to shut down was over: {}", list(.tasks))]
    ShutdownTimeout {
        /// Which.
        tasks: Vec<TaskId>,
    },
}

impl AgentError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Factory { failure, .. } => failure.retryable,
            Self::Broker(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// A stable name for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidType(_) => "INVALID_AGENT_TYPE",
            Self::InvalidId(_) => "INVALID_AGENT_ID",
            Self::DuplicateType { .. } => "DUPLICATE_AGENT_TYPE",
            Self::DuplicateAgent { .. } => "DUPLICATE_AGENT",
            Self::UnknownType { .. } => "UNKNOWN_AGENT_TYPE",
            Self::InvalidSchema { .. } => "INVALID_AGENT_SCHEMA",
            Self::InvalidConfig { .. } => "INVALID_AGENT_CONFIG",
            Self::InvalidConfiguration { .. } => "INVALID_AGENT_CONFIGURATION",
            Self::Factory { .. } => "AGENT_FACTORY_FAILED",
            Self::Broker(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Event(error) => error.code(),
            Self::Impaired { .. } => "AGENT_HOST_IMPAIRED",
            Self::ShutdownTimeout { .. } => "SHUTDOWN_TIMEOUT",
        }
    }
}

/// How many tasks an error names.
const NAMED: usize = 10;

/// The first tasks, and how many there are beside them.
fn list(tasks: &[TaskId]) -> String {
    let named: Vec<_> = tasks.iter().take(NAMED).map(TaskId::as_str).collect();
    match tasks.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        others => format!("{} and {others} others", named.join(", ")),
    }
}
