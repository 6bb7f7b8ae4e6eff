//! Agents that take over a conversation.
//!
//! A handover is a call of a tool that does not run. The conversation continues in the same run,
//! with the instructions and the tools of the other agent, which sees all messages so far,
//! including the reason in the arguments of that call.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    model::ToolSpec,
    schema::{Schema, schema_of},
};

/// Prefix of the names of tools that hand a conversation over.
const PREFIX: &str = "handover_to_";
/// Name of the tool that hands a conversation back.
pub(super) const HAND_BACK: &str = "hand_back";

/// Arguments of a handover.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(dead_code, reason = "the next agent reads them in the conversation")]
struct Arguments {
    /// Why, and what the next agent has to know.
    reason: String,
}

/// An event: another agent continues a conversation.
///
/// The name of an agent that takes over is that of the agent before it with its own, so the names tell
/// whether the conversation was handed on or back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedOver {
    /// Name of the agent that hands over.
    pub(super) from: String,
    /// Name of the agent that continues.
    pub(super) to: String,
}

impl HandedOver {
    /// Applies the handover to the agents that have taken over so far, see
    /// [`Prompt::handovers`](super::Prompt::handovers).
    pub(crate) fn apply(&self, handovers: &mut Vec<String>) {
        let taker = self.to.strip_prefix(&self.from).and_then(|name| name.strip_prefix('_'));
        match taker {
            Some(taker) => handovers.push(taker.to_owned()),
            None => drop(handovers.pop()),
        }
    }
}

/// Name of the tool that hands over to an agent.
pub(super) fn tool_of(agent: &str) -> String {
    format!("{PREFIX}{agent}")
}

/// A tool that hands a conversation over or back.
pub(super) fn spec(name: String, description: String) -> ToolSpec {
    ToolSpec { name, description, parameters: schema_of::<Arguments>() }
}

/// The schema of the arguments of these tools.
pub(super) fn schema() -> Result<Schema, String> {
    Schema::compile(schema_of::<Arguments>())
}
