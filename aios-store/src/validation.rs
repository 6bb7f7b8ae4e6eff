//! The checks that every store makes before it writes an append.

use std::collections::HashSet;

use aios_core::{
    catalog::ending,
    event::{Event, EventId},
    store::{Append, Appended, Expected, StoreError, StreamId},
};
use uuid::Uuid;

use crate::rows::encode_metadata;

/// Default limit of an event: payload and metadata together, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Where an existing event is stored.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// Makes the checks that do not need the log. Refuses an append that is empty, that has an event that is
/// too large, that has the same event twice, or that has an event after the end of its run.
///
/// Returns the metadata of each event in the form of its row; see [`encode_metadata`].
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

/// The result of looking up the ids of an append's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// None of the events is stored.
    New,
    /// All events are stored in this stream with consecutive versions: the append is a repetition.
    Repeated(Appended),
    /// Some of the events are stored, or they are stored elsewhere. This is the first of them.
    Conflicting(EventId),
}

impl Lookup {
    /// Classifies the locations that were found for the append's events, in the order of the events.
    pub(crate) fn of(stream: &StreamId, found: &[(&EventId, Option<Location>)]) -> Self {
        let Some((stored, _)) = found.iter().find(|(_, location)| location.is_some()) else {
            return Self::New;
        };
        let locations: Option<Vec<&Location>> = found
            .iter()
            .map(|(_, location)| location.as_ref().filter(|at| at.stream == *stream))
            .collect();
        let locations = locations.unwrap_or_default();
        let versions = locations.iter().map(|location| location.version);
        match (locations.first(), locations.last()) {
            (Some(first), Some(last)) if versions.eq(first.version..=last.version) => {
                Self::Repeated(Appended {
                    version: last.version,
                    position: last.position,
                    repeated: true,
                })
            }
            _ => Self::Conflicting((*stored).clone()),
        }
    }
}

/// Compares the expected version of a stream with its actual version.
pub(crate) fn check_expected(
    stream: &StreamId,
    expected: Expected,
    actual: u64,
) -> Result<(), StoreError> {
    let matches = match expected {
        Expected::Any => true,
        Expected::Empty => actual == 0,
        Expected::Exact(version) => actual == version,
    };
    if matches { Ok(()) } else { Err(StoreError::Conflict { stream: stream.clone(), actual }) }
}
