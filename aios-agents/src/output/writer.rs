//! One writer of an output stream: what it has written and the store does not have yet.
//!
//! Its backlog is bounded. Output of an attempt is gathered into events of up to 1,000 items. The code
//! of a workflow writes again what it wrote before whenever it is replayed, so each of its items is an
//! event whose id follows from its number, and the store keeps it once.
//!
//! Numbers count items and ends from the beginning of the writer: `stored ≤ taken ≤ written`. A
//! flush waits until `stored` reaches what was `written` when it began. After a permanent error of
//! the store, every further write and flush fails with it.
//!
//! One lock guards the backlog. Encoding happens outside of it.

use std::{pin::pin, sync::Arc};

use aios_core::{
    Chain,
    catalog::system::{self, OutputAppended},
    clock::Clock,
    event::{Event, EventError, EventId, EventType, Metadata, Payload},
    output::OutputError,
    store::StreamId,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

/// Largest item, in bytes.
const MAX_ITEM_BYTES: usize = 256 * 1024;
/// How much a task or step may write ahead of the store, in bytes.
const MAX_BACKLOG_BYTES: usize = 4 * 1024 * 1024;
/// Maximum number of items of one event. Offsets depend on it.
pub(super) const MAX_ITEMS: usize = 1000;
/// An event accepts no more items once it has this many bytes.
const EVENT_BYTES: usize = 64 * 1024;

/// Maximum size in bytes of the items of a part that the code of a workflow has written. A single item
/// may be larger.
const PART_BYTES: usize = 1024 * 1024;

/// The kind of a writer.
pub(super) enum Identity {
    /// One attempt of a task or step, as [`attempt_id`] names it.
    Attempt(String),
    /// The code of a workflow, which writes the same items in every replay. Each item has an event
    /// of its own, whose id follows from `key` and its number, so that the store keeps it once.
    Code { key: String },
}

/// Collects the output of one writer until it is stored.
pub(super) struct Writer {
    clock: Arc<dyn Clock>,
    /// The source of its events.
    source: Arc<str>,
    /// The stream of the log that the events go to.
    stream: StreamId,
    /// In the metadata of each event.
    run_id: Arc<str>,
    /// As readers see it; see `OutputItem::writer`.
    name: Arc<str>,
    /// Id of the attempt; empty for the code of a workflow, which has none.
    attempt: Arc<str>,
    identity: Identity,
    types: Types,
    /// Shared by the code that writes and the task of the hub.
    backlog: Mutex<Backlog>,
    /// Notified when output was stored, and at a failure.
    progressed: Notify,
}

/// The types of its events.
///
/// Parsed once per writer.
struct Types {
    /// Items were written.
    appended: EventType,
    /// The stream was ended.
    ended: EventType,
}

/// The content of the lock.
#[derive(Default)]
struct Backlog {
    /// Written and not taken yet, in order.
    pending: Vec<Pending>,
    /// Size of the items in `pending`.
    bytes: usize,
    /// Number of items and ends that were written, taken and stored so far.
    written: u64,
    taken: u64,
    stored: u64,
    /// Whether the writer is in the queue of the hub.
    is_queued: bool,
    /// The first permanent error.
    failure: Option<OutputError>,
}

/// An item or an end that was written.
pub(super) enum Pending {
    /// One item.
    Item(Payload),
    /// The end of the stream. What comes after it is stored, and read by no reader.
    End,
}

/// A fresh id of an attempt: its number, and a UUID that increases with time. The number comes
/// first, because two processes may not have the same time.
pub(super) fn attempt_id(number: u32) -> String {
    format!("{number:010}/{}", EventId::generate())
}

/// Whether an attempt of a writer is later than another one of it. The number of an attempt that a
/// process of an earlier version has written is not known.
pub(super) fn is_later(attempt: &str, other: &str) -> bool {
    match (attempt.split_once('/'), other.split_once('/')) {
        (None, Some((_, other))) => attempt > other,
        (Some((_, attempt)), None) => attempt > other,
        _ => attempt > other,
    }
}

/// Refuses an item that is too large.
pub(super) fn check_size(pending: &Pending) -> Result<(), OutputError> {
    let limit = MAX_ITEM_BYTES;
    match pending {
        Pending::Item(item) if item.as_str().len() > limit => {
            Err(OutputError::TooLarge { bytes: item.as_str().len(), limit })
        }
        Pending::Item(_) | Pending::End => Ok(()),
    }
}

/// Divides events that have one item or end each.
fn divide(events: Vec<Event>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut bytes = 0;
    for event in events {
        let size = event.payload.as_str().len();
        match parts
            .last_mut()
            .filter(|it| it.events.len() < MAX_ITEMS && bytes + size <= PART_BYTES)
        {
            Some(part) => {
                part.events.push(event);
                part.count += 1;
                bytes += size;
            }
            None => {
                parts.push(Part { events: vec![event], count: 1 });
                bytes = size;
            }
        }
    }
    parts
}

/// Events to append, and how many items and ends they have.
pub(super) struct Part {
    /// Appended together: all or none.
    pub(super) events: Vec<Event>,
    /// Items and ends in the events.
    pub(super) count: u64,
}

impl Writer {
    /// A writer that has written nothing.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        source: Arc<str>,
        stream: StreamId,
        run_id: &str,
        name: &str,
        identity: Identity,
    ) -> Result<Self, OutputError> {
        let event_type = |action| EventType::new(system::DOMAIN, "run", action);
        let appended = event_type(system::OUTPUT_APPENDED)?;
        let ended = event_type(system::OUTPUT_ENDED)?;
        let types = Types { appended, ended };
        let attempt = match &identity {
            Identity::Attempt(id) => id.as_str().into(),
            Identity::Code { .. } => "".into(),
        };
        let run_id = run_id.into();
        let name = name.into();
        Ok(Self {
            clock,
            source,
            stream,
            run_id,
            name,
            attempt,
            identity,
            types,
            backlog: Mutex::default(),
            progressed: Notify::new(),
        })
    }

    /// The stream that the events go to.
    pub(super) fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Adds what was written. Returns whether the writer must be put into the queue of the hub.
    pub(super) fn push(&self, pending: Pending) -> Result<bool, OutputError> {
        let mut backlog = self.backlog.lock();
        if let Some(failure) = &backlog.failure {
            return Err(failure.clone());
        }
        check_size(&pending)?;
        if let Pending::Item(item) = &pending {
            let bytes = item.as_str().len();
            // The code of a workflow writes everything again in a replay, faster than the store
            // takes it, and can't handle an error that depends on the speed of the store.
            let is_limited = matches!(self.identity, Identity::Attempt(_));
            if is_limited && backlog.bytes + bytes > MAX_BACKLOG_BYTES {
                return Err(OutputError::Backlog { bytes: backlog.bytes });
            }
            backlog.bytes += bytes;
        }
        backlog.pending.push(pending);
        backlog.written += 1;
        // Decided under the lock, so that exactly one of several writes queues the writer.
        Ok(!std::mem::replace(&mut backlog.is_queued, true))
    }

    /// Takes what was written, as events to append in this order. The items of an attempt are one part.
    /// Those of the code of a workflow may be any number, so they are divided.
    pub(super) fn take(&self) -> Vec<Part> {
        let mut backlog = self.backlog.lock();
        // From here on, a write queues the writer again, for the next batch.
        backlog.is_queued = false;
        backlog.bytes = 0;
        let pending = std::mem::take(&mut backlog.pending);
        // Readers must not get what follows a gap.
        if backlog.failure.is_some() {
            return Vec::new();
        }
        let first = backlog.taken;
        backlog.taken = backlog.written;
        let count = backlog.taken - first;
        drop(backlog);
        let events = match self.encode(pending, first) {
            Ok(events) => events,
            Err(error) => {
                self.fail(error);
                return Vec::new();
            }
        };
        match self.identity {
            Identity::Attempt(_) => vec![Part { events, count }],
            Identity::Code { .. } => divide(events),
        }
    }

    /// Whether it writes again what is stored, when the code of its run is replayed.
    pub(super) fn repeats(&self) -> bool {
        matches!(self.identity, Identity::Code { .. })
    }

    /// Divides what was written into events. `first` is the number of the first item.
    fn encode(&self, pending: Vec<Pending>, mut first: u64) -> Result<Vec<Event>, EventError> {
        let mut events = Vec::new();
        let mut items = Vec::new();
        let mut bytes = 0;
        let most = match self.identity {
            Identity::Attempt(_) => MAX_ITEMS,
            Identity::Code { .. } => 1,
        };
        for pending in pending {
            match pending {
                Pending::Item(item) => {
                    bytes += item.as_str().len();
                    items.push(item);
                }
                Pending::End => {
                    self.encode_items(&mut items, &mut first, &mut events)?;
                    events.push(self.event(first, &self.types.ended, &())?);
                    first += 1;
                }
            }
            if items.len() >= most || bytes >= EVENT_BYTES {
                self.encode_items(&mut items, &mut first, &mut events)?;
                bytes = 0;
            }
        }
        self.encode_items(&mut items, &mut first, &mut events)?;
        Ok(events)
    }

    /// Adds one event with the items gathered so far, if there are any.
    fn encode_items(
        &self,
        items: &mut Vec<Payload>,
        first: &mut u64,
        events: &mut Vec<Event>,
    ) -> Result<(), EventError> {
        if items.is_empty() {
            return Ok(());
        }
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        let writer = Arc::clone(&self.name);
        let attempt = Arc::clone(&self.attempt);
        let data = OutputAppended::new(writer, attempt, *first, std::mem::take(items));
        events.push(self.event(*first, &self.types.appended, &data)?);
        *first += count;
        Ok(())
    }

    /// One event. `number` is that of its first item; it makes the id, if the writer is the code of
    /// a workflow.
    fn event<T: serde::Serialize>(
        &self,
        number: u64,
        event_type: &EventType,
        data: &T,
    ) -> Result<Event, EventError> {
        let metadata = Metadata { run_id: Some(Arc::clone(&self.run_id)), ..Metadata::default() };
        let event = Event::new(event_type.clone(), Arc::clone(&self.source), data)?
            .with_timestamp(self.clock.now())
            .with_metadata(metadata);
        Ok(match &self.identity {
            Identity::Attempt(_) => event,
            Identity::Code { key } => {
                event.with_id(EventId::derive(&format!("{key}/{}/{number}", self.stream)))
            }
        })
    }

    /// Counts what the store has taken, and wakes those that flush.
    pub(super) fn stored(&self, count: u64) {
        self.backlog.lock().stored += count;
        self.progressed.notify_waiters();
    }

    /// Fails the writer. Only the first error is kept and logged.
    pub(super) fn fail(&self, error: impl Into<OutputError>) {
        let error = error.into();
        let mut backlog = self.backlog.lock();
        if backlog.failure.is_none() {
            warn!(
                error = %Chain(&error), code = error.code(), stream = %self.stream,
                "output is lost"
            );
            backlog.failure = Some(error);
        }
        drop(backlog);
        self.progressed.notify_waiters();
    }

    /// Waits until everything that was written so far is stored. Calls `hurry` before it waits.
    pub(super) async fn flushed(&self, hurry: impl Fn()) -> Result<(), OutputError> {
        let target = self.backlog.lock().written;
        loop {
            // Registered before the check, so that progress in between is not missed.
            let mut progressed = pin!(self.progressed.notified());
            progressed.as_mut().enable();
            {
                let backlog = self.backlog.lock();
                if backlog.stored >= target {
                    return Ok(());
                }
                if let Some(failure) = &backlog.failure {
                    return Err(failure.clone());
                }
            }
            // Repeated at each turn: a batch that was in progress may not have had the rest.
            hurry();
            progressed.await;
        }
    }
}
