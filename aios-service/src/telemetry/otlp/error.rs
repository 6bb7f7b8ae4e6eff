use std::time::Duration;

/// Longest pause that a collector may ask for.
pub(in crate::telemetry) const MAX_WANTED_PAUSE: Duration = Duration::from_secs(300);

/// Why a collector has not taken what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// The URL or a header of the collector is invalid.
    #[error("invalid collector: {reason}")]
    #[non_exhaustive]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// The collector does not answer.
    #[error("the collector at {url} does not answer: {reason}")]
    #[non_exhaustive]
    Unreachable {
        /// Its URL.
        url: String,
        /// The error of the connection.
        reason: String,
    },
    /// The collector answers that it does not take this.
    #[error("the collector at {url} answers with status {status}")]
    #[non_exhaustive]
    Refused {
        /// Its URL.
        url: String,
        /// The status.
        status: u16,
        /// How long it asks to wait until the next attempt.
        retry_after: Option<Duration>,
    },
    /// The answer has the status of a success, but is none of OTLP.
    #[error("{url} is no collector: its answer is none of OTLP over HTTP")]
    #[non_exhaustive]
    InvalidAnswer {
        /// The URL.
        url: String,
    },
}

impl CollectorError {
    /// Stable name of the error, in [`aios_core::catalog::codes`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfiguration { .. } => "INVALID_CLIENT_CONFIGURATION",
            Self::Unreachable { .. } => "COLLECTOR_UNREACHABLE",
            Self::Refused { .. } | Self::InvalidAnswer { .. } => "COLLECTOR_REFUSED",
        }
    }

    /// Whether the collector may take the same later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidConfiguration { .. } | Self::InvalidAnswer { .. } => false,
            Self::Unreachable { .. } => true,
            // The others of the specification of OTLP do not go away by themselves.
            Self::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
        }
    }

    /// How long the collector asks to wait until the next attempt.
    pub(in crate::telemetry) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } if self.is_retryable() => *retry_after,
            _ => None,
        }
    }
}
