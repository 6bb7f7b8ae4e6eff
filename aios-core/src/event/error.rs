use std::sync::Arc;

use crate::catalog::codes;

/// Errors of events, types, patterns and their data.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The text is not an event envelope.
    #[error("the event envelope is malformed")]
    Malformed {
        /// A description of the error and its location.
        source: Arc<serde_json::Error>,
    },
    /// The data cannot be serialised to JSON, or decoded as the requested type.
    #[error("the data of the event does not match the type")]
    InvalidData {
        /// A description of the error and its location.
        source: Arc<serde_json::Error>,
    },
    /// An id is empty or longer than 255 bytes.
    #[error("an event id has 1 to 255 bytes, this one has {bytes}")]
    InvalidId {
        /// Length of the refused id.
        bytes: usize,
    },
    /// A source is empty or longer than 255 bytes.
    #[error("an event source has 1 to 255 bytes, this one has {bytes}")]
    InvalidSource {
        /// Length of the refused source.
        bytes: usize,
    },
    /// A type is not of the form `domain.entity.action`.
    #[error(
        "an event type has three segments of [a-z][a-z0-9_]* and at most 255 bytes, not {text:?}"
    )]
    InvalidType {
        /// The refused text, truncated after 255 bytes.
        text: String,
    },
    /// The type belongs to a domain that is reserved for events of aios itself.
    #[error(
        "{event_type} belongs to the domain {domain}, whose events only aios writes; use a domain of your own"
    )]
    ReservedType {
        /// The refused type.
        event_type: String,
        /// Its domain.
        domain: String,
    },
    /// An unknown metadata field has the name of a field of [`Metadata`](super::Metadata). Set that
    /// field instead.
    #[error("`{name}` is a built-in metadata field; set that field instead of an extra field")]
    InvalidMetadata {
        /// The refused name.
        name: String,
    },
    /// A pattern has an empty or malformed segment.
    #[error("a pattern has segments of [a-z][a-z0-9_]*, `*` or `#`, not {text:?}")]
    InvalidPattern {
        /// The refused text, truncated after 255 bytes.
        text: String,
    },
    /// A timestamp is not RFC 3339, or not in the years 0001 to 9999 in UTC.
    #[error("invalid timestamp {text:?}: expected RFC 3339, years 0001 to 9999 in UTC")]
    InvalidTimestamp {
        /// The refused text, truncated after 255 bytes.
        text: String,
    },
    /// A CloudEvent lacks an attribute that the envelope needs.
    #[error("the CloudEvent can't become an event: {reason}")]
    InvalidCloudEvent {
        /// The missing or unsupported attribute.
        reason: String,
    },
}

impl EventError {
    /// A stable name for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => codes::MALFORMED_EVENT,
            Self::InvalidData { .. } => codes::INVALID_EVENT_DATA,
            Self::InvalidId { .. } => codes::INVALID_EVENT_ID,
            Self::InvalidSource { .. } => codes::INVALID_EVENT_SOURCE,
            Self::InvalidType { .. } => codes::INVALID_EVENT_TYPE,
            Self::ReservedType { .. } => codes::RESERVED_EVENT_TYPE,
            Self::InvalidMetadata { .. } => codes::INVALID_METADATA,
            Self::InvalidPattern { .. } => codes::INVALID_PATTERN,
            Self::InvalidTimestamp { .. } => codes::INVALID_TIMESTAMP,
            Self::InvalidCloudEvent { .. } => codes::INVALID_CLOUD_EVENT,
        }
    }

    pub(crate) fn malformed(source: serde_json::Error) -> Self {
        Self::Malformed { source: Arc::new(source) }
    }

    pub(crate) fn invalid_data(source: serde_json::Error) -> Self {
        Self::InvalidData { source: Arc::new(source) }
    }
}

/// The first 255 bytes of `text`, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    let end = (0..=text.len().min(super::MAX_NAME_BYTES))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or_default();
    text.get(..end).unwrap_or_default().to_owned()
}
