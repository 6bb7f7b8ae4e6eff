use super::{Fence, StreamId};
use crate::event::Event;

/// The version that a stream is expected to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any version.
    Any,
    /// The stream has no event.
    Empty,
    /// The last event of the stream has this version.
    Exact(u64),
}

/// Events for one stream, which are appended all or not at all.
///
/// # Examples
///
/// ```
/// use aios_core::{
///     event::Event,
///     store::{Append, Expected, StreamId},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let placed = Event::new("shop.order.placed".parse()?, "shop", &7)?;
/// // Refused as a conflict if the order has events already.
/// let append = Append::new(StreamId::new("orders/7")?, vec![placed])
///     .with_expected(Expected::Empty);
/// assert_eq!(append.stream.as_str(), "orders/7");
/// # Ok(())
/// # }
/// ```
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
