use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// Streams of the log that are needed for a time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Expirable {
    /// `system/requests/…`: the answers to requests to the HTTP API with an `Idempotency-Key`.
    Requests,
    /// `outputs/…`: the [output streams](crate::output) of runs that have ended, or that the store no
    /// longer has.
    Outputs,
}

impl Expirable {
    /// All kinds.
    pub const ALL: &'static [Self] = &[Self::Requests, Self::Outputs];

    /// The text with which the names of these streams begin. It ends with `/`.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Requests => "system/requests/",
            Self::Outputs => crate::output::PREFIX,
        }
    }

    /// The run that must not be open when a stream is removed: that of an output stream.
    #[must_use]
    pub fn run_of(self, stream: &str) -> Option<&str> {
        match self {
            Self::Requests => None,
            Self::Outputs => Some(stream.strip_prefix(self.prefix())?.rsplit_once('/')?.0),
        }
    }
}

/// The streams to examine, and which of them to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpirePage {
    /// The kind of streams.
    pub what: Expirable,
    /// Streams whose last event is older than this are removed.
    pub older_than: Duration,
    /// Continues after the stream with this name; from the start if `None`.
    pub after: Option<String>,
    /// The maximum number of streams to examine, at least 1.
    pub limit: u16,
}

/// The result of [`Maintenance::expire`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Number of removed streams.
    pub removed: u64,
    /// The last examined stream, after which the next page begins; `None` if there are no more.
    pub next: Option<String>,
}

/// Removes what is needed for a time only. A store that supports it returns it from
/// [`EventStore::maintenance`](super::EventStore::maintenance).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::store::{Expirable, ExpirePage, Store, StoreError};
///
/// /// Removes the output of runs that ended more than a week ago.
/// async fn expire(store: &dyn Store) -> Result<u64, StoreError> {
///     let Some(maintenance) = store.maintenance() else { return Ok(0) };
///     let (mut removed, mut after) = (0, None);
///     loop {
///         let older_than = Duration::from_secs(7 * 86_400);
///         let page = ExpirePage { what: Expirable::Outputs, older_than, after, limit: 500 };
///         let expired = maintenance.expire(&page).await?;
///         removed += expired.removed;
///         after = expired.next;
///         if after.is_none() {
///             return Ok(removed);
///         }
///     }
/// }
/// # let _ = expire;
/// ```
#[async_trait]
pub trait Maintenance: Send + Sync + 'static {
    /// Examines a page of streams in the order of their names, and removes those whose last event is
    /// old enough, with all their events, in one transaction. Positions are never reused. A stream
    /// stays as long as
    ///
    /// - a checkpoint has not passed its last event,
    /// - its last event is the last event of the log,
    /// - it is an output stream of a run that has not ended.
    ///
    /// A removed stream can be appended to again, and then begins with version 1.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend; nothing was removed then, unless the connection was lost.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call has removed all of the streams or none. Repeating it is safe.
    async fn expire(&self, page: &ExpirePage) -> Result<Expired, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_know_the_runs_of_output_streams() {
        for (stream, run) in [
            ("outputs/r1/tokens", Some("r1")),
            ("outputs/a/b/tokens", Some("a/b")),
            ("outputs/r1", None),
            ("system/requests/a/b", None),
        ] {
            assert_eq!(Expirable::Outputs.run_of(stream), run, "{stream}");
            assert_eq!(Expirable::Requests.run_of(stream), None, "{stream}");
        }
    }
}
