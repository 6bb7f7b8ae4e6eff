//! The addressees of tasks.

use std::sync::Arc;

use aios_core::{
    agent::{InvalidName, Name},
    broker::InvalidAddress,
};
use serde::{Deserialize, Serialize};

use crate::agent::mailbox_of;

/// The target of a task: any agent of a type, `"backend"`, or one agent, `("backend", "backend-1")`.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// async fn both(context: WorkflowContext, log: String) -> Result<(), WorkflowError> {
///     // Whichever agent of the type is free takes the task.
///     context.task::<()>("backup", &log).await?;
///     // This agent alone takes the task, even if it is not running yet.
///     context.task::<()>(("backup", "rack-7"), &log).await
/// }
/// # let _ = both;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Not checked yet: a call with an invalid type fails when it is polled.
    pub(super) agent_type: String,
    /// `None` for any agent of the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) agent_id: Option<String>,
}

/// Any agent of a type.
macro_rules! from_type {
    ($($text:ty),+) => {$(
        impl From<$text> for Target {
            fn from(agent_type: $text) -> Self {
                let agent_type: &str = agent_type.as_ref();
                Self { agent_type: agent_type.to_owned(), agent_id: None }
            }
        }
    )+};
}

from_type!(&str, &&str, String, &String, Box<str>, Arc<str>, &Arc<str>, std::borrow::Cow<'_, str>);

/// One agent of a type, by id.
impl<T: AsRef<str>, I: Into<String>> From<(T, I)> for Target {
    fn from((agent_type, agent_id): (T, I)) -> Self {
        Self::agent(agent_type, agent_id)
    }
}

impl Target {
    /// One agent of a type, by id.
    #[must_use]
    pub fn agent(agent_type: impl AsRef<str>, agent_id: impl Into<String>) -> Self {
        Self { agent_type: agent_type.as_ref().to_owned(), agent_id: Some(agent_id.into()) }
    }

    /// The target, if its agent type is a valid name and its agent can have a mailbox.
    pub(crate) fn checked(self) -> Result<Self, InvalidTarget> {
        let agent_type = Name::new(&self.agent_type).map_err(InvalidTarget::Type)?;
        let mailbox = self.agent_id.as_deref().map(|id| mailbox_of(&agent_type, id)).transpose();
        mailbox.map_err(|invalid| InvalidTarget::Agent(invalid.0))?;
        Ok(self)
    }
}

/// The part of a target that is invalid.
#[derive(Clone, Debug)]
pub(crate) enum InvalidTarget {
    /// The agent type is not a valid name.
    Type(InvalidName),
    /// The id of the agent can't be part of a mailbox name.
    Agent(InvalidAddress),
}
