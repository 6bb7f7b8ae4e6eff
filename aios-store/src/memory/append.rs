use aios_core::{
    event::EventId,
    projection::project,
    store::{Append, Appended, RecordedEvent, StoreError, StreamId, closes},
};

use super::{MemoryStore, State};
use crate::validation::{Location, Lookup, check_expected, validate_append};

impl MemoryStore {
    pub(super) fn append_all(&self, batch: Vec<Append>) -> Vec<Result<Appended, StoreError>> {
        let mut state = self.state();
        let limit = self.0.max_event_bytes;
        let answers = batch.into_iter().map(|append| state.append(append, limit)).collect();
        self.0.head.send_replace(state.head());
        answers
    }
}

impl State {
    fn append(&mut self, append: Append, limit: usize) -> Result<Appended, StoreError> {
        validate_append(&append, limit)?;
        match Lookup::of(&append.stream, &self.places(&append)) {
            Lookup::New => {}
            Lookup::Repeated(appended) => return Ok(appended),
            Lookup::Conflicting(id) => return Err(StoreError::DuplicateEvent { id }),
        }
        self.leases.check(append.fence)?;
        check_expected(&append.stream, append.expected, self.version(&append.stream))?;
        if self.is_closed(&append.stream) {
            return Err(StoreError::StreamClosed { stream: append.stream });
        }
        Ok(self.insert(append))
    }

    fn places<'a>(&self, append: &'a Append) -> Vec<(&'a EventId, Option<Location>)> {
        append.events.iter().map(|event| (&event.id, self.place(&event.id))).collect()
    }

    fn place(&self, id: &EventId) -> Option<Location> {
        let recorded = self.recorded(*self.ids.get(&id.key())?)?;
        Some(Location {
            stream: recorded.stream.clone(),
            version: recorded.version,
            position: recorded.position,
        })
    }

    fn insert(&mut self, append: Append) -> Appended {
        let mut appended = Appended {
            version: self.version(&append.stream),
            position: self.head(),
            repeated: false,
        };
        for event in append.events {
            appended.version += 1;
            appended.position += 1;
            self.ids.insert(event.id.key(), appended.position);
            self.streams.entry(append.stream.clone()).or_default().push(appended.position);
            let recorded = RecordedEvent {
                position: appended.position,
                stream: append.stream.clone(),
                version: appended.version,
                event,
            };
            self.tables.apply(project(&recorded));
            self.log.insert(appended.position, recorded);
        }
        appended
    }

    fn is_closed(&self, stream: &StreamId) -> bool {
        let positions = self.streams.get(stream).map(Vec::as_slice).unwrap_or_default();
        let event_type = |position: &u64| Some(&self.recorded(*position)?.event.event_type);
        let first = positions.first().and_then(event_type);
        let last = positions.last().and_then(event_type);
        first.zip(last).is_some_and(|(first, last)| closes(stream, first, last))
    }

    pub(super) fn version(&self, stream: &StreamId) -> u64 {
        self.streams.get(stream).map_or(0, |positions| positions.len() as u64)
    }

    pub(super) fn head(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(position, _)| *position)
    }

    pub(super) fn recorded(&self, position: u64) -> Option<&RecordedEvent> {
        self.log.get(&position)
    }
}
