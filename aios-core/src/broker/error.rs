use std::time::Duration;

use super::{Address, InvalidAddress};
use crate::Cause;

/// Errors returned by a broker.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No group and no mailbox takes events of this type.
    #[error("no consumer listens for {event_type}")]
    Unroutable {
        /// Type of the event.
        event_type: String,
    },
    /// The broker refused the event, for example because a queue is full.
    #[error("the broker refused the event: {reason}")]
    Rejected {
        /// The message of the broker.
        reason: String,
    },
    /// The connection was lost before the broker confirmed: it may or may not have the event.
    #[error("the connection was lost before the broker confirmed the event")]
    Uncertain,
    /// The broker did not answer in time.
    #[error("the broker did not {operation} within {after:?}")]
    Timeout {
        /// The operation that was waited for.
        operation: &'static str,
        /// How long.
        after: Duration,
    },
    /// The event is larger than the broker accepts.
    #[error("the event has {bytes} bytes, the broker accepts at most {limit}")]
    TooLarge {
        /// Size of the event.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The broker accepts no events for now, to protect its memory or disk.
    #[error("the broker is blocked: {reason}")]
    Blocked {
        /// The message of the broker.
        reason: String,
    },
    /// The broker was closed by this process.
    #[error("the broker is closed")]
    Closed,
    /// A group or mailbox exists with other properties than the subscription requires.
    #[error("{address} exists with other properties: {difference}")]
    Incompatible {
        /// The group or mailbox.
        address: Address,
        /// The property, with its actual and its requested value.
        difference: String,
    },
    /// The group or mailbox was never declared.
    #[error("{address} does not exist")]
    UnknownAddress {
        /// The group or mailbox.
        address: Address,
    },
    /// A name of a group or mailbox is invalid.
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),
    /// A subscription or an option is invalid.
    #[error("invalid broker configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// Anything else the driver reports.
    #[error("{backend} failed to {operation}")]
    Backend {
        /// The adapter.
        backend: &'static str,
        /// The operation.
        operation: &'static str,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The error of the driver.
        source: Cause,
    },
}

impl BrokerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unroutable { .. }
            | Self::Rejected { .. }
            | Self::Uncertain
            | Self::Timeout { .. }
            | Self::Blocked { .. } => true,
            Self::Backend { retryable, .. } => *retryable,
            Self::TooLarge { .. }
            | Self::Closed
            | Self::Incompatible { .. }
            | Self::UnknownAddress { .. }
            | Self::InvalidAddress(_)
            | Self::InvalidConfiguration { .. } => false,
        }
    }

    /// A stable name for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unroutable { .. } => "UNROUTABLE",
            Self::Rejected { .. } => "REJECTED",
            Self::Uncertain => "UNCERTAIN",
            Self::Timeout { .. } => "BROKER_TIMEOUT",
            Self::TooLarge { .. } => "EVENT_TOO_LARGE",
            Self::Blocked { .. } => "BROKER_BLOCKED",
            Self::Closed => "BROKER_CLOSED",
            Self::Incompatible { .. } => "INCOMPATIBLE_SUBSCRIPTION",
            Self::UnknownAddress { .. } => "UNKNOWN_ADDRESS",
            Self::InvalidAddress(_) => "INVALID_NAME",
            Self::InvalidConfiguration { .. } => "INVALID_BROKER_CONFIGURATION",
            Self::Backend { .. } => "BROKER_BACKEND",
        }
    }
}
