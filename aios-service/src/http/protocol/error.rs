//! Errors of the API, and the mapping of the errors of other crates.
//!
//! An error has three texts. The **message** is for the client. The **details** are for its
//! program. The **cause** is for the log and is never sent. An error whose status is 5xx shows the
//! client only the meaning of its code, because its own text may name servers, files or queries; an
//! error of the client is shown with all its causes.
//!
//! The status follows from the code alone ([`status::of`]), so the same failure has the same status
//! on every route.

use std::{borrow::Cow, time::Duration};

use aios_agents::{
    RuntimeError,
    agent::{ConfigFault, ManagedAgentError},
};
use aios_core::{
    Chain,
    broker::BrokerError,
    catalog::codes::{self, Retry},
    event::{EventError, Timestamp},
    failure::Failure,
    store::StoreError,
};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::status;

/// Why a request fails. It becomes the body `{"error": …, "meta": …}` in
/// [`finish`](crate::http::layers::finish), which knows the id of the request.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// Follows from the code.
    pub(crate) status: StatusCode,
    /// Stable name of the kind of error.
    pub(crate) code: Cow<'static, str>,
    /// For the client.
    pub(crate) message: Box<str>,
    /// For the client's program.
    pub(crate) details: Value,
    /// For the log.
    pub(crate) cause: Option<Box<str>>,
    /// After how many seconds the same request may succeed.
    retry_after: Option<u32>,
    /// Why the token of the request is not enough (RFC 6750), for `WWW-Authenticate`.
    challenge: Option<Box<Challenge>>,
}

/// The fault of the token of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// It is not valid.
    InvalidToken,
    /// It lacks this permission.
    InsufficientScope(String),
}

impl Challenge {
    /// The value of `WWW-Authenticate`.
    fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::InvalidToken => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
            Self::InsufficientScope(scope) => {
                let text = format!(r#"Bearer error="insufficient_scope", scope="{scope}""#);
                HeaderValue::try_from(text).ok()
            }
        }
    }
}

impl ApiError {
    /// An error with a code of the catalogue.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let status = status::of(code);
        let message = message.into();
        Self::of(status, code.into(), message, json!({}))
    }

    /// An error without a cause and a challenge.
    fn of(status: StatusCode, code: Cow<'static, str>, message: String, details: Value) -> Self {
        let message = message.into();
        Self { status, code, message, details, cause: None, retry_after: None, challenge: None }
    }

    /// Sets the fault of the token.
    pub(crate) fn with_challenge(mut self, challenge: Challenge) -> Self {
        self.challenge = Some(Box::new(challenge));
        self
    }

    /// Sets the details for programs.
    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// Sets the text for the log.
    pub(crate) fn with_cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into().into());
        self
    }

    /// Internal causes are for the log; the client gets the kind of the error.
    fn from_error(code: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = Chain(error).to_string();
        match status::of(code).is_server_error() {
            false => Self::new(code, chain),
            true => Self::new(code, meaning(code)).with_cause(chain),
        }
    }

    /// An error of this program.
    pub(crate) fn panicked() -> Self {
        Self::new(codes::INTERNAL_ERROR, meaning(codes::INTERNAL_ERROR))
    }

    /// A resource does not exist. Its id is in the details.
    pub(crate) fn missing(code: &'static str, kind: &str, id: &str) -> Self {
        let message = format!("there is no {kind} {id}");
        Self::new(code, message).with_details(json!({ "id": id }))
    }

    /// The caller has to wait. `Retry-After` is rounded up to whole seconds; the details have the
    /// exact time.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        let message =
            format!("the caller sends too many requests; the next one is accepted in {wait:?}");
        let details = json!({ "retry_after_seconds": wait.as_secs_f64() });
        let error = Self::new(codes::RATE_LIMITED, message).with_details(details);
        Self { retry_after: Some(seconds), ..error }
    }

    /// Another request with the same `Idempotency-Key` is being handled. It usually ends soon. If its process
    /// was killed, a repetition is handled after the time in the details, which is also there as a number of
    /// seconds, rounded up, for clients with another clock.
    pub(crate) fn in_progress(until: Timestamp, now: Timestamp) -> Self {
        let message =
            "a request with the same `Idempotency-Key` is being handled; send it again later";
        let open_for = until.duration_since(now).as_millis().div_ceil(1000);
        let open_for = u64::try_from(open_for).unwrap_or(u64::MAX);
        let details = json!({ "open_until": until, "open_for_seconds": open_for });
        let error = Self::new(codes::REQUEST_IN_PROGRESS, message).with_details(details);
        Self { retry_after: Some(1), ..error }
    }

    /// The error with which a request was answered before.
    pub(crate) fn replayed(status: u16, code: String, message: String, details: Value) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::of(status, code.into(), message, details)
    }

    /// The part of the error that is sent to the client.
    pub(crate) fn failure(&self) -> Failure {
        Failure::new(self.code.clone(), self.message.clone()).with_details(self.details.clone())
    }

    /// Whether the same request may succeed later.
    fn is_retryable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && codes::find(&self.code).is_some_and(|code| code.retry != Retry::No)
    }
}

/// The meaning of a code in the catalogue.
fn meaning(code: &str) -> &'static str {
    codes::find(code).map_or("the request failed", |code| code.meaning)
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let details = match &error {
            RuntimeError::UnknownWorkflow { workflow, registered } => {
                json!({ "id": workflow, "registered": registered })
            }
            RuntimeError::UnknownRun { run_id } => json!({ "id": run_id }),
            RuntimeError::RunExists { run_id }
            | RuntimeError::NoFailedOperation { run_id }
            | RuntimeError::RunCancelling { run_id } => json!({ "run_id": run_id }),
            RuntimeError::RunEnded { run_id, status }
            | RuntimeError::RunNotFailed { run_id, status } => {
                json!({ "run_id": run_id, "status": status })
            }
            RuntimeError::UnknownOperation { run_id, operation } => {
                json!({ "run_id": run_id, "operation": operation })
            }
            _ => json!({}),
        };
        match error {
            RuntimeError::Store(error) => error.into(),
            RuntimeError::Broker(error) => error.into(),
            RuntimeError::Event(error) => error.into(),
            error => Self::from_error(error.code(), &error).with_details(details),
        }
    }
}

impl From<ManagedAgentError> for ApiError {
    fn from(error: ManagedAgentError) -> Self {
        let details = match &error {
            ManagedAgentError::Unknown { agent_id }
            | ManagedAgentError::Exists { agent_id }
            | ManagedAgentError::Deleted { agent_id }
            | ManagedAgentError::InCode { agent_id } => json!({ "id": agent_id }),
            ManagedAgentError::Changed { agent_id, version } => {
                json!({ "id": agent_id, "etag": format!("\"{version}\"") })
            }
            ManagedAgentError::InvalidConfig { faults, .. } => {
                let fault = |it: &ConfigFault| json!({ "path": it.path, "message": it.message });
                json!({ "faults": faults.iter().map(fault).collect::<Vec<_>>() })
            }
            _ => json!({}),
        };
        match error {
            ManagedAgentError::Store(error) => error.into(),
            ManagedAgentError::Event(error) => error.into(),
            error => Self::from_error(error.code(), &error).with_details(details),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::from_error(error.code(), &error)
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        Self::from_error(error.code(), &error)
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        Self::from_error(error.code(), &error)
    }
}

/// The status and headers; [`finish`](crate::http::layers::finish) writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after.or(self.is_retryable().then_some(1)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let bare =
            (self.status == StatusCode::UNAUTHORIZED).then(|| HeaderValue::from_static("Bearer"));
        if let Some(challenge) =
            self.challenge.as_ref().and_then(|challenge| challenge.header()).or(bare)
        {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}
