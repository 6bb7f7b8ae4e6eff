use std::borrow::Cow;

use aios_agents::RuntimeError;
use aios_core::{
    Chain,
    broker::BrokerError,
    catalog::codes::{self, Retry},
    event::EventError,
    store::StoreError,
};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::status;

/// Why a request fails. It becomes the body `{"error": …, "meta": …}` in
/// [`finish`](super::finish), which knows the id of the request.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    /// For the client.
    pub(crate) message: String,
    /// For the client's program.
    pub(crate) details: Value,
    /// For the log.
    pub(crate) cause: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let (status, message) = (status::of(code), message.into());
        Self { status, code: code.into(), message, details: json!({}), cause: None }
    }

    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    pub(crate) fn with_cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
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

    pub(crate) fn panicked() -> Self {
        Self::new("INTERNAL_ERROR", meaning("INTERNAL_ERROR"))
    }

    pub(crate) fn missing(code: &'static str, kind: &str, id: &str) -> Self {
        let message = format!("there is no {kind} {id}");
        Self::new(code, message).with_details(json!({ "id": id }))
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && codes::find(&self.code).is_some_and(|code| code.retry != Retry::No)
    }
}

fn meaning(code: &str) -> &'static str {
    codes::find(code).map_or("the request failed", |code| code.meaning)
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let details = match &error {
            RuntimeError::UnknownWorkflow { workflow, registered } => {
                json!({ "workflow": workflow, "registered": registered })
            }
            RuntimeError::UnknownRun { run_id }
            | RuntimeError::RunExists { run_id }
            | RuntimeError::RunCancelling { run_id } => json!({ "run_id": run_id }),
            RuntimeError::RunEnded { run_id, status } => {
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

/// The status and headers; [`finish`](super::finish) writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if self.is_retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
