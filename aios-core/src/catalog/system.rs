//! Engines, stores, projections and output streams: `system.<entity>.<action>`.

use std::sync::Arc;

use derive_new::new;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Payload, Timestamp},
    failure::Failure,
};

events! {
    "system";
    /// an agent was not seen for three of its announcement intervals
    HEARTBEAT_MISSED = "heartbeat_missed" of "agent" (HeartbeatMissed);
    /// the store was created; the id of the event is the identity of the store
    STORE_CREATED = "created" of "store";
    /// an engine used this slot for the first time
    ENGINE_SLOT_OPENED = "opened" of "engine_slot" (EngineSlotOpened);
    /// a projection ran for the first time
    PROJECTION_REGISTERED = "registered" of "projection" (ProjectionRegistered);
    /// a projection could not apply an event, and skipped it
    PROJECTION_FAILED = "projection_failed" of "projection" (ProjectionDeadLetter);
    /// it was requested to apply a dead letter of a projection again
    PROJECTION_REDRIVE_REQUESTED = "projection_redrive_requested" of "projection" (DeadLetterPosition);
    /// a dead letter of a projection was applied
    PROJECTION_REDRIVEN = "projection_redriven" of "projection" (DeadLetterPosition);
    /// items were written to an output stream of a run
    OUTPUT_APPENDED = "output_appended" of "run" (OutputAppended);
    /// an output stream of a run was ended
    OUTPUT_ENDED = "output_ended" of "run";
    /// the HTTP API is being called to change something; the call has had no effect yet
    API_REQUESTED = "requested" of "api" (ApiCalled);
    /// the HTTP API was called to change something
    API_CALLED = "called" of "api" (ApiCalled);
    /// a process began to handle a request to the HTTP API with an `Idempotency-Key`
    REQUEST_RECEIVED = "received" of "request" (RequestReceived);
    /// the request was answered; the answer is that of every repetition
    REQUEST_ANSWERED = "answered" of "request" (RequestAnswered);
    /// the request had no final answer, so it may be repeated
    REQUEST_ABANDONED = "abandoned" of "request";
    /// the request was refused for its content and had no effect, so its key is free for another one
    REQUEST_REFUSED = "refused" of "request";
}

/// An agent was not seen for three of its announcement intervals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct HeartbeatMissed {
    /// The agent.
    pub agent_id: String,
    /// Its type.
    pub agent_type: String,
    /// When it was seen last.
    pub last_seen_at: Option<Timestamp>,
}

/// An engine used a slot for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct EngineSlotOpened {
    /// Number of the slot.
    pub slot: u16,
}

/// A projection ran for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct ProjectionRegistered {
    /// Name of the projection.
    pub projection: String,
}

/// An event that a projection could not apply, and skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct ProjectionDeadLetter {
    /// Its position in the log.
    pub position: u64,
    /// Its id.
    #[new(default)]
    pub event_id: String,
    /// Its type.
    #[new(default)]
    pub event_type: String,
    /// Why it could not be applied.
    pub failure: Failure,
    /// The number of attempts.
    pub attempts: u32,
    /// Position of the request to apply it again that failed; 0 if it failed without one. Missing in what
    /// earlier versions wrote.
    #[new(default)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
}

/// Names a dead letter of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct DeadLetterPosition {
    /// Position of the event in the log.
    pub position: u64,
}

/// Items that were written to an output stream of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct OutputAppended {
    /// The writer: a task, a step, or the code of the workflow.
    pub writer: Arc<str>,
    /// The attempt of the writer. Later attempts have greater ids.
    pub attempt: Arc<str>,
    /// Number of the first item among those of the attempt, from 0.
    pub first: u64,
    /// The items.
    pub items: Vec<Payload>,
}

/// A call of the HTTP API that may have changed something, and its outcome. The query, the body and
/// the credentials of the request are not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct ApiCalled {
    /// The caller.
    pub subject: String,
    /// The authority that vouches for the caller: `api_key`, `anonymous`, or `jwt:` and the issuer of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub scope: Option<String>,
    /// Method of the request.
    pub method: String,
    /// The route, with its parameters by name, for example `/api/v1/runs/{run_id}/actions/cancel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub route: Option<String>,
    /// Path of the request.
    pub path: String,
    /// IP address of the other end of the connection: the caller, or a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub peer: Option<String>,
    /// Addresses that a proxy, or the caller, reports in `X-Forwarded-For`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub forwarded_for: Option<String>,
    /// Program of the caller, as it reports itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub user_agent: Option<String>,
    /// Id of the request, which the log lines of the process have too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub request_id: Option<String>,
    /// Status of the answer. `None` if the client or the time limit ended the request before, so that
    /// its effect is not known, and before there is an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub status: Option<u16>,
    /// Code of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[new(default)]
    pub code: Option<String>,
}

/// A process began to handle a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct RequestReceived {
    /// SHA-256 of method, path and body, in hexadecimal. A request with another one is not the same.
    pub fingerprint: String,
    /// Until when the process may work on the request. Then another one may.
    pub open_until: Timestamp,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, new)]
#[non_exhaustive]
pub struct RequestAnswered {
    /// The status.
    pub status: u16,
    /// The header `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The header `etag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The body of a successful answer.
    #[serde(default)]
    pub body: Payload,
    /// The error of another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}
