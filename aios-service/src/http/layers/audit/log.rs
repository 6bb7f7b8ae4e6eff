//! Stores audit events. Those with the outcomes of calls share appends.
//!
//! ```text
//! call ends ──► waiting list ──► (yield once) ──► batches of one day, at most 256 ──► append
//!                                                                                       │
//!    the answer is sent ◄── oneshot ◄── stored, or reported as lost in the log lines ◄──┘
//! ```
//!
//! The first call that enters an empty list spawns the task that empties it. The task yields once,
//! so that the calls that a commit of the store has just ended get into the same batch. A batch
//! that is refused as a whole is repeated event by event.
//!
//! Events wait at most 5 s. Nothing is lost silently: an event that can't be stored is written to
//! the log lines of the process with all its data. The list is bounded; beyond the bound, events
//! are reported in the same way.

use std::{sync::Arc, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    catalog::system::{self, API_CALLED, API_REQUESTED, ApiCalled},
    clock::Clock,
    event::{Event, EventError, EventId, EventType, Metadata},
    store::{Append, Store, StoreError, StreamId},
};
use futures_util::{
    FutureExt,
    future::{Shared, join_all},
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

use crate::http::layers::append::{append_reporting, append_until_taken};

/// How long the events of an append may take to be stored.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of events of an append.
const BATCH: usize = 256;
/// Maximum number of events that wait for an append. A call has at most one.
const MAX_WAITING: usize = 16_384;

/// The first event of a call, on its way into the store. The first poll of [`stored`](Self::stored) hands it
/// over.
///
/// A store may drop an append whose future is dropped before the commit. So the call keeps a clone, which
/// the event with its outcome waits for, and a request that is cut off takes no event with it.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    storing: Shared<BoxFuture<'static, Result<(), StoreError>>>,
    /// `true` once an append has failed that is repeated.
    has_failed: watch::Receiver<bool>,
}

impl Announcement {
    /// Completes when the event is stored, or with the reason why the store refuses it. Cancel safe.
    pub(crate) async fn stored(&self) -> Result<(), StoreError> {
        self.storing.clone().await
    }

    /// Completes when an append has failed that is repeated. Cancel safe.
    pub(crate) async fn failed(&self) {
        let mut has_failed = self.has_failed.clone();
        if has_failed.wait_for(|has_failed| *has_failed).await.is_err() {
            // The event is stored or refused.
            std::future::pending().await
        }
    }
}

/// Stores audit events. Calls that end at the same time share an append.
#[derive(Debug)]
pub(crate) struct AuditLog {
    /// Where the events go.
    store: Arc<dyn Store>,
    /// Timestamps, and the time limit.
    clock: Arc<dyn Clock>,
    /// Events that no append has taken. Never locked across an await.
    waiting: Mutex<Vec<Waiting>>,
}

/// A call whose event is not stored yet.
#[derive(Debug)]
struct Waiting {
    /// The call, for the report if it is lost.
    call: ApiCalled,
    /// The stream of its day.
    stream: StreamId,
    /// The event to append.
    event: Event,
    /// The event that caused this one.
    announcement: Option<Announcement>,
    /// Completed when the event is stored or reported.
    done: oneshot::Sender<()>,
}

impl Waiting {
    /// Reports an event that is not stored, and ends the wait for it.
    fn end(self, appended: &Result<(), Unstored>) {
        let Self { call, announcement, done, .. } = self;
        if let Err(error) = appended {
            lost(&call, &Chain(error).to_string());
        }
        // Before the waiting call continues: it may be the last one, and open the store again.
        drop(announcement);
        // Sending fails if the request was cancelled.
        let _ = done.send(());
    }
}

/// An event that can't be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidAudit {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Stream(#[from] StoreError),
}

/// Why an event is not stored.
#[derive(Debug, thiserror::Error)]
enum Unstored {
    /// The store refused it, or failed permanently.
    #[error(transparent)]
    Refused(StoreError),
    /// The time limit passed. The event may still be stored.
    #[error("it took longer than {TIMEOUT:?}")]
    Late,
}

impl AuditLog {
    /// Creates a log without waiting events.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, waiting: Mutex::default() }
    }

    /// The first event of a call, which is stored before the call has an effect, and its id.
    pub(super) fn announce(
        &self,
        call: &ApiCalled,
        metadata: Metadata,
    ) -> Result<(EventId, Announcement), InvalidAudit> {
        let (stream, event) = event(&*self.clock, API_REQUESTED, call, metadata)?;
        let id = event.id.clone();
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let (failed, has_failed) = watch::channel(false);
        let storing = async move {
            let append = Append::new(stream, vec![event]);
            let failed = || {
                failed.send_replace(true);
            };
            let appended = append_reporting(&*store, &*clock, &append, failed).await;
            appended.map(drop).inspect_err(|error| {
                let error = Chain(error).to_string();
                warn!(target: "aios_service::audit", error, "failed to store the first audit event of a call");
            })
        };
        Ok((id, Announcement { storing: storing.boxed().shared(), has_failed }))
    }

    /// Begins to store the outcome of a call, after its first event. The returned receiver completes
    /// once the event is stored or reported as lost; the event is stored even if the receiver is dropped.
    /// Requires a runtime of tokio.
    pub(super) fn record(
        self: &Arc<Self>,
        call: ApiCalled,
        metadata: Metadata,
        announcement: Option<Announcement>,
    ) -> oneshot::Receiver<()> {
        let (done, stored) = oneshot::channel();
        match event(&*self.clock, API_CALLED, &call, metadata) {
            Ok((stream, event)) => {
                self.enqueue(Waiting { call, stream, event, announcement, done });
            }
            Err(error) => lost(&call, &Chain(&error).to_string()),
        }
        stored
    }

    /// Adds an event to the list, and starts the task that empties it if the list was empty.
    fn enqueue(self: &Arc<Self>, call: Waiting) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            drop(waiting);
            return lost(&call.call, "too many audit events wait to be stored");
        }
        waiting.push(call);
        if waiting.len() == 1 {
            tokio::spawn(Arc::clone(self).store_waiting());
        }
    }

    /// Stores what waits. Events that are added from now on wait for the next append, which does not wait
    /// for this one.
    async fn store_waiting(self: Arc<Self>) {
        // A commit ends many calls. All that are ready now get the same append. A run that one of them
        // has started may block this thread in the meantime.
        aios_core::yield_now().await;
        let mut waiting = std::mem::take(&mut *self.waiting.lock()).into_iter().peekable();
        while let Some(first) = waiting.next() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(next) = waiting.next_if(|next| is_same(&batch, next))
            {
                batch.push(next);
            }
            tokio::spawn(Arc::clone(&self).store(batch));
        }
    }

    /// Stores events of one stream. If the store refuses the batch, each event is appended alone, so that
    /// one bad event does not affect the others.
    async fn store(self: Arc<Self>, batch: Vec<Waiting>) {
        match self.append(&batch).await {
            Err(Unstored::Refused(_)) if batch.len() > 1 => {
                let alone = batch.into_iter().map(|call| async {
                    let appended = self.append(std::slice::from_ref(&call)).await;
                    call.end(&appended);
                });
                join_all(alone).await;
            }
            appended => {
                // Before the waiting calls continue: they may be the last ones, and open the store again.
                drop(self);
                batch.into_iter().for_each(|call| call.end(&appended));
            }
        }
    }

    /// Appends the events of a batch, within the time limit.
    async fn append(&self, batch: &[Waiting]) -> Result<(), Unstored> {
        tokio::select! {
            biased;
            appended = self.append_in_order(batch) => appended.map_err(Unstored::Refused),
            () = self.clock.sleep(TIMEOUT) => Err(Unstored::Late),
        }
    }

    /// Appends outcomes after the first events of their calls, so that no outcome is in the log without its cause.
    async fn append_in_order(&self, batch: &[Waiting]) -> Result<(), StoreError> {
        let Some(first) = batch.first() else { return Ok(()) };
        for announcement in batch.iter().filter_map(|call| call.announcement.clone()) {
            announcement.stored().await?;
        }
        let events = batch.iter().map(|call| call.event.clone()).collect();
        let append = Append::new(first.stream.clone(), events);
        append_until_taken(&*self.store, &*self.clock, &append).await.map(drop)
    }
}

/// Whether a call belongs to the stream of a batch. There is one for each day.
fn is_same(batch: &[Waiting], next: &Waiting) -> bool {
    batch.first().is_some_and(|first| first.stream == next.stream)
}

/// Reports an event that is not stored, with its data.
fn lost(call: &ApiCalled, error: &str) {
    error!(target: "aios_service::audit", error, ?call, "failed to store an audit event");
}

/// Makes the event of a call, and the id of its stream: one stream for each day in UTC.
fn event(
    clock: &dyn Clock,
    action: &str,
    data: &ApiCalled,
    metadata: Metadata,
) -> Result<(StreamId, Event), InvalidAudit> {
    let now = clock.now();
    let date: String = now.to_string().chars().take_while(|it| *it != 'T').collect();
    let stream = StreamId::new(format!("system/audit/{date}"))?;
    let event_type = EventType::new(system::DOMAIN, "api", action)?;
    let mut event = Event::new(event_type, "aios", data)?.with_timestamp(now);
    event.metadata = metadata.into();
    Ok((stream, event))
}

#[cfg(test)]
mod tests {
    use aios_core::{clock::SystemClock, store::EventStore};
    use aios_store::memory::{MemoryOptions, MemoryStore};
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn call(path: &str) -> ApiCalled {
        let mut data = ApiCalled::new("ada".to_owned(), "POST".to_owned(), path.to_owned());
        data.status = Some(202);
        data
    }

    async fn paths(store: &MemoryStore) -> Vec<String> {
        let log = store.read_log(0, 1000).await.unwrap();
        log.iter().map(|it| it.event.data::<ApiCalled>().unwrap().path).collect()
    }

    fn log_on(store: &MemoryStore) -> Arc<AuditLog> {
        Arc::new(AuditLog::new(Arc::new(store.clone()), Arc::new(SystemClock)))
    }

    #[tokio::test]
    async fn should_store_waiting_calls_in_one_append() {
        let store = MemoryStore::new();
        let log = log_on(&store);
        let mut stored: Vec<_> =
            ["/a", "/b", "/c"].map(|path| log.record(call(path), Metadata::default(), None)).into();
        // The task that stores them begins once; a second one would find nothing that waits.
        assert_eq!(log.waiting.lock().len(), 3);
        let last = stored.pop().unwrap();
        drop(stored);
        last.await.unwrap();
        assert_eq!(paths(&store).await, ["/a", "/b", "/c"], "also those of cancelled requests");
        assert!(log.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn should_store_the_other_calls_of_a_batch_when_one_is_refused() {
        let store = MemoryStore::connect_with(MemoryOptions::new().with_max_event_bytes(600));
        let store = store.unwrap();
        let log = log_on(&store);
        let long = "x".repeat(1000);
        let recorded =
            ["/a", &long, "/c"].map(|path| log.record(call(path), Metadata::default(), None));
        for stored in recorded {
            stored.await.unwrap();
        }
        assert_eq!(paths(&store).await, ["/a", "/c"]);
    }

    #[tokio::test]
    async fn should_report_calls_beyond_the_bound_as_lost() {
        let store = MemoryStore::new();
        let log = log_on(&store);
        let begun = (0..=MAX_WAITING).map(|_| log.record(call("/a"), Metadata::default(), None));
        let mut begun: Vec<_> = begun.collect();
        let refused = begun.pop().unwrap().try_recv();
        assert_eq!(refused, Err(TryRecvError::Closed), "it is reported as lost at once");
        for stored in begun {
            stored.await.unwrap();
        }
        assert_eq!(store.head().await.unwrap(), MAX_WAITING as u64);
    }
}
