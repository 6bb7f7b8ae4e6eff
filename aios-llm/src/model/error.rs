//! Errors of models.
//!
//! An error crosses the process boundary as the failure of a task, so everything that the workflow
//! decides by is data: the kind as the code, and whether another request may succeed, when, and
//! what the failed one costs, as details. The cause (`source`) stays in the process that made the
//! request, where its text becomes part of the message.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use aios_core::{agent::TaskError, catalog::codes, failure::Failure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Usage;

/// The kind of a [`ModelError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelErrorKind {
    /// The provider accepts no more requests for now (status 429). Wait for
    /// [`retry_after`](ModelError::retry_after); a [`RateLimit`](crate::middleware::RateLimit) avoids it.
    /// Not retryable if the account has nothing left to pay with.
    RateLimited,
    /// The provider is overloaded (status 503 or 529). Try again later, or let a
    /// [`Fallback`](crate::middleware::Fallback) ask another model.
    Overloaded,
    /// The provider did not answer in time. It may bill the request nevertheless.
    Timeout,
    /// The provider cannot be reached, or the connection was lost. It may bill the request nevertheless.
    Unavailable,
    /// The key is missing or invalid (status 401 or 403), or does not allow this model.
    Unauthorized,
    /// The provider rejects the request (other status 4xx), for example an option that the model does
    /// not know. The message is the provider's.
    InvalidRequest,
    /// The request is longer than the context of the model. Shorten the conversation, for example with
    /// [`Compaction`](crate::Compaction), or use a model with a longer context.
    ContextOverflow,
    /// The model or the provider refuses to answer.
    Refused,
    /// The response is malformed or cut off.
    InvalidResponse,
    /// Requests to real providers are forbidden in this process; see
    /// [`forbid_real_requests`](super::forbid_real_requests).
    RequestForbidden,
    /// A model for tests received a request that it has no response for. Extend its script.
    UnexpectedRequest,
    /// The provider failed several times in a row, and no request is made for now.
    CircuitOpen,
    /// Another error of the provider.
    Backend,
}

impl ModelErrorKind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::RateLimited,
        Self::Overloaded,
        Self::Timeout,
        Self::Unavailable,
        Self::Unauthorized,
        Self::InvalidRequest,
        Self::ContextOverflow,
        Self::Refused,
        Self::InvalidResponse,
        Self::RequestForbidden,
        Self::UnexpectedRequest,
        Self::CircuitOpen,
        Self::Backend,
    ];

    /// Stable name of the kind.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::RateLimited => codes::MODEL_RATE_LIMITED,
            Self::Overloaded => codes::MODEL_OVERLOADED,
            Self::Timeout => codes::MODEL_TIMEOUT,
            Self::Unavailable => codes::MODEL_UNAVAILABLE,
            Self::Unauthorized => codes::MODEL_UNAUTHORIZED,
            Self::InvalidRequest => codes::MODEL_INVALID_REQUEST,
            Self::ContextOverflow => codes::MODEL_CONTEXT_OVERFLOW,
            Self::Refused => codes::MODEL_REFUSED,
            Self::InvalidResponse => codes::MODEL_INVALID_RESPONSE,
            Self::RequestForbidden => codes::MODEL_REQUEST_FORBIDDEN,
            Self::UnexpectedRequest => codes::MODEL_UNEXPECTED_REQUEST,
            Self::CircuitOpen => codes::MODEL_CIRCUIT_OPEN,
            Self::Backend => codes::MODEL_BACKEND,
        }
    }

    /// Whether an error of this kind is retryable unless its creator knows better.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::Timeout
                | Self::Unavailable
                | Self::InvalidResponse
                | Self::CircuitOpen
        )
    }
}

impl ModelErrorKind {
    /// Whether a request was made that has an error of this kind, unless its creator knows better.
    fn is_requested(self) -> bool {
        !matches!(self, Self::RequestForbidden | Self::CircuitOpen)
    }
}

/// Why a request to a model failed.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::model::{ModelError, ModelErrorKind};
///
/// let error = ModelError::new(ModelErrorKind::RateLimited, "60 requests a minute")
///     .with_retry_after(Duration::from_secs(20));
/// assert_eq!(error.code(), "MODEL_RATE_LIMITED");
/// assert!(error.is_retryable());
/// // What a journal records says the same.
/// assert_eq!(ModelError::from_failure(&error.to_failure()).unwrap().kind(), error.kind());
/// ```
#[derive(Clone, Debug)]
pub struct ModelError {
    /// Decides the code.
    kind: ModelErrorKind,
    /// For people. Never contains the request or the key.
    message: String,
    /// Decided by the adapter, because some providers say it.
    retryable: bool,
    /// Whether a request was made, which counts.
    requested: bool,
    /// The delay that the provider asks for.
    retry_after: Option<Duration>,
    /// `None` if the provider reports none.
    usage: Option<Usage>,
    /// The cause within this process.
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The details of a recorded failure.
#[derive(Serialize, Deserialize)]
struct Details {
    /// See [`ModelError::is_retryable`].
    retryable: bool,
    /// In milliseconds, because details are JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The opposite of [`ModelError::is_requested`]; `None` if the kind says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_unsent: Option<bool>,
    /// See [`ModelError::usage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

impl ModelError {
    /// Creates an error. The kind decides whether it is retryable.
    #[must_use]
    pub fn new(kind: ModelErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retryable: kind.is_retryable(),
            requested: kind.is_requested(),
            retry_after: None,
            usage: None,
            source: None,
        }
    }

    /// Sets whether another request may succeed.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Sets whether a request was made. One that was not made uses up neither an attempt nor a budget.
    #[must_use]
    pub fn with_requested(mut self, requested: bool) -> Self {
        self.requested = requested;
        self
    }

    /// Sets how long to wait before the next request.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Sets how long to wait before the next request, or that nothing says so.
    pub(crate) fn with_delay(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }

    /// Sets the tokens that the provider bills although the request failed.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Sets the tokens that were reported before the error, unless it has its own.
    pub(crate) fn or_usage(self, reported: Usage) -> Self {
        let is_added = self.usage.is_none() && reported != Usage::default();
        if is_added { self.with_usage(reported) } else { self }
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> ModelErrorKind {
        self.kind
    }

    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Whether another request may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether a request was made. If not, for example because the circuit is open, it uses up neither an
    /// attempt nor a budget.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested
    }

    /// How long the provider asks to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The tokens that the provider bills although the request failed.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The error that a recorded failure describes; `None` if no model raised it.
    #[must_use]
    pub fn from_failure(failure: &Failure) -> Option<Self> {
        let kind = ModelErrorKind::ALL.into_iter().find(|kind| kind.code() == failure.code)?;
        // A failure of an older version, or of another program, may lack them.
        let details = failure.details.decode::<Details>().ok();
        let details = details.unwrap_or_else(|| Details {
            retryable: kind.is_retryable(),
            retry_after_ms: None,
            is_unsent: None,
            usage: None,
        });
        Some(Self {
            kind,
            message: failure.message.clone(),
            retryable: details.retryable,
            requested: details.is_unsent.map_or_else(|| kind.is_requested(), |unsent| !unsent),
            retry_after: details.retry_after_ms.map(Duration::from_millis),
            usage: details.usage,
            source: None,
        })
    }

    /// The error as data that a journal can hold.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let details = Details {
            retryable: self.retryable,
            retry_after_ms: self
                .retry_after
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            is_unsent: (self.requested != self.kind.is_requested()).then_some(!self.requested),
            usage: self.usage,
        };
        Failure::from_error(self.code(), self).with_details(json!(details))
    }

    /// The error as the outcome of a task.
    #[must_use]
    pub fn to_task_error(&self) -> TaskError {
        TaskError::retryable(self.to_failure()).with_retryable(self.retryable)
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for ModelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| -> &(dyn Error + 'static) { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_survive_a_round_trip_through_a_failure() {
        for kind in ModelErrorKind::ALL {
            let error = ModelError::new(kind, "busy")
                .with_retry_after(Duration::from_millis(1500))
                .with_usage(Usage::new(3, 4));
            for requested in [true, false] {
                let error = error.clone().with_requested(requested);
                let read = ModelError::from_failure(&error.to_failure()).unwrap();
                assert_eq!(read.is_requested(), requested);
            }
            let read = ModelError::from_failure(&error.to_failure()).unwrap();
            assert_eq!(read.kind(), kind);
            assert_eq!(read.is_retryable(), kind.is_retryable());
            assert_eq!(read.retry_after(), Some(Duration::from_millis(1500)));
            assert_eq!(read.usage(), Some(Usage::new(3, 4)));
        }
        assert!(ModelError::from_failure(&Failure::new("TASK_TIMEOUT", "")).is_none());
    }
}
