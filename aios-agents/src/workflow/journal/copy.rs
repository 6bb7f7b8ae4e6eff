use aios_core::event::{Event, EventId, Metadata};
use serde_json::Value;

/// Field of the metadata of events that a fork copied: the id of the original.
const COPY_OF: &str = "copy_of";

/// Marks the metadata of an event as that of a copy, which is not published again.
pub(crate) fn mark_copy(metadata: &mut Metadata, original: &EventId) {
    metadata.extra.insert(COPY_OF.to_owned(), Value::String(original.to_string()));
}

/// Whether an event was copied from the journal of another run.
pub(crate) fn is_copy(event: &Event) -> bool {
    event.metadata.extra.contains_key(COPY_OF)
}
