use super::RecordedEvent;

/// The bytes that a page should have.
const BYTES: usize = 8 * 1024 * 1024;

/// The number of events in the first page, whose sizes are not known.
const FIRST: usize = 64;

/// How many events of the log to read at once.
///
/// A number of events limits the memory of a reader only if the events are small. This adapts the number
/// to the sizes of the events that were read last: a page of events like those has about 8 MiB, and a single
/// event may have more. The number at most doubles from page to page. The first page has 64 events, and
/// nothing limits its bytes.
///
/// # Examples
///
/// ```
/// use aios_core::store::{EventStore, PageSize, StoreError};
///
/// async fn count(store: &dyn EventStore) -> Result<u64, StoreError> {
///     let mut size = PageSize::new(1000);
///     let (mut count, mut position) = (0, 0);
///     loop {
///         let page = store.read_log(position, size.events()).await?;
///         let Some(last) = page.last() else { return Ok(count) };
///         (count, position) = (count + page.len() as u64, last.position);
///         size.adapt(page.len(), &page);
///     }
/// }
/// # let _ = count;
/// ```
#[derive(Clone, Debug)]
pub struct PageSize {
    /// The number of events of the next page.
    events: usize,
    /// The highest number.
    most: usize,
}

impl PageSize {
    /// Pages of at most this many events, and at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { events: FIRST.min(most), most }
    }

    /// The number of events of the next page.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// Adapts the number to a page that was read. `read` is the number of events that were looked at, which
    /// is higher than the number of events of the page if some were left out.
    pub fn adapt(&mut self, read: usize, page: &[RecordedEvent]) {
        if read > 0 {
            let sizes = page.iter().map(|recorded| recorded.event.payload.as_str().len());
            let bytes = sizes.fold(1, usize::saturating_add);
            let fitting = BYTES.saturating_mul(read) / bytes;
            self.events = self.events.saturating_mul(2).min(fitting).clamp(1, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Event, store::StreamId};

    fn page(events: usize, bytes: usize) -> Vec<RecordedEvent> {
        let data = "x".repeat(bytes);
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &data).unwrap();
        let stream = StreamId::new("orders").unwrap();
        let recorded = RecordedEvent { position: 1, stream, version: 1, event };
        vec![recorded; events]
    }

    #[test]
    fn should_adapt_the_number_of_events_to_their_sizes() {
        let mut size = PageSize::new(200);
        let mut adapt = |read, events, bytes| {
            size.adapt(read, &page(events, bytes));
            size.events()
        };
        assert_eq!(adapt(64, 64, 10), 128);
        assert_eq!(adapt(128, 128, 10), 200, "the highest number");
        assert_eq!(adapt(200, 4, BYTES / 4), 199, "most events were left out");
        assert_eq!(adapt(4, 4, BYTES / 2), 1);
        assert_eq!(adapt(1, 1, BYTES * 2), 1);
        assert_eq!(adapt(1, 1, 10), 2);
        assert_eq!(adapt(0, 0, 10), 2, "an empty page tells nothing");
    }
}
