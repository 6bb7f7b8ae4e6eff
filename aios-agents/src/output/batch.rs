//! Stores the output of several writers together.
//!
//! Each writer has a queue of parts. The first parts of all queues are appended in one call, and the
//! next part of a writer only after its first one is stored. So readers get the items of a writer in the
//! order in which they were written, whatever the store answers for a single part.
//!
//! The ids of the events are fixed when they are taken, so the store keeps each once:
//!
//! | the store answers | then |
//! |---|---|
//! | stored, now or before | the next part of the writer follows |
//! | not now | the same part is appended again after a pause |
//! | an event is stored already | what the code of a workflow wrote before its replay is left out; the rest is appended |
//! | never | the events are appended one by one; the first one that is refused fails the writer |

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    Chain,
    clock::Clock,
    event::EventId,
    store::{Append, Appended, Store, StoreError},
};
use tracing::{info, warn};

use super::writer::{Part, Writer};

/// Initial and maximum delay after a failure of the store.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Events of a stream that are read at once.
const PAGE: usize = 1000;

/// The output of a writer that is not stored yet, in order.
struct Queue {
    writer: Arc<Writer>,
    parts: VecDeque<Part>,
}

/// Stores what the writers have written, and repeats it while the store fails.
pub(super) async fn store_batch(store: &dyn Store, clock: &dyn Clock, writers: Vec<Arc<Writer>>) {
    let mut backoff = BACK_OFF.0;
    let mut is_down = false;
    // Taken once: retries append exactly the same events.
    let taken = writers.into_iter().map(|writer| Queue { parts: writer.take().into(), writer });
    let mut queues: Vec<Queue> = taken.collect();
    loop {
        queues.retain(|queue| !queue.parts.is_empty());
        if queues.is_empty() {
            break;
        }
        let results = store.append(queues.iter().filter_map(Queue::append).collect()).await;
        let mut failed = None;
        for (queue, result) in queues.iter_mut().zip(results) {
            failed = queue.settle(store, result).await.err().or(failed);
        }
        let Some(error) = failed else { continue };
        report_once(&mut is_down, &error);
        clock.sleep(backoff).await;
        backoff = (backoff * 2).min(BACK_OFF.1);
    }
    if is_down {
        info!("the store accepts output again");
    }
}

impl Queue {
    /// The append of the first part.
    fn append(&self) -> Option<Append> {
        let part = self.parts.front()?;
        Some(Append::new(self.writer.stream().clone(), part.events.clone()))
    }

    /// Handles the answer to the append of the first part. An error says that it must be repeated.
    async fn settle(
        &mut self,
        store: &dyn Store,
        result: Result<Appended, StoreError>,
    ) -> Result<(), StoreError> {
        let error = match result {
            Ok(_) => {
                let stored = self.parts.pop_front().map_or(0, |part| part.count);
                self.writer.stored(stored);
                return Ok(());
            }
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => error,
        };
        let is_known = matches!(error, StoreError::DuplicateEvent { .. }) && self.writer.repeats();
        if is_known && self.leave_out_stored(store).await? {
            return Ok(());
        }
        if !(self.writer.repeats() && self.split()) {
            // Readers must not get what follows a gap.
            self.parts.clear();
            self.writer.fail(error);
        }
        Ok(())
    }

    /// Removes the events from the first part that the stream has. Returns whether there were any.
    async fn leave_out_stored(&mut self, store: &dyn Store) -> Result<bool, StoreError> {
        let stored = match stored(store, &self.writer).await {
            Err(error) if !error.is_retryable() => return Ok(false),
            stored => stored?,
        };
        let Some(part) = self.parts.front_mut() else { return Ok(false) };
        let before = part.events.len();
        part.events.retain(|event| !stored.contains(&event.id));
        let known = u64::try_from(before - part.events.len()).unwrap_or(u64::MAX);
        part.count -= known;
        if part.events.is_empty() {
            self.parts.pop_front();
        }
        self.writer.stored(known);
        Ok(known > 0)
    }

    /// Divides the first part into single events. Returns whether it had more than one.
    fn split(&mut self) -> bool {
        let Some(part) = self.parts.pop_front_if(|part| part.events.len() > 1) else {
            return false;
        };
        for event in part.events.into_iter().rev() {
            self.parts.push_front(Part { events: vec![event], count: 1 });
        }
        true
    }
}

/// The ids of the events that the stream of a writer has.
async fn stored(store: &dyn Store, writer: &Writer) -> Result<HashSet<EventId>, StoreError> {
    let mut ids = HashSet::new();
    let mut after = 0;
    loop {
        let page = store.read_stream(writer.stream(), after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(ids) };
        after = last.version;
        ids.extend(page.into_iter().map(|recorded| recorded.event.id));
    }
}

/// Logs the first failure of an outage.
fn report_once(is_down: &mut bool, error: &StoreError) {
    if !std::mem::replace(is_down, true) {
        warn!(error = %Chain(error), code = error.code(), "failed to store output; trying again");
    }
}
