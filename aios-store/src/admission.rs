//! What every store decides about an append before it writes.

use std::collections::HashSet;

use aios_core::{
    event::Event,
    store::{Append, Appended, Expected, StoreError, StreamId},
};
use uuid::Uuid;

/// Largest event that a store takes unless told otherwise: payload and metadata together, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Where an event is stored already.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// Refuses what needs no look at the log: no events, one that is too large, one that stands twice.
pub(crate) fn admit(append: &Append, limit: usize) -> Result<(), StoreError> {
    if append.events.is_empty() {
        return Err(StoreError::EmptyAppend { stream: append.stream.clone() });
    }
    append.events.iter().try_for_each(|event| check_size(event, limit))?;
    refuse_doubles(&append.events)
}

fn check_size(event: &Event, limit: usize) -> Result<(), StoreError> {
    let metadata = encode_metadata(event)?.map_or(0, |text| text.len());
    let bytes = event.payload.as_str().len() + metadata;
    if bytes > limit {
        return Err(StoreError::TooLarge { id: event.id.clone(), bytes, limit });
    }
    Ok(())
}

fn refuse_doubles(events: &[Event]) -> Result<(), StoreError> {
    if events.len() == 1 {
        return Ok(());
    }
    let mut keys: HashSet<Uuid> = HashSet::with_capacity(events.len());
    match events.iter().find(|event| !keys.insert(event.id.key())) {
        Some(event) => Err(StoreError::DuplicateEvent { id: event.id.clone() }),
        None => Ok(()),
    }
}

/// The metadata as JSON; `None` if there is none.
pub(crate) fn encode_metadata(event: &Event) -> Result<Option<String>, StoreError> {
    if event.metadata.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(&event.metadata).map(Some).map_err(|source| StoreError::Backend {
        backend: "json",
        operation: "write metadata",
        retryable: false,
        source: std::sync::Arc::new(source),
    })
}

/// Decides about an append whose events were looked up by id, `places` in the order of its events:
/// `Ok(None)` if it is new, where it landed if all of it is stored in its stream in one piece.
pub(crate) fn repeated(
    append: &Append,
    places: &[Option<Place>],
) -> Result<Option<Appended>, StoreError> {
    let Some(stored) = places.iter().position(Option::is_some) else { return Ok(None) };
    let versions = places.iter().map_while(|place| {
        place.as_ref().filter(|place| place.stream == append.stream).map(|place| place.version)
    });
    let first = places.first().and_then(|place| Some(place.as_ref()?.version));
    let in_one_piece = first
        .is_some_and(|first| versions.zip(first..).filter(|(a, b)| a == b).count() == places.len());
    match places.last() {
        Some(Some(last)) if in_one_piece => {
            Ok(Some(Appended { version: last.version, position: last.position }))
        }
        _ => {
            let double = append.events.get(stored).map(|event| event.id.clone());
            Err(double.map_or(StoreError::Closed, |id| StoreError::DuplicateEvent { id }))
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
