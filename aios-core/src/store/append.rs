use std::{fmt, str::FromStr, sync::Arc};

use super::{Epoch, Shard, StoreError};
use crate::event::{Event, MAX_NAME_BYTES};

/// The prefix of the streams of runs.
const RUNS: &str = "runs/";

/// Name of a stream, which contains the events of one thing. 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// Checks the name.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidStream`] if it is empty or longer than 255 bytes.
    pub fn new(name: impl AsRef<str>) -> Result<Self, StoreError> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(StoreError::InvalidStream { bytes: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The journal of a run: `runs/` and the run's id.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidStream`] if the id is empty or longer than 250 bytes.
    pub fn of_run(run_id: &str) -> Result<Self, StoreError> {
        if run_id.is_empty() {
            return Err(StoreError::InvalidStream { bytes: 0 });
        }
        Self::new(format!("{RUNS}{run_id}"))
    }

    /// The run whose journal this is, if it is one.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.0.strip_prefix(RUNS)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The version that a stream is expected to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// It has no event.
    Empty,
    /// Its last event has this version.
    Exact(u64),
}

/// Proof that the writer owns a shard: the append is refused once another owner took the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fence {
    /// The shard.
    pub shard: Shard,
    /// The epoch under which the writer owns it.
    pub epoch: Epoch,
}

/// Events for one stream, which are appended all or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream.
    pub stream: StreamId,
    /// The version that the stream is expected to have.
    pub expected: Expected,
    /// The events to append, at least one.
    pub events: Vec<Event>,
    /// Proof that the writer owns the shard.
    pub fence: Option<Fence>,
}

impl Append {
    /// An append without an expected version or a fence.
    #[must_use]
    pub fn new(stream: StreamId, events: Vec<Event>) -> Self {
        Self { stream, expected: Expected::Any, events, fence: None }
    }

    /// Sets the expected version of the stream.
    #[must_use]
    pub fn with_expected(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }

    /// Sets the proof that the writer owns the shard.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }
}

/// The place of the last event of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its version in the stream.
    pub version: u64,
    /// Its position in the log.
    pub position: u64,
    /// Whether the events were already stored: by an earlier call, or by an attempt of this call
    /// whose response was lost.
    pub repeated: bool,
}

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
