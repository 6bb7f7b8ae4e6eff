//! Errors of the client. An error of the service keeps its code, so that a program can decide in
//! the same way whether it uses a runtime or a client.

use std::time::Duration;

use aios_core::{catalog::codes, event::EventError, failure::Failure};
use serde_json::Value;

/// Why a request to a service failed.
///
/// | variant | retryable | may have taken effect |
/// |---|---|---|
/// | `Service` with 429, 502 or 504, or with 409 `REQUEST_IN_PROGRESS` | yes | not after 429 |
/// | `Service` with 503 | unless the catalogue says no for its code | yes |
/// | other `Service` | no | no, unless the status is 500 |
/// | `Unreachable` | yes | unless `is_unsent` |
/// | `Timeout` | yes | yes |
/// | `InvalidResponse` | no | yes |
/// | `InvalidConfiguration`, `InvalidArgument` | no | no: nothing was sent |
/// | `Data` | no | no if an argument cannot be serialised |
///
/// An error is returned after the last attempt, so "retryable" tells that a later call may succeed.
///
/// # Examples
///
/// ```no_run
/// use aios_service::client::{Client, ClientError};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// match client.start("welcome", "Ada").id("welcome-ada").await {
///     Ok(run) => println!("started {}", run.id()),
///     Err(error) if error.code() == "RUN_EXISTS" => println!("started before with another input"),
///     Err(ClientError::Service { status: 403, message, .. }) => println!("not allowed: {message}"),
///     Err(error) if error.is_retryable() => println!("later: {error}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The service refused the request or failed. Decide by the code; the request id finds the request in
    /// the log of the service.
    #[error("{code}: {message}{}", request(.request_id))]
    Service {
        /// The HTTP status.
        status: u16,
        /// Stable name of the kind of error; see [`aios_core::catalog::codes`].
        code: String,
        /// A human-readable message.
        message: String,
        /// Details for programs.
        details: Value,
        /// Id of the request, as in the log of the service.
        request_id: Option<String>,
        /// After which time the same request may succeed, if the service says so.
        retry_after: Option<Duration>,
    },
    /// The service cannot be reached, or the connection broke, in as many attempts as the retry policy
    /// allows. Unless it was not sent, the request may have taken effect.
    #[error("the service cannot be reached: {reason}")]
    Unreachable {
        /// The reason.
        reason: String,
        /// Whether the request was not sent, so that it has no effect.
        is_unsent: bool,
    },
    /// The service did not answer in time. The request may have taken effect.
    #[error("the service did not answer within {timeout:?}")]
    Timeout {
        /// The time that it had.
        timeout: Duration,
    },
    /// The answer is not one of this API. Check whether the URL ends with the path at which the API is
    /// mounted, such as `/api/v1`, and whether a proxy answers instead.
    #[error("unexpected response of the service{}: {reason}", request(.request_id))]
    InvalidResponse {
        /// The fault.
        reason: String,
        /// Id of the request, as in the log of the service.
        request_id: Option<String>,
    },
    /// The URL, a credential or an option of the client is invalid.
    #[error("the configuration of the client is invalid: {reason}")]
    InvalidConfiguration {
        /// The fault.
        reason: String,
    },
    /// An argument cannot be sent.
    #[error("{name} cannot be sent: {reason}")]
    InvalidArgument {
        /// The argument.
        name: &'static str,
        /// The fault.
        reason: String,
    },
    /// A value cannot be converted to or from JSON.
    #[error(transparent)]
    Data(#[from] EventError),
}

/// A fault of a request that the service refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Path of the value, or of the field that is missing or unknown.
    pub path: String,
    /// The reason why it is a fault.
    pub message: String,
}

/// The id of the request in a message.
fn request(id: &Option<String>) -> String {
    id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default()
}

impl ClientError {
    /// Stable name of the kind of error; see [`aios_core::catalog::codes`].
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Service { code, .. } => code,
            Self::Unreachable { .. } => codes::SERVICE_UNREACHABLE,
            Self::Timeout { .. } => codes::REQUEST_TIMEOUT,
            Self::InvalidResponse { .. } => codes::INVALID_RESPONSE,
            Self::InvalidConfiguration { .. } => codes::INVALID_CLIENT_CONFIGURATION,
            Self::InvalidArgument { .. } => codes::INVALID_REQUEST,
            Self::Data(error) => error.code(),
        }
    }

    /// Whether the same request may succeed later.
    ///
    /// A 409 is retryable only while an attempt with the same idempotency key is being handled. A
    /// 503 with a code of the catalogue follows the catalogue; one without, for example of a proxy,
    /// is retryable.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Service { status, code, .. } => match status {
                429 | 502 | 504 => true,
                // The attempt before this one is still being handled.
                409 => code == codes::REQUEST_IN_PROGRESS,
                503 => codes::find(code).is_none_or(|code| code.retry != codes::Retry::No),
                _ => false,
            },
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// Id of the request, as in the log of the service, if the service answered.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Service { request_id, .. } | Self::InvalidResponse { request_id, .. } => {
                request_id.as_deref()
            }
            _ => None,
        }
    }

    /// The faults of the body, if the service refused the request for them: the path of each, as in
    /// `$.retry.max_attempts`, and what is wrong with it. At most 100.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let faults = match self {
            Self::Service { details, .. } => details.get("faults").and_then(Value::as_array),
            _ => None,
        };
        let text = |fault: &Value, name: &str| fault.get(name)?.as_str().map(ToOwned::to_owned);
        let fault = |it| Some(Fault { path: text(it, "path")?, message: text(it, "message")? });
        faults.into_iter().flatten().filter_map(fault).collect()
    }

    /// Whether the request certainly had no effect.
    pub(super) fn is_without_effect(&self) -> bool {
        match self {
            Self::Service { status, .. } => *status == 429,
            Self::Unreachable { is_unsent, .. } => *is_unsent,
            _ => false,
        }
    }

    /// How long an earlier attempt with the same key may still be handled, as far as the service knows.
    pub(super) fn open_for(&self) -> Option<Duration> {
        match self {
            Self::Service { code, details, .. } if code == codes::REQUEST_IN_PROGRESS => {
                details.get("open_for_seconds")?.as_u64().map(Duration::from_secs)
            }
            _ => None,
        }
    }

    /// How long the service asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Service { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// It failed.
    #[error("run {run_id} failed: {failure}")]
    Failed {
        /// The run.
        run_id: String,
        /// The failure.
        failure: Failure,
    },
    /// It was cancelled.
    #[error("run {run_id} was cancelled: {failure}")]
    Cancelled {
        /// The run.
        run_id: String,
        /// Why.
        failure: Failure,
    },
    /// The run cannot progress until something changes, such as the code of the service. The failure says
    /// what.
    #[error("run {run_id} is blocked: {failure}")]
    Blocked {
        /// The run.
        run_id: String,
        /// Why it is blocked.
        failure: Failure,
    },
    /// The result is of another type.
    #[error("the result of run {run_id} is of another type")]
    InvalidResult {
        /// The run.
        run_id: String,
        /// The cause.
        source: EventError,
    },
    /// The result could not be fetched.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ResultError {
    /// Stable name of the kind of error; see [`aios_core::catalog::codes`]. If the run failed or was
    /// cancelled, it is the code of the failure.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { failure, .. } | Self::Cancelled { failure, .. } => &failure.code,
            Self::Blocked { .. } => codes::RUN_BLOCKED,
            Self::InvalidResult { .. } => codes::INVALID_RESULT,
            Self::Client(error) => error.code(),
        }
    }
}
