use std::{collections::VecDeque, sync::Arc};

use super::{EventStore, PageSize, RecordedEvent, StoreError};

/// The highest number of events that are read at once.
const PAGE: usize = 500;

/// Reads the log in order: first existing events, then new ones. Nothing is skipped at the
/// transition, because both phases use the same read by position.
///
/// # Examples
///
/// A reader that continues where it stopped, in this process or the next. Between the work and the
/// checkpoint it may die, so it applies an event at least once:
///
/// ```
/// use std::sync::Arc;
///
/// use aios_core::store::{EventStoreExt, Store, StoreError};
///
/// async fn follow(store: Arc<dyn Store>) -> Result<(), StoreError> {
///     let after = store.load_checkpoint("search-index").await?;
///     let mut log = store.clone().subscribe(after);
///     loop {
///         let recorded = log.next().await?;
///         println!("index {}", recorded.event.id);
///         store.save_checkpoint("search-index", recorded.position).await?;
///     }
/// }
/// # let _ = follow;
/// ```
#[derive(Debug)]
pub struct LogSubscription<S: ?Sized> {
    store: Arc<S>,
    read: u64,
    size: PageSize,
    page: VecDeque<RecordedEvent>,
}

impl<S: EventStore + ?Sized> LogSubscription<S> {
    pub(super) fn new(store: Arc<S>, after: u64) -> Self {
        Self { store, read: after, size: PageSize::new(PAGE), page: VecDeque::new() }
    }

    /// The next event; waits for it if necessary.
    ///
    /// # Errors
    ///
    /// Errors reported by the store. The next call retries from the same position.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<RecordedEvent, StoreError> {
        loop {
            if let Some(recorded) = self.page.pop_front() {
                return Ok(recorded);
            }
            let page = self.store.read_log(self.read, self.size.events()).await?;
            match page.last() {
                Some(last) => self.read = last.position,
                None => drop(self.store.wait_for(self.read).await?),
            }
            self.size.adapt(page.len(), &page);
            self.page = page.into();
        }
    }
}
