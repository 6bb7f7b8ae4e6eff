//! Results of calls that no task of a tool shows.

use serde::{Deserialize, Serialize};

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
