//! The checks that every store makes before it writes an append.

use std::collections::HashSet;

use aios_core::{
    catalog::ending,
    event::Event,
    store::{Append, Expected, StoreError, StreamId},
};
use uuid::Uuid;

use crate::rows::encode_metadata;

/// Default limit of an event: payload and metadata together, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

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
