//! Decisions about calls, as data that is sent in signals and shown in the progress of a
//! run. The JSON form is a contract with clients, and only grows.

use aios_core::event::{EventError, Payload};
use serde::{Deserialize, Serialize};

/// Whether the calls of a tool need approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Calls run at once.
    #[default]
    NotRequired,
    /// Each call waits for a [`Decision`], which is sent as a signal.
    Required,
}

/// The decision about one call that needs approval. Send it with
/// [`RunHandle::signal`](aios_agents::RunHandle::signal) under the name in
/// [`PendingDecision::signal`].
///
/// # Examples
///
/// In JSON, as the HTTP API and clients in other languages send it:
///
/// ```
/// use aios_llm::tool::Decision;
/// use serde_json::json;
///
/// # fn main() -> Result<(), serde_json::Error> {
/// assert_eq!(serde_json::to_value(Decision::Approve)?, json!({"decision": "approve"}));
/// let edit: Decision =
///     serde_json::from_value(json!({"decision": "edit", "arguments": {"amount": 5}}))?;
/// let Decision::Edit { arguments } = edit else { unreachable!() };
/// assert_eq!(arguments.as_str(), r#"{"amount":5}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case", try_from = "DecisionForm")]
pub enum Decision {
    /// The call runs.
    Approve,
    /// The call does not run. The model gets the reason.
    Reject {
        /// The reason, for the model.
        reason: String,
    },
    /// The call runs with other arguments. The model learns of them with the result.
    Edit {
        /// The arguments, as JSON.
        arguments: Payload,
    },
}

/// A decision as it is read: JSON within a tagged enum would lose the precision of its numbers.
#[derive(Deserialize)]
struct DecisionForm {
    /// The kind of decision.
    decision: DecisionKind,
    /// The reason of a rejection.
    reason: Option<String>,
    /// The arguments of an edit.
    arguments: Option<Payload>,
}

/// The kind of a decision.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DecisionKind {
    Approve,
    Reject,
    Edit,
}

impl TryFrom<DecisionForm> for Decision {
    type Error = &'static str;

    fn try_from(form: DecisionForm) -> Result<Self, Self::Error> {
        Ok(match form.decision {
            DecisionKind::Approve => Self::Approve,
            DecisionKind::Reject => {
                Self::Reject { reason: form.reason.ok_or("missing field `reason`")? }
            }
            DecisionKind::Edit => {
                Self::Edit { arguments: form.arguments.ok_or("missing field `arguments`")? }
            }
        })
    }
}

impl Decision {
    /// The call runs with these arguments.
    ///
    /// # Errors
    ///
    /// [`EventError`] if the arguments can't be encoded as JSON.
    pub fn edit<T: Serialize + ?Sized>(arguments: &T) -> Result<Self, EventError> {
        Ok(Self::Edit { arguments: Payload::encode(arguments)? })
    }
}

/// The decision of an operator about a `write` call whose outcome is unknown. Send it with
/// [`RunHandle::signal`](aios_agents::RunHandle::signal) under the name in
/// [`PendingDecision::signal`].
///
/// # Examples
///
/// ```
/// use aios_llm::tool::Resolution;
/// use serde_json::json;
///
/// # fn main() -> Result<(), serde_json::Error> {
/// // The mail is in the outbox: the call happened.
/// let done = Resolution::Done { result: "sent".to_owned() };
/// assert_eq!(serde_json::to_value(done)?, json!({"resolution": "done", "result": "sent"}));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "resolution", rename_all = "snake_case")]
pub enum Resolution {
    /// The call has happened, with this result for the model.
    Done {
        /// The result.
        result: String,
    },
    /// The call has not happened. It runs as a new one.
    Repeat,
    /// The call failed. The model gets the reason.
    Fail {
        /// The reason, for the model.
        reason: String,
    },
}

/// Why the outcome of a `write` call is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InDoubt {
    /// Code of the failure.
    pub code: String,
    /// Human-readable message of the failure.
    pub message: String,
}

/// A decision that a run waits for. The progress of a waiting run has the list of them, see
/// [`pending_decisions`](crate::pending_decisions).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PendingDecision {
    /// Name of the signal that carries the decision.
    pub signal: String,
    /// The tool.
    pub tool: String,
    /// The exact arguments of the call, as JSON.
    pub arguments: Payload,
    /// Present if the outcome of the call is unknown: the signal has to carry a [`Resolution`].
    /// Otherwise it has to carry a [`Decision`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<InDoubt>,
    /// Why the last signal was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
