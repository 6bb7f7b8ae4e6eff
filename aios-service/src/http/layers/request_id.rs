//! The id of a request, which connects an answer, the log lines and the audit event.
//!
//! An id of the client is taken if it is short and plain, because it is written into log lines and
//! headers.

use std::sync::Arc;

use aios_core::event::EventId;
use axum::http::HeaderMap;

/// Name of the header.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Longest id of a request that is taken from the client.
const MAX_ID_BYTES: usize = 100;

/// The id of a request: that of the client if it is usable, or a new one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl RequestId {
    /// The id of the client, or a new one.
    ///
    /// An id of the client that is not usable is replaced without an error, because it is only an
    /// aid for people. Two headers count as the first one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_usable = |id: &&str| {
            !id.is_empty()
                && id.len() <= MAX_ID_BYTES
                && id.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.:".contains(&it))
        };
        match given.filter(is_usable) {
            Some(id) => Self(id.into()),
            None => Self(EventId::generate().to_string().into()),
        }
    }
}
