use std::fmt::Debug;

use async_trait::async_trait;

use super::{Append, Appended, Maintenance, RecordedEvent, StoreError, StreamId};
use crate::{event::Pattern, forward::forward};

/// The largest page of a read; larger limits are reduced to it.
pub const MAX_PAGE: usize = 10_000;

/// Stores events in streams, numbered by version, and in one log, numbered by position.
///
/// # Guarantees
///
/// - Each [`Append`] is atomic, and durable when it is answered with `Ok`.
/// - Concurrent appends share commits; one that fails does not affect the others.
/// - Appends whose futures one task polls in an order are committed in this order, or together. So what
///   has to be stored before something else needs no commit of its own.
/// - Positions are dense and in commit order: a reader that has read up to a position has missed
///   nothing.
/// - Read models change in the same transaction as the log.
///
/// # Examples
///
/// A decision that depends on what the stream contains is appended with the version that was read. If
/// another writer came first, it is made again:
///
/// ```
/// use aios_core::{
///     event::Event,
///     store::{Append, EventStore, EventStoreExt, Expected, MAX_PAGE, StoreError, StreamId},
/// };
///
/// async fn reserve(store: &dyn EventStore, seat: Event) -> Result<u64, StoreError> {
///     let stream = StreamId::new("flights/ba117")?;
///     loop {
///         let taken = store.read_stream(&stream, 0, MAX_PAGE).await?;
///         let expected = match taken.last() {
///             None => Expected::Empty,
///             Some(last) => Expected::Exact(last.version),
///         };
///         // … decide here whether the seat is free …
///         let append = Append::new(stream.clone(), vec![seat.clone()]).with_expected(expected);
///         match store.append_one(append).await {
///             Ok(appended) => return Ok(appended.position),
///             Err(StoreError::Conflict { .. }) => {}
///             Err(error) => return Err(error),
///         }
///     }
/// }
/// # let _ = reserve;
/// ```
#[async_trait]
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Appends; the results and the positions are in the order of `batch`.
    ///
    /// An append whose events are all stored in its stream already, in sequence, returns the result
    /// of the first call, whatever its expectation and its fence. So repeating an append is safe, and
    /// [`Appended::repeated`] marks the repetition. The result is [`StoreError::DuplicateEvent`] if
    /// only some are stored, or if an id is stored in another stream.
    ///
    /// The event that ends a run [`closes`](crate::catalog::closes) its stream. Any other append to
    /// a closed stream that would otherwise be accepted is [`StoreError::StreamClosed`], even
    /// within one batch, and so is an append in which anything follows such an event.
    ///
    /// # Cancel safety
    ///
    /// A cancelled append is stored or not; repeat it to find out.
    async fn append(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>>;

    /// The events of a stream with a version above `after`, in order, at most `limit`. A stream
    /// that does not exist has none.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read_stream(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The first events of several streams, at most `limit` of each, in the order of `streams`:
    /// what [`read_stream`](Self::read_stream) returns for each of them. A store may read them all
    /// at once, so pass few streams, and read few events of each.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read_streams(
        &self,
        streams: &[StreamId],
        limit: usize,
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError> {
        let mut read = Vec::with_capacity(streams.len());
        for stream in streams {
            read.push(self.read_stream(stream, 0, limit).await?);
        }
        Ok(read)
    }

    /// The events of the log with a position above `after`, in order, at most `limit`.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read_log(&self, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The events of the log with a position above `after` and up to `up_to`, in order, without
    /// those whose type one of the patterns matches. Use this to find a few events among many. A
    /// store may skip excluded events without loading them. The whole range is returned at once, so
    /// keep it short.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read_log_except(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut found = Vec::new();
        let mut after = after;
        while after < up_to {
            let limit = usize::try_from(up_to - after).unwrap_or(MAX_PAGE).min(MAX_PAGE);
            let page = self.read_log(after, limit).await?;
            let Some(last) = page.last() else { break };
            after = last.position;
            let wanted = |recorded: &RecordedEvent| {
                let event_type = &recorded.event.event_type;
                recorded.position <= up_to && !except.iter().any(|it| it.matches(event_type))
            };
            found.extend(page.into_iter().filter(wanted));
        }
        Ok(found)
    }

    /// The position of the last event; 0 if there is none.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn head(&self) -> Result<u64, StoreError>;

    /// Waits until the log has an event with a position above `after`, and returns the position of
    /// the last one. Appends of this process wake it at once; those of other processes by a
    /// notification, and by polling with back-off if the notification is lost.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn wait_for(&self, after: u64) -> Result<u64, StoreError>;

    /// Closes the store: what has been accepted is committed, then connections are closed and files are
    /// released, although others still hold the store. Calls that come later fail with
    /// [`StoreError::Closed`], and closing again does nothing. A store that holds neither connections nor
    /// files, like one in memory, stays as it is, which is the default.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// The first poll begins to close the store. Call again to wait until it is closed.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The removal of streams that are no longer needed, if the store supports it. Without it, which
    /// is the default, they stay.
    ///
    /// A wrapper returns that of the wrapped store.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }
}

forward!(EventStore {
    async append[](batch: Vec<Append>) -> Vec<Result<Appended, StoreError>>;
    async read_stream['a](
        stream: &'a StreamId,
        after: u64,
        limit: usize
    ) -> Result<Vec<RecordedEvent>, StoreError>;
    async read_streams['a](
        streams: &'a [StreamId],
        limit: usize
    ) -> Result<Vec<Vec<RecordedEvent>>, StoreError>;
    async read_log[](after: u64, limit: usize) -> Result<Vec<RecordedEvent>, StoreError>;
    async read_log_except['a](
        after: u64,
        up_to: u64,
        except: &'a [Pattern]
    ) -> Result<Vec<RecordedEvent>, StoreError>;
    async head[]() -> Result<u64, StoreError>;
    async wait_for[](after: u64) -> Result<u64, StoreError>;
    async close[]() -> Result<(), StoreError>;
    fn maintenance() -> Option<&dyn Maintenance>;
});
