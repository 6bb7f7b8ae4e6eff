//! Reads ranges of the log for the relay, foreign appends and projections.

use aios_core::{
    event::Pattern,
    store::{EventStore, RecordedEvent, StoreError},
};

use super::Engine;

/// Unreadable events of one range that are skipped. More of them mean that the database is damaged.
const MOST_UNREADABLE: usize = 16;

/// The events of a range of the log.
#[derive(Debug, Default)]
pub(crate) struct Range {
    pub(crate) events: Vec<RecordedEvent>,
    /// Positions of unreadable events, with the error.
    pub(crate) unreadable: Vec<(u64, StoreError)>,
}

impl Engine {
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
pub(crate) async fn read_range<S: EventStore + ?Sized>(
    store: &S,
    after: u64,
    up_to: u64,
    except: &[Pattern],
) -> Result<Range, StoreError> {
    let mut range = Range::default();
    let mut parts = vec![(after, up_to)];
    while let Some((after, up_to)) = parts.pop() {
        match store.read_log_except(after, up_to, except).await {
            Ok(events) => range.events.extend(events),
            Err(error @ StoreError::Corrupt { .. }) => {
                if range.unreadable.len() == MOST_UNREADABLE {
                    return Err(error);
                }
                if up_to <= after.saturating_add(1) {
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
