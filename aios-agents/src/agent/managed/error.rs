//! Errors of changing agents that are resources. Those of the store may be retryable; all others
//! name something that the caller has to change.

use aios_core::{
    agent::InvalidName, broker::InvalidAddress, catalog::codes, event::EventError,
    store::StoreError,
};

use crate::workflow::engine::is_unreadable;

/// Why an agent cannot be created or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagedAgentError {
    /// There is no such agent.
    #[error("there is no agent {agent_id}")]
    Unknown {
        /// The id.
        agent_id: String,
    },
    /// An agent with this id exists.
    #[error("agent {agent_id} exists; choose another name or id, or replace it")]
    Exists {
        /// The id.
        agent_id: String,
    },
    /// The agent was deleted.
    #[error("agent {agent_id} was deleted")]
    Deleted {
        /// The id.
        agent_id: String,
    },
    /// The code of a process registers the agent.
    #[error(
        "agent {agent_id} is registered by the code of a process, and can only be changed there"
    )]
    InCode {
        /// The id.
        agent_id: String,
    },
    /// The agent does not have the expected version.
    #[error("agent {agent_id} has version {version}, which is not an expected one")]
    Changed {
        /// The id.
        agent_id: String,
        /// The version that it has.
        version: u64,
    },
    /// The config does not match the JSON Schema of the type.
    #[error("invalid config for agents of type {agent_type}: {}", list(.faults))]
    InvalidConfig {
        /// The type.
        agent_type: String,
        /// All faults.
        faults: Vec<ConfigFault>,
    },
    /// The name of an agent is invalid.
    #[error(
        "the name of an agent has 1 to 255 bytes and no control characters, this one has {bytes}"
    )]
    InvalidName {
        /// The length in bytes.
        bytes: usize,
    },
    /// The name of an agent type is invalid.
    #[error(transparent)]
    InvalidType(#[from] InvalidName),
    /// The id of an agent can't be part of a mailbox's name.
    #[error("the id of an agent is invalid; it can't be `.` or `..` either")]
    InvalidId(#[from] InvalidAddress),
    /// The JSON Schema of a type can't be compiled.
    #[error("the schema of the config of agents of type {agent_type} is invalid: {reason}")]
    InvalidSchema {
        /// The type.
        agent_type: String,
        /// The reason.
        reason: String,
    },
    /// An event could not be encoded or read.
    #[error("failed to encode or read an event of an agent")]
    Event(#[from] EventError),
    /// The store failed.
    #[error("failed to read or write agents")]
    Store(#[from] StoreError),
}

impl ManagedAgentError {
    /// Whether the events of an agent can't be read, which concerns this agent only.
    pub(super) fn is_unreadable(&self) -> bool {
        match self {
            Self::Event(_) => true,
            Self::Store(error) => is_unreadable(error),
            _ => false,
        }
    }

    /// Returns a stable code for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => codes::AGENT_NOT_FOUND,
            Self::Exists { .. } => codes::AGENT_EXISTS,
            Self::Deleted { .. } => codes::AGENT_DELETED,
            Self::InCode { .. } => codes::AGENT_NOT_MANAGED,
            Self::Changed { .. } => codes::PRECONDITION_FAILED,
            Self::InvalidConfig { .. } | Self::InvalidName { .. } => codes::INVALID_AGENT_CONFIG,
            Self::InvalidType(_) => codes::INVALID_AGENT_TYPE,
            Self::InvalidId(_) => codes::INVALID_AGENT_ID,
            Self::InvalidSchema { .. } => codes::INVALID_AGENT_SCHEMA,
            Self::Event(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }
}

/// A fault of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigFault {
    /// JSON pointer of the value.
    pub path: String,
    /// The reason why it is a fault.
    pub message: String,
}

/// The first ten faults, as text.
fn list(faults: &[ConfigFault]) -> String {
    let texts = faults.iter().take(10).map(|fault| format!("{} {}", fault.path, fault.message));
    texts.collect::<Vec<_>>().join("; ")
}
