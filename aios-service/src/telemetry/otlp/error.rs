//! Why a collector did not accept what was sent, and whether it may accept it later. The rules are
//! those of the specification of OTLP.

use std::time::Duration;

use aios_core::catalog::codes;

/// Longest pause that a collector may ask for.
pub(in crate::telemetry) const MAX_WANTED_PAUSE: Duration = Duration::from_secs(300);

/// Why a collector did not accept what was sent.
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
    /// The collector refuses the request, by a status of HTTP.
    #[error("the collector at {url} answers with status {status}{}", hint(*status))]
    #[non_exhaustive]
    Refused {
        /// Its URL.
        url: String,
        /// The status.
        status: u16,
        /// How long it asks to wait until the next attempt.
        retry_after: Option<Duration>,
    },
    /// The collector refuses the call, by a status of gRPC.
    #[error("the collector at {url} answers with the status {}{}", status_name(*status), suffix(message.as_deref()))]
    #[non_exhaustive]
    GrpcStatus {
        /// The URL of the method.
        url: String,
        /// The status, such as 14 for `UNAVAILABLE`.
        status: u32,
        /// The message of the collector.
        message: Option<String>,
        /// How long it asks to wait until the next attempt.
        retry_after: Option<Duration>,
    },
    /// The answer has a status of success, but its body is not an OTLP message.
    #[error("{url} is not an OTLP collector: it did not answer with OTLP")]
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
            Self::InvalidConfiguration { .. } => codes::INVALID_CLIENT_CONFIGURATION,
            Self::Unreachable { .. } => codes::COLLECTOR_UNREACHABLE,
            Self::Refused { .. } | Self::GrpcStatus { .. } | Self::InvalidAnswer { .. } => {
                codes::COLLECTOR_REFUSED
            }
        }
    }

    /// Whether the collector may accept the same request later.
    ///
    /// | error | retryable |
    /// |---|---|
    /// | [`Unreachable`](Self::Unreachable) | yes |
    /// | [`Refused`](Self::Refused) with 429, 502, 503 or 504 | yes |
    /// | [`GrpcStatus`](Self::GrpcStatus) 1, 4, 10, 11, 14 or 15 | yes |
    /// | [`GrpcStatus`](Self::GrpcStatus) 8, `RESOURCE_EXHAUSTED` | if the collector says how long to wait |
    /// | any other | no |
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidConfiguration { .. } | Self::InvalidAnswer { .. } => false,
            Self::Unreachable { .. } => true,
            // The others of the specification of OTLP do not go away by themselves.
            Self::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Self::GrpcStatus { status, retry_after, .. } => match status {
                // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
                1 | 4 | 10 | 11 | 14 | 15 => true,
                // RESOURCE_EXHAUSTED, which may also be a limit that stays.
                8 => retry_after.is_some(),
                _ => false,
            },
        }
    }

    /// How long the collector asks to wait until the next attempt.
    pub(in crate::telemetry) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::GrpcStatus { retry_after, .. }
                if self.is_retryable() =>
            {
                *retry_after
            }
            _ => None,
        }
    }
}

/// The remedy for a status of HTTP.
fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => ", a redirect, which is not followed: set the URL to which it leads",
        401 | 403 => "; set its headers, such as a key",
        404 | 405 => "; the URL needs the path of the collector, or none",
        _ => "",
    }
}

/// A message after a status.
fn suffix(message: Option<&str>) -> String {
    message.map(|text| format!(": {text}")).unwrap_or_default()
}

/// The name of a status.
fn status_name(status: u32) -> &'static str {
    match status {
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}
