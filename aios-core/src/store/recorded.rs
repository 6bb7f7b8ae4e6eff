use super::StreamId;
use crate::event::Event;

/// An event and its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// Place in the log: 1, 2, 3 … in commit order, without gaps.
    pub position: u64,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Place in the stream: 1, 2, 3 …
    pub version: u64,
    /// The event.
    pub event: Event,
}
