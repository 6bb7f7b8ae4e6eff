//! Calls that do not run.

use serde::{Deserialize, Serialize};

/// An event: a call did not run, or was no output. The results of the other calls are recorded as
/// the ends of their tasks and children.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) call_id: String,
    pub(crate) tool: String,
    pub(crate) reason: String,
}
