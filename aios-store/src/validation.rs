//! What every store decides about an append before it writes.

use std::collections::HashSet;

use aios_core::{
    event::{Event, EventId},
    store::{Append, Appended, Expected, StoreError, StreamId, ending},
};
use uuid::Uuid;

use crate::rows::encode_metadata;

/// Largest event that a store takes unless told otherwise: payload and metadata together, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Where an event is stored already.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// Refuses what needs no look at the log: no events, one that is too large, one that stands twice,
/// one after the end of a run.
///
/// Returns the metadata of each event, as its row holds it; see [`encode_metadata`].
pub(crate) fn validate_append(
    append: &Append,
    limit: usize,
) -> Result<Vec<Option<String>>, StoreError> {
    if append.events.is_empty() {
        return Err(StoreError::EmptyAppend { stream: append.stream.clone() });
    }
    reject_duplicates(&append.events)?;
    reject_after_end(append)?;
    append.events.iter().map(|event| sized_metadata(&append.stream, event, limit)).collect()
}

fn sized_metadata(
    stream: &StreamId,
    event: &Event,
    limit: usize,
) -> Result<Option<String>, StoreError> {
    let metadata = encode_metadata(stream, &event.metadata)?;
    let bytes = event.payload.as_str().len() + metadata.as_ref().map_or(0, String::len);
    if bytes > limit {
        return Err(StoreError::TooLarge { id: event.id.clone(), bytes, limit });
    }
    Ok(metadata)
}

fn reject_duplicates(events: &[Event]) -> Result<(), StoreError> {
    if events.len() == 1 {
        return Ok(());
    }
    let mut keys: HashSet<Uuid> = HashSet::with_capacity(events.len());
    match events.iter().find(|event| !keys.insert(event.id.key())) {
        Some(event) => Err(StoreError::DuplicateEvent { id: event.id.clone() }),
        None => Ok(()),
    }
}

fn reject_after_end(append: &Append) -> Result<(), StoreError> {
    let Append { stream, events, .. } = append;
    let Some((_, before)) = events.split_last() else { return Ok(()) };
    match before.iter().any(|event| ending(stream, &event.event_type).is_some()) {
        true => Err(StoreError::StreamClosed { stream: stream.clone() }),
        false => Ok(()),
    }
}

/// What looking up the ids of an append's events showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// None of them is stored.
    New,
    /// All of them are stored in the stream in one piece, and the last one landed here.
    Repeated(Appended),
    /// Some are, or elsewhere; this is the first of them.
    Conflicting(EventId),
}

impl Lookup {
    /// Judges what was found under the ids of the append's events, in their order.
    pub(crate) fn of(stream: &StreamId, found: &[(&EventId, Option<Location>)]) -> Self {
        let Some((taken, _)) = found.iter().find(|(_, place)| place.is_some()) else {
            return Self::New;
        };
        let places =
            found.iter().map(|(_, place)| place.as_ref().filter(|at| at.stream == *stream));
        let places: Option<Vec<&Location>> = places.collect();
        let places = places.unwrap_or_default();
        let versions = places.iter().map(|place| place.version);
        match (places.first(), places.last()) {
            (Some(first), Some(last)) if versions.eq(first.version..=last.version) => {
                Self::Repeated(Appended {
                    version: last.version,
                    position: last.position,
                    repeated: true,
                })
            }
            _ => Self::Conflicting((*taken).clone()),
        }
    }
}

/// Compares what the writer believes with what is there.
pub(crate) fn check_expected(
    stream: &StreamId,
    expected: Expected,
    actual: u64,
) -> Result<(), StoreError> {
    let fits = match expected {
        Expected::Any => true,
        Expected::Empty => actual == 0,
        Expected::Exact(version) => actual == version,
    };
    if fits { Ok(()) } else { Err(StoreError::Conflict { stream: stream.clone(), actual }) }
}
