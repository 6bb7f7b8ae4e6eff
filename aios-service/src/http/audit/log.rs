//! Stores audit events. Those with the outcomes of calls share appends.

use std::{sync::Arc, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    catalog::system::{self, API_CALLED, API_REQUESTED, ApiCalled},
    clock::Clock,
    event::{Event, EventError, EventId, EventType, Metadata},
    store::{Append, EventStoreExt, Store, StoreError, StreamId},
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{error, warn};

/// How long the events of an append may take to be stored.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before an append is repeated.
const PAUSE: Duration = Duration::from_millis(100);
/// Most events of an append.
const BATCH: usize = 256;
/// Most events that wait for an append. A call has at most one.
const MAX_WAITING: usize = 16_384;

/// Stores audit events. Calls that end at the same time share an append.
#[derive(Debug)]
pub(crate) struct AuditLog {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    waiting: Mutex<Vec<Waiting>>,
}

/// A call whose event is not stored yet.
#[derive(Debug)]
struct Waiting {
    call: ApiCalled,
    stream: StreamId,
    event: Event,
    done: oneshot::Sender<()>,
}

impl Waiting {
    /// Reports an event that is not stored, and ends the wait for it.
    fn end(self, appended: &Result<(), Unstored>) {
        if let Err(error) = appended {
            lost(&self.call, &Chain(error).to_string());
        }
        // Sending fails if the request was cancelled.
        let _ = self.done.send(());
    }
}

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
    #[error(transparent)]
    Refused(StoreError),
    #[error("it took longer than {TIMEOUT:?}")]
    Late,
}

impl AuditLog {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, waiting: Mutex::default() }
    }

    /// The event that a call is made, and its id. The first poll of the future hands the event to the store.
    pub(super) fn announce(
        &self,
        call: &ApiCalled,
        metadata: Metadata,
    ) -> Result<(EventId, BoxFuture<'static, ()>), InvalidAudit> {
        let (stream, event) = event(&*self.clock, API_REQUESTED, call, metadata)?;
        let id = event.id.clone();
        let store = Arc::clone(&self.store);
        let announcement = async move {
            if let Err(error) = store.append_one(Append::new(stream, vec![event])).await {
                let error = Chain(&error).to_string();
                warn!(target: "aios_service::audit", error, "failed to store that a call is made");
            }
        };
        Ok((id, Box::pin(announcement)))
    }

    /// Begins to store the outcome of a call. The returned receiver completes once the event is stored or
    /// reported as lost; the event is stored even if the receiver is dropped. Requires a runtime of tokio.
    pub(super) fn record(
        self: &Arc<Self>,
        call: ApiCalled,
        metadata: Metadata,
    ) -> oneshot::Receiver<()> {
        let (done, stored) = oneshot::channel();
        match event(&*self.clock, API_CALLED, &call, metadata) {
            Ok((stream, event)) => self.enqueue(Waiting { call, stream, event, done }),
            Err(error) => lost(&call, &Chain(&error).to_string()),
        }
        stored
    }

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

    /// Stores events of one stream. If the store refuses them together, it gets each alone, so that one
    /// which it refuses takes no other with it.
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
                // The call that waits may be the last one, and its store be opened again.
                drop(self);
                batch.into_iter().for_each(|call| call.end(&appended));
            }
        }
    }

    async fn append(&self, batch: &[Waiting]) -> Result<(), Unstored> {
        tokio::select! {
            biased;
            appended = self.append_until_taken(batch) => appended.map_err(Unstored::Refused),
            () = self.clock.sleep(TIMEOUT) => Err(Unstored::Late),
        }
    }

    async fn append_until_taken(&self, batch: &[Waiting]) -> Result<(), StoreError> {
        let Some(first) = batch.first() else { return Ok(()) };
        loop {
            // Repeating an append is safe: its events have ids.
            let events = batch.iter().map(|call| call.event.clone()).collect();
            match self.store.append_one(Append::new(first.stream.clone(), events)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() => self.clock.sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a call belongs to the stream of a batch. There is one for each day.
fn is_same(batch: &[Waiting], next: &Waiting) -> bool {
    batch.first().is_some_and(|first| first.stream == next.stream)
}

fn lost(call: &ApiCalled, error: &str) {
    error!(target: "aios_service::audit", error, ?call, "failed to store an audit event");
}

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
    async fn should_store_the_calls_that_wait_in_one_append() {
        let store = MemoryStore::new();
        let log = log_on(&store);
        let mut stored: Vec<_> =
            ["/a", "/b", "/c"].map(|path| log.record(call(path), Metadata::default())).into();
        // The task that stores them begins once; a second one would find nothing that waits.
        assert_eq!(log.waiting.lock().len(), 3);
        let last = stored.pop().unwrap();
        drop(stored);
        last.await.unwrap();
        assert_eq!(paths(&store).await, ["/a", "/b", "/c"], "also those of cancelled requests");
        assert!(log.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn should_lose_no_call_with_one_that_the_store_refuses() {
        let store = MemoryStore::connect_with(MemoryOptions::new().with_max_event_bytes(600));
        let store = store.unwrap();
        let log = log_on(&store);
        let long = "x".repeat(1000);
        let recorded = ["/a", &long, "/c"].map(|path| log.record(call(path), Metadata::default()));
        for stored in recorded {
            stored.await.unwrap();
        }
        assert_eq!(paths(&store).await, ["/a", "/c"]);
    }

    #[tokio::test]
    async fn should_take_no_more_calls_than_it_may_hold() {
        let store = MemoryStore::new();
        let log = log_on(&store);
        let begun = (0..=MAX_WAITING).map(|_| log.record(call("/a"), Metadata::default()));
        let mut begun: Vec<_> = begun.collect();
        let refused = begun.pop().unwrap().try_recv();
        assert_eq!(refused, Err(TryRecvError::Closed), "it is reported as lost at once");
        for stored in begun {
            stored.await.unwrap();
        }
        assert_eq!(store.head().await.unwrap(), MAX_WAITING as u64);
    }
}
