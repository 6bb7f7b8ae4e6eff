//! Calls that do not run.

use serde::{Deserialize, Serialize};

/// An event: a call did not run, or was no output. The results of the other calls are recorded as
/// the ends of their tasks and children.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Id of the call in the response.
    pub(crate) call_id: String,
    /// Name of the tool, as the model wrote it.
    pub(crate) tool: String,
    /// The text that the model got instead of a result.
    pub(crate) reason: String,
}
