use async_trait::async_trait;

use super::BrokerError;
use crate::event::{Event, EventId, Timestamp};

/// An event whose delivery was given up.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The event as it was published.
    pub event: Event,
    /// The reason.
    pub reason: String,
    /// How many attempts failed.
    pub attempts: u32,
    /// When it failed for the first time.
    pub first_failure: Timestamp,
}

impl DeadLetter {
    /// Creates a dead letter.
    #[must_use]
    pub fn new(event: Event, reason: String, attempts: u32, first_failure: Timestamp) -> Self {
        Self { event, reason, attempts, first_failure }
    }
}

/// A selection of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterFilter {
    /// All current dead letters.
    All,
    /// Those with one of these event ids.
    Ids(Vec<EventId>),
}

impl DeadLetterFilter {
    /// Whether the event with this id is selected.
    #[must_use]
    pub fn contains(&self, id: &EventId) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(id),
        }
    }
}

/// The dead letters of a group or mailbox, and the number of events that wait in it.
///
/// # Examples
///
/// ```
/// use aios_core::broker::{Address, Broker, DeadLetter, DeadLetterFilter, Group};
///
/// /// Sends back what failed for a reason that is removed now, and leaves the rest.
/// async fn redrive(broker: &dyn Broker) -> Result<usize, Box<dyn std::error::Error>> {
///     let letters = broker.dead_letters(&Address::Group(Group::new("billing")?)).await?;
///     let mut ids = Vec::new();
///     let mut choose = |letter: DeadLetter| {
///         if letter.reason.contains("no space left") {
///             ids.push(letter.event.id);
///         }
///     };
///     letters.for_each(&mut choose).await?;
///     Ok(letters.redrive(DeadLetterFilter::Ids(ids)).await?)
/// }
/// # let _ = redrive;
/// ```
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// The oldest dead letters, at most `limit`. They are not removed.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if the letters were deleted with their group or mailbox;
    /// errors reported by the broker.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, BrokerError>;

    /// Passes every dead letter to `visit`, the oldest first, however many there are. They are not
    /// removed. Letters that arrive in the meantime may be left out.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if the letters were deleted with their group or mailbox;
    /// errors reported by the broker; some of the letters were visited.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call has visited some of the letters.
    async fn for_each(&self, visit: &mut (dyn FnMut(DeadLetter) + Send))
    -> Result<(), BrokerError>;

    /// Sends dead letters back to their group or mailbox, with a fresh count of attempts, and
    /// returns how many. A crash in between may deliver one twice, but never loses it.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if the letters were deleted with their group or mailbox;
    /// errors reported by the broker; letters that were not sent back stay.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have sent some of the letters back. None is lost.
    async fn redrive(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError>;

    /// Deletes dead letters, and returns how many.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if the letters were deleted with their group or mailbox;
    /// errors reported by the broker; letters that were not deleted stay.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have deleted some of the letters.
    async fn purge(&self, selection: DeadLetterFilter) -> Result<usize, BrokerError>;

    /// How many events of the group or mailbox wait to be delivered. Those that were delivered and
    /// are not settled do not count. One that is retried counts from the moment in which it is due.
    ///
    /// # Errors
    ///
    /// [`BrokerError::UnknownAddress`] if the group or mailbox no longer exists; errors of the
    /// broker.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn waiting(&self) -> Result<u64, BrokerError>;
}
