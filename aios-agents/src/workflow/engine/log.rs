//! Reads ranges of the log for the relay, foreign appends and projections.
//!
//! One unreadable event must not hide those around it, and a store reports it for the whole query. So
//! the range is halved until the event is found, which costs a number of queries that grows with the
//! logarithm of the range.

use aios_core::{
    event::Pattern,
    store::{EventStore, RecordedEvent, StoreError, StreamId},
};

use super::Engine;

/// Events of one range that are skipped because the files of the database are damaged.
///
/// Above it, the error is reported as one of the store: halving would read a damaged database for a
/// long time.
const MOST_DAMAGED: usize = 16;

/// The events of a range of the log.
#[derive(Debug, Default)]
pub(crate) struct Range {
    /// In the order of the log.
    pub(crate) events: Vec<RecordedEvent>,
    /// Positions of unreadable events, with the error.
    pub(crate) unreadable: Vec<(u64, StoreError)>,
}

impl Engine {
    /// See `read_range`.
    pub(super) async fn read_range(
        &self,
        after: u64,
        up_to: u64,
        except: &[Pattern],
    ) -> Result<Range, StoreError> {
        read_range(&*self.store, after, up_to, except).await
    }
}

/// Reads the events after one position and up to another, except those that match a pattern. An
/// unreadable event does not hide the others.
///
/// # Errors
///
/// The first error of the store that does not concern single events, or [`StoreError::Corrupt`] if
/// many events can't be read because the files of the database are damaged.
pub(crate) async fn read_range<S: EventStore + ?Sized>(
    store: &S,
    after: u64,
    up_to: u64,
    except: &[Pattern],
) -> Result<Range, StoreError> {
    let mut range = Range::default();
    let mut damaged = 0;
    let mut parts = vec![(after, up_to)];
    while let Some((after, up_to)) = parts.pop() {
        match store.read_log_except(after, up_to, except).await {
            Ok(events) => range.events.extend(events),
            Err(error) if is_unreadable(&error) => {
                if up_to <= after.saturating_add(1) {
                    damaged += usize::from(matches!(error, StoreError::Corrupt { .. }));
                    if damaged > MOST_DAMAGED {
                        return Err(error);
                    }
                    range.unreadable.push((up_to, error));
                    continue;
                }
                let middle = after + (up_to - after) / 2;
                // The first half is read first.
                parts.extend([(middle, up_to), (after, middle)]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(range)
}

/// Reads the first events of streams, in their order. An unreadable event hides only its own stream.
pub(crate) async fn read_starts<S: EventStore + ?Sized>(
    store: &S,
    streams: &[StreamId],
    limit: usize,
) -> Vec<Result<Vec<RecordedEvent>, StoreError>> {
    let mut starts = Vec::with_capacity(streams.len());
    let mut parts = vec![streams];
    while let Some(part) = parts.pop() {
        match store.read_streams(part, limit).await {
            Ok(found) => starts.extend(found.into_iter().map(Ok)),
            Err(error) if is_unreadable(&error) && part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                // The first half is read first.
                parts.extend([second, first]);
            }
            Err(error) => starts.extend(part.iter().map(|_| Err(error.clone()))),
        }
    }
    starts
}

/// Whether an error concerns single rows, so that others may be readable.
pub(crate) fn is_unreadable(error: &StoreError) -> bool {
    matches!(error, StoreError::InvalidRow { .. } | StoreError::Corrupt { .. })
}
