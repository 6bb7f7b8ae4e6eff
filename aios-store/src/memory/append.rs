//! Appends, in one critical section for each call.
//!
//! The order of the checks is part of the contract: ids first, then the fence, the expected
//! version, and whether the stream is closed. A repeated append has to return its first result
//! although a newer owner holds the shard, the version has moved on, or the run has ended since.
//! The ids are therefore looked up before anything can refuse the append.
//!
//! An append that is refused has changed nothing, and its neighbours in the batch are not affected.

use aios_core::{
    catalog::{closes, ending},
    event::EventId,
    projection::project,
    store::{Append, Appended, RecordedEvent, StoreError, StreamId},
};

use super::{MemoryStore, State, Stream};
use crate::{
    repeat::{Location, Lookup},
    validation::{check_expected, validate_append},
};

// One lock covers the whole batch, so no reader sees a part of an append. The results are those of the
// SQL stores: a repeated append returns its first result even if its fence or its expected version no
// longer holds, so the ids are looked up first.

impl MemoryStore {
    /// Appends a batch, one append after the other, and then wakes the readers once.
    pub(super) fn append_all(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut state = self.0.state.lock();
        let limit = self.0.max_event_bytes;
        let answers = batch.into_iter().map(|append| state.append(append, limit)).collect();
        // Sent under the lock. Otherwise two calls could send their heads in the wrong order.
        self.0.head.send_replace(state.head());
        answers
    }
}

impl State {
    /// Checks and stores one append.
    fn append(&mut self, append: Append, limit: usize) -> Result<Appended, StoreError> {
        validate_append(&append, limit)?;
        match Lookup::of(&append.stream, &self.locations(&append)) {
            Lookup::New => {}
            Lookup::Repeated(appended) => return Ok(appended),
            Lookup::Conflicting(id) => return Err(StoreError::DuplicateEvent { id }),
        }
        self.leases.check(append.fence)?;
        let stream = self.streams.get(&append.stream);
        check_expected(&append.stream, append.expected, stream.map_or(0, Stream::version))?;
        if stream.is_some_and(|stream| stream.is_closed) {
            return Err(StoreError::StreamClosed { stream: append.stream });
        }
        Ok(self.insert(append))
    }

    /// Returns where each event of the append is stored, if it is.
    fn locations<'a>(&self, append: &'a Append) -> Vec<(&'a EventId, Option<Location>)> {
        append.events.iter().map(|event| (&event.id, self.location(&event.id))).collect()
    }

    /// Where the event with this id is stored, if it is.
    fn location(&self, id: &EventId) -> Option<Location> {
        let recorded = self.recorded(*self.ids.get(&id.key())?)?;
        Some(Location {
            stream: recorded.stream.clone(),
            version: recorded.version,
            position: recorded.position,
        })
    }

    /// Stores the events of an append that passed all checks, and applies their changes to the read
    /// models.
    fn insert(&mut self, append: Append) -> Appended {
        let Append { stream: id, events, .. } = append;
        let mut position = self.head();
        let may_end = events.last().is_some_and(|last| ending(&id, &last.event_type).is_some());
        let stream = self.streams.entry(id.clone()).or_default();
        for event in events {
            position += 1;
            self.ids.insert(event.id.key(), position);
            stream.positions.push(position);
            let recorded = Box::new(RecordedEvent {
                position,
                stream: id.clone(),
                version: stream.version(),
                event,
            });
            self.tables.apply(project(&recorded));
            self.log.insert(position, recorded);
        }
        let appended = Appended { version: stream.version(), position, repeated: false };
        if may_end {
            self.close_if_ended(&id);
        }
        appended
    }

    /// Closes a stream if its last event ends the run.
    ///
    /// Whether the last event closes the stream also depends on the first one: see `closes` of the
    /// catalogue.
    fn close_if_ended(&mut self, id: &StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let event_type = |position: Option<&u64>| Some(&self.log.get(position?)?.event.event_type);
        let first = event_type(stream.positions.first());
        let last = event_type(stream.positions.last());
        stream.is_closed = first.zip(last).is_some_and(|(first, last)| closes(id, first, last));
    }

    /// Returns the version of a stream; 0 if it has no event.
    pub(super) fn version(&self, stream: &StreamId) -> u64 {
        self.streams.get(stream).map_or(0, Stream::version)
    }

    /// Returns the position of the last event; 0 if there is none. Retention never removes the last
    /// event, so the next position is never one that was used.
    pub(super) fn head(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(position, _)| *position)
    }

    /// Returns the event at a position, unless retention has removed it.
    pub(super) fn recorded(&self, position: u64) -> Option<&RecordedEvent> {
        self.log.get(&position).map(Box::as_ref)
    }
}
