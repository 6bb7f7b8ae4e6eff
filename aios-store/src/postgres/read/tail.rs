//! The end of the log in memory.
//!
//! A process whose engine appends usually also has readers that follow the log: the relay and
//! subscriptions. Without this cache, each batch would be read back from the database right after
//! it was written. The writer pushes committed batches; `read_log` asks for a page and falls back
//! to the database.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aios_core::store::{Append, Appended, RecordedEvent};
use parking_lot::Mutex;

use crate::postgres::append::{AppendResults, Batch};

/// Maximum number of events.
const MAX_EVENTS: usize = 4096;

/// Maximum total size of payloads and metadata, in bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long events are served after the last append, and kept after the last read. It has to be short,
/// because retention in another process removes events without this process noticing.
const TIME_TO_LIVE: Duration = Duration::from_secs(1);

/// A cache of the last events of the log, so that a reader in this process that follows the log closely
/// does not query the database for events that this process has just appended.
///
/// The cache is only correct if it has no gap. It holds consecutive positions that this process appended,
/// and starts again when another process appended in between. It serves only full pages: after a partial
/// page, there may be more events in the database. It stays empty while no reader follows the log.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Events>>);

/// The cached events, with consecutive positions.
#[derive(Default)]
struct Events {
    /// Each with the size of its payload and metadata.
    events: VecDeque<(RecordedEvent, usize)>,
    /// Sum of the sizes.
    bytes: usize,
    /// When the last batch came.
    pushed_at: Option<Duration>,
    /// When a page was last asked for, whether or not it was served.
    read_at: Option<Duration>,
}

impl Tail {
    /// Adds a committed batch. None of its appends may have been refused or stored before.
    pub(crate) fn push(&self, batch: &Batch, results: &AppendResults, now: Duration) {
        let mut tail = self.0.lock();
        if !is_fresh(tail.read_at, now) {
            tail.clear();
            return;
        }
        for (valid, result) in batch.valid().iter().zip(results) {
            match result {
                Ok(appended) => recorded(&valid.append, *appended)
                    .zip(valid.sizes())
                    .for_each(|(event, bytes)| tail.push(event, bytes)),
                Err(_) => tail.clear(),
            }
        }
        tail.pushed_at = Some(now);
    }

    /// Removes all events.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Returns `limit` events after a position, or `None` if not all of them are cached.
    pub(crate) fn page(
        &self,
        after: u64,
        limit: usize,
        now: Duration,
    ) -> Option<Vec<RecordedEvent>> {
        let mut tail = self.0.lock();
        tail.read_at = Some(now);
        if !is_fresh(tail.pushed_at, now) {
            return None;
        }
        let first = tail.events.front()?.0.position;
        let start = usize::try_from(after.checked_add(1)?.checked_sub(first)?).ok()?;
        let end = start.checked_add(limit)?;
        (end <= tail.events.len())
            .then(|| tail.events.range(start..end).map(|(event, _)| event.clone()).collect())
    }
}

impl Events {
    /// Adds the next event. A gap before it empties the cache; the oldest events leave when it is
    /// full.
    fn push(&mut self, event: RecordedEvent, bytes: usize) {
        if self.events.back().is_some_and(|(last, _)| last.position + 1 != event.position) {
            self.clear();
        }
        self.bytes += bytes;
        self.events.push_back((event, bytes));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some((_, first)) = self.events.pop_front() else { return };
            self.bytes -= first;
        }
    }

    /// Removes all events.
    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}

/// Whether a time is recent enough for the cache to be used.
fn is_fresh(at: Option<Duration>, now: Duration) -> bool {
    at.is_some_and(|at| now <= at + TIME_TO_LIVE)
}

/// Returns the events of an append as stored. `last` is the version and position of the last one.
fn recorded(append: &Append, last: Appended) -> impl Iterator<Item = RecordedEvent> {
    let length = append.events.len() as u64;
    let position = last.position - length;
    let version = last.version - length;
    (1..).zip(&append.events).map(move |(number, event)| RecordedEvent {
        position: position + number,
        stream: append.stream.clone(),
        version: version + number,
        event: event.clone(),
    })
}

#[cfg(test)]
mod tests {
    use aios_core::event::Event;

    use super::*;
    use crate::postgres::append::ValidAppend;

    fn now() -> Duration {
        Duration::from_secs(1)
    }

    fn push(tail: &Tail, events: usize, last: u64) {
        push_described(tail, events, last, "");
    }

    /// Pushes events with a text in their metadata.
    fn push_described(tail: &Tail, events: usize, last: u64, text: &str) {
        let event = || {
            let mut event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
            Arc::make_mut(&mut event.metadata).tracestate = Some(text.into());
            event
        };
        let mut batch = Batch::default();
        let append = Append::new("a".parse().unwrap(), (0..events).map(|_| event()).collect());
        batch.push(ValidAppend::new(append, MAX_BYTES).unwrap());
        tail.push(
            &batch,
            &vec![Ok(Appended { version: last, position: last, repeated: false })],
            now(),
        );
    }

    fn positions(tail: &Tail, after: u64, limit: usize) -> Option<Vec<u64>> {
        let page = tail.page(after, limit, now())?;
        Some(page.iter().map(|event| event.position).collect())
    }

    /// A tail that was read, so that it keeps events.
    fn followed() -> Tail {
        let tail = Tail::default();
        assert_eq!(positions(&tail, 0, 1), None);
        tail
    }

    #[test]
    fn should_stay_empty_without_a_reader() {
        let tail = Tail::default();
        push(&tail, 1, 1);
        assert_eq!(positions(&tail, 0, 1), None);
    }

    #[test]
    fn should_serve_only_full_pages() {
        let tail = followed();
        push(&tail, 2, 11);
        push(&tail, 1, 12);
        assert_eq!(positions(&tail, 9, 2), Some(vec![10, 11]));
        assert_eq!(positions(&tail, 10, 2), Some(vec![11, 12]));
        assert_eq!(positions(&tail, 11, 2), None);
        assert_eq!(positions(&tail, 8, 1), None);
        assert_eq!(positions(&tail, u64::MAX, 1), None);
    }

    #[test]
    fn should_start_again_after_an_append_of_another_process() {
        let tail = followed();
        push(&tail, 3, 10);
        push(&tail, 1, 12);
        assert_eq!(positions(&tail, 9, 1), None);
        assert_eq!(positions(&tail, 11, 1), Some(vec![12]));
    }

    #[test]
    fn should_limit_the_number_and_the_age_of_events() {
        let tail = followed();
        push(&tail, MAX_EVENTS, 5000);
        push(&tail, 1, 5001);
        assert_eq!(positions(&tail, 5000 - 4096, 1), None);
        assert_eq!(positions(&tail, 5000 - 4095, 1), Some(vec![906]));
        assert!(tail.page(5000, 1, now() + TIME_TO_LIVE).is_some());
        assert!(tail.page(5000, 1, now() + TIME_TO_LIVE * 2).is_none());
    }

    #[test]
    fn should_limit_the_bytes_of_payloads_and_metadata() {
        let tail = followed();
        let text = "x".repeat(MAX_BYTES / 2);
        (1..=2).for_each(|position| push_described(&tail, 1, position, &text));
        assert_eq!(positions(&tail, 0, 1), None);
        assert_eq!(positions(&tail, 1, 1), Some(vec![2]));
    }
}
