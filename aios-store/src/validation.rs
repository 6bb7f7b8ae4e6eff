//! The checks that every store makes before it writes an append.
//!
//! They need no access to the log, so an append that fails one never reaches the queue of a writer,
//! never holds a lock and never occupies a connection. What depends on the log (the fence, the
//! expected version, stored ids, closed streams) is checked by each store in the transaction that
//! writes.
//!
//! The checks make two assumptions of the writers true: an append has at least one event, and an
//! event that may end a run is the last one of its append. A writer therefore only looks at the
//! last event of an append to decide whether the stream is closed afterwards.

use std::collections::HashSet;

use aios_core::{
    catalog::{ending, workflow},
    event::Event,
    store::{Append, Expected, StoreError, StreamId},
};
use uuid::Uuid;

use crate::rows::encode_metadata;

/// Default limit of an event: payload and metadata together, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that an inherited signal may have beyond the limit: it is the copy of an accepted one, with a mark
/// and with the ids of runs that the original could leave out.
const INHERITANCE_BYTES: usize = 1024;

/// How the payload of an inherited signal ends; see [`Signaled`](workflow::Signaled).
const INHERITED: &str = r#","inherited":true}"#;

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

/// Encodes the metadata of an event, and checks the size of payload and metadata together. The size
/// counts what is written: default metadata is not.
fn sized_metadata(
    stream: &StreamId,
    event: &Event,
    limit: usize,
) -> Result<Option<String>, StoreError> {
    let metadata = encode_metadata(stream, &event.metadata)?;
    let bytes = event.payload.as_str().len() + metadata.as_ref().map_or(0, String::len);
    if bytes > limit.saturating_add(allowance(event)) {
        return Err(StoreError::TooLarge { id: event.id.clone(), bytes, limit });
    }
    Ok(metadata)
}

/// The bytes that an event may have beyond the limit.
fn allowance(event: &Event) -> usize {
    let (domain, _, action) = event.event_type.segments();
    let is_signal = domain == workflow::DOMAIN && action == workflow::SIGNALED;
    match is_signal && event.payload.as_str().ends_with(INHERITED) {
        true => INHERITANCE_BYTES,
        false => 0,
    }
}

/// Refuses an append that has an event twice. Compares keys and not texts, because the keys are
/// what the unique index of a store compares. An append of one event, the usual case, needs no set.
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

/// Refuses an append that has an event after one that ends its run. `ending` decides by the type
/// alone, without the first event of the stream, which is not known here.
fn reject_after_end(append: &Append) -> Result<(), StoreError> {
    let Append { stream, events, .. } = append;
    let Some((_, before)) = events.split_last() else { return Ok(()) };
    match before.iter().any(|event| ending(stream, &event.event_type).is_some()) {
        true => Err(StoreError::StreamClosed { stream: stream.clone() }),
        false => Ok(()),
    }
}

/// Compares the expected version of a stream with its actual version.
///
/// Used by the memory store and by SQLite. In PostgreSQL, the function `judge` of the migrations
/// decides.
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
