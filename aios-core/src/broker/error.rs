use std::time::Duration;

use super::{Address, InvalidAddress};
use crate::{Cause, catalog::codes};

/// Errors returned by a broker.
///
/// Lost connections are rebuilt by the adapters, so none of these errors asks for a new broker, except
/// [`Closed`](Self::Closed).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// An event was published with [a required route](super::Publish::with_required_route), and no group
    /// and no mailbox receives it. Start a consumer, or correct the type or the name of the mailbox.
    #[error("no consumer listens for {event_type}")]
    Unroutable {
        /// Type of the event.
        event_type: String,
    },
    /// The broker refused the event, for example because a queue is full. Publish it again after a
    /// pause. If this continues, the consumers of the group are too slow or have stopped.
    ///
    /// If the event goes to several groups or to a mailbox, the others may have it: RabbitMQ does not say
    /// which queue refused it, and does not take it back from the rest. An event that is published again
    /// needs the same id.
    #[error("the broker refused the event: {reason}")]
    Rejected {
        /// The message of the broker.
        reason: String,
    },
    /// The connection was lost before the broker confirmed: it may or may not have the event. Publish
    /// the same event again; consumers recognise its id.
    #[error("the connection was lost before the broker confirmed the event")]
    Uncertain,
    /// The broker did not answer in time. What was requested may have happened: an event that is
    /// published again needs the same id.
    #[error("the broker did not {operation} within {after:?}")]
    Timeout {
        /// The operation that was waited for.
        operation: &'static str,
        /// How long.
        after: Duration,
    },
    /// The event is larger than the broker accepts. Store the data elsewhere and publish a reference.
    #[error("the event has {bytes} bytes, the broker accepts at most {limit}")]
    TooLarge {
        /// Size of the event.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The broker accepts no events for now, to protect its memory or disk. Publish again later; an
    /// operator has to make room on the server.
    #[error("the broker is blocked: {reason}")]
    Blocked {
        /// The message of the broker.
        reason: String,
    },
    /// The broker was closed by this process. A broker that was closed stays closed; connect again.
    #[error("the broker is closed")]
    Closed,
    /// A group or mailbox exists with other properties than the subscription requires. Subscribe with
    /// those that it has, choose another name, or delete it on the server.
    #[error("{address} exists with other properties: {difference}")]
    Incompatible {
        /// The group or mailbox.
        address: Address,
        /// The property, with its actual and its requested value.
        difference: String,
    },
    /// The group or mailbox does not exist: nothing has ever subscribed to it, or it was temporary or
    /// deleted.
    #[error("{address} does not exist")]
    UnknownAddress {
        /// The group or mailbox.
        address: Address,
    },
    /// A name of a group or mailbox is invalid: it has 1 to 200 bytes of `[A-Za-z0-9._-]`.
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),
    /// A subscription, an option or a URL is invalid. The reason names it.
    #[error("invalid broker configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// Anything else the driver reports. `retryable` says whether the same call may succeed later; print
    /// the cause with [`Chain`](crate::Chain).
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
            Self::Unroutable { .. } => codes::UNROUTABLE,
            Self::Rejected { .. } => codes::REJECTED,
            Self::Uncertain => codes::UNCERTAIN,
            Self::Timeout { .. } => codes::BROKER_TIMEOUT,
            Self::TooLarge { .. } => codes::EVENT_TOO_LARGE,
            Self::Blocked { .. } => codes::BROKER_BLOCKED,
            Self::Closed => codes::BROKER_CLOSED,
            Self::Incompatible { .. } => codes::INCOMPATIBLE_SUBSCRIPTION,
            Self::UnknownAddress { .. } => codes::UNKNOWN_ADDRESS,
            Self::InvalidAddress(_) => codes::INVALID_NAME,
            Self::InvalidConfiguration { .. } => codes::INVALID_BROKER_CONFIGURATION,
            Self::Backend { .. } => codes::BROKER_BACKEND,
        }
    }
}
