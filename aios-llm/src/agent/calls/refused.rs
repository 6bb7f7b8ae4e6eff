//! Events about calls: those that no task of a tool shows.

use aios_core::event::Payload;
use serde::{Deserialize, Serialize};

use crate::model::ToolCall;

/// An event: a call did not run, or was no output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Id of the call in the response.
    pub(crate) call_id: String,
    /// Name of the tool, as the model wrote it.
    pub(crate) tool: String,
    /// The text that the model got instead of a result.
    pub(crate) reason: String,
}

/// An event: a person has changed the arguments of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Edited {
    /// Id of the call in the response.
    pub(crate) call_id: String,
    /// Name of the tool.
    tool: String,
    /// The arguments with which the call runs.
    arguments: Payload,
}

impl Edited {
    /// The call runs with these arguments.
    pub(in crate::agent) fn new(call: &ToolCall, arguments: Payload) -> Self {
        Self { call_id: call.id.clone(), tool: call.name.clone(), arguments }
    }

    /// A result of the call as the model gets it: the call was not made as the model wrote it.
    pub(crate) fn told(&self, result: &str) -> String {
        let arguments = self.arguments.as_str();
        format!(
            "A person has changed the arguments of this call to {arguments}. Its result:\n{result}"
        )
    }
}

/// An event: the result of a child run or a handover, or what a person has said about a call whose
/// outcome was unknown. Results of functions are recorded as the ends of their tasks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// Id of the call in the response.
    pub(crate) call_id: String,
    /// Name of the tool.
    pub(crate) tool: String,
    /// The text that the model gets.
    pub(crate) result: String,
    /// Whether the call failed.
    pub(crate) is_error: bool,
}
