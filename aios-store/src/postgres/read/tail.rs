use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aios_core::{
    event::Timestamp,
    store::{Append, Appended, RecordedEvent},
};

use crate::{
    postgres::append::{AppendResults, Batch},
    sync,
};

/// Events that are kept at most.
const EVENTS: usize = 4096;

/// Bytes of payload that are kept at most.
const BYTES: usize = 4 * 1024 * 1024;

/// How long after the last append events are handed out: retention lets nothing go that soon. And how
/// long after somebody asked they are kept at all.
const FRESH: Duration = Duration::from_secs(1);

/// The end of the log, as far as this process appended it without anybody coming in between. Who
/// follows the log need not ask the database for what just came from here. Empty while nobody does.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Events>>);

#[derive(Default)]
struct Events {
    events: VecDeque<RecordedEvent>,
    bytes: usize,
    pushed_at: Option<Timestamp>,
    asked_at: Option<Timestamp>,
}

impl Tail {
    /// Adds a batch that was committed, and of which nothing was refused or stored already.
    pub(crate) fn push(&self, batch: &Batch, results: &AppendResults, now: Timestamp) {
        let mut tail = self.lock();
        if !is_fresh(tail.asked_at, now) {
            tail.clear();
            return;
        }
        for ((append, _), answer) in batch.appends().zip(results) {
            match answer {
                Ok(appended) => recorded(append, *appended).for_each(|event| tail.push(event)),
                Err(_) => tail.clear(),
            }
        }
        tail.pushed_at = Some(now);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// So many events after a position. `None` if not all are here: only the database knows then
    /// whether there are more.
    pub(crate) fn page(
        &self,
        after: u64,
        limit: usize,
        now: Timestamp,
    ) -> Option<Vec<RecordedEvent>> {
        let mut tail = self.lock();
        tail.asked_at = Some(now);
        if !is_fresh(tail.pushed_at, now) {
            return None;
        }
        let first = tail.events.front()?.position;
        let start = usize::try_from(after.checked_add(1)?.checked_sub(first)?).ok()?;
        let end = start.checked_add(limit)?;
        (end <= tail.events.len()).then(|| tail.events.range(start..end).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        sync::lock(&self.0)
    }
}

impl Events {
    fn push(&mut self, event: RecordedEvent) {
        if self.events.back().is_some_and(|last| last.position + 1 != event.position) {
            self.clear();
        }
        self.bytes += bytes(&event);
        self.events.push_back(event);
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some(first) = self.events.pop_front() else { return };
            self.bytes -= bytes(&first);
        }
    }

    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}

fn is_fresh(at: Option<Timestamp>, now: Timestamp) -> bool {
    at.is_some_and(|at| now <= at + FRESH)
}

fn bytes(recorded: &RecordedEvent) -> usize {
    recorded.event.payload.as_str().len()
}

/// The events of an append; the answer says where the last one is.
fn recorded(append: &Append, last: Appended) -> impl Iterator<Item = RecordedEvent> {
    let length = append.events.len() as u64;
    let (position, version) = (last.position - length, last.version - length);
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

    fn now() -> Timestamp {
        Timestamp::from_micros(1_000_000)
    }

    fn push(tail: &Tail, events: usize, last: u64) {
        let event = || Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let mut batch = Batch::default();
        let append = Append::new("a".parse().unwrap(), (0..events).map(|_| event()).collect());
        batch.push(ValidAppend::new(append, 100).unwrap());
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

    fn followed() -> Tail {
        let tail = Tail::default();
        assert_eq!(positions(&tail, 0, 1), None);
        tail
    }

    #[test]
    fn should_keep_nothing_while_nobody_asks() {
        let tail = Tail::default();
        push(&tail, 1, 1);
        assert_eq!(positions(&tail, 0, 1), None);
    }

    #[test]
    fn should_hand_out_only_what_is_here_in_full() {
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
    fn should_begin_anew_where_somebody_else_appended() {
        let tail = followed();
        push(&tail, 3, 10);
        push(&tail, 1, 12);
        assert_eq!(positions(&tail, 9, 1), None);
        assert_eq!(positions(&tail, 11, 1), Some(vec![12]));
    }

    #[test]
    fn should_keep_a_limited_number_for_a_limited_time() {
        let tail = followed();
        push(&tail, EVENTS, 5000);
        push(&tail, 1, 5001);
        assert_eq!(positions(&tail, 5000 - 4096, 1), None);
        assert_eq!(positions(&tail, 5000 - 4095, 1), Some(vec![906]));
        assert!(tail.page(5000, 1, now() + FRESH).is_some());
        assert!(tail.page(5000, 1, now() + FRESH * 2).is_none());
    }
}
