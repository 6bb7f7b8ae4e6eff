//! The rows of an append, prepared on the caller's thread.
//!
//! Callers run on many threads and the writer on one, so whatever does not need the database is
//! done here: validation, the encoding of metadata, and the keys.

use aios_core::store::{Append, Expected, Fence, RecordedEvent, StoreError, StreamId};
use uuid::Uuid;

use crate::validation::validate_append;

/// Weight of a call in addition to the bytes of its events.
///
/// It stands for what a call costs in addition to its payloads and metadata, so that many small calls fill a
/// transaction too.
pub(super) const CALL_WEIGHT: usize = 1024;

/// A validated append, ready to be inserted.
pub(super) struct Prepared {
    pub(crate) stream: StreamId,
    pub(crate) rows: Vec<EventRow>,
    pub(crate) expected: Expected,
    pub(crate) fence: Option<Fence>,
}

/// The row of an event to insert. The writer sets its version and its position.
pub(super) struct EventRow {
    pub(crate) key: Uuid,
    /// `None` for the default metadata of the stream.
    pub(crate) metadata: Option<String>,
    /// Version and position are 0 until the writer sets them. The projection needs the event in
    /// this form.
    pub(crate) recorded: RecordedEvent,
}

impl Prepared {
    /// Validates an append whose events have at most `limit` bytes each, and builds its rows.
    pub(crate) fn new(append: Append, limit: usize) -> Result<Self, StoreError> {
        let metadata = validate_append(&append, limit)?;
        let Append { stream, expected, events, fence } = append;
        let rows = events
            .into_iter()
            .zip(metadata)
            .map(|(event, metadata)| EventRow {
                key: event.id.key(),
                metadata,
                recorded: RecordedEvent { position: 0, stream: stream.clone(), version: 0, event },
            })
            .collect();
        Ok(Self { stream, rows, expected, fence })
    }

    /// Approximate size in bytes.
    pub(crate) fn weight(&self) -> usize {
        let sizes = self.rows.iter().map(|row| {
            let metadata = row.metadata.as_ref().map_or(0, String::len);
            row.recorded.event.payload.as_str().len() + metadata
        });
        CALL_WEIGHT + sizes.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aios_core::event::Event;

    use super::*;

    #[test]
    fn should_weigh_payloads_and_metadata() {
        let mut event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        Arc::make_mut(&mut event.metadata).tracestate = Some("x".repeat(1000).into());
        let append = Append::new("a".parse().unwrap(), vec![event]);
        assert!(Prepared::new(append, 2000).unwrap().weight() > CALL_WEIGHT + 1000);
    }
}
