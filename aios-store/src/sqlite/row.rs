//! The rows of an append, prepared on the caller's side.

use aios_core::{
    event::Event,
    store::{Append, Expected, Fence, RecordedEvent, StoreError, StreamId},
};
use uuid::Uuid;

use super::queue::CALL_WEIGHT;
use crate::validation::validate_append;

/// An append with everything done that needs no look at the log.
pub(super) struct Prepared {
    pub(super) stream: StreamId,
    pub(super) rows: Vec<EventRow>,
    pub(super) expected: Expected,
    pub(super) fence: Option<Fence>,
}

/// An event to insert. It is put into its place by the writer.
pub(super) struct EventRow {
    pub(super) key: Uuid,
    pub(super) metadata: Option<String>,
    pub(super) recorded: RecordedEvent,
}

impl Prepared {
    pub(super) fn new(append: Append, limit: usize) -> Result<Self, StoreError> {
        let metadata = validate_append(&append, limit)?;
        let Append { stream, expected, events, fence } = append;
        let row = |(event, metadata): (Event, _)| EventRow {
            key: event.id.key(),
            metadata,
            recorded: RecordedEvent { position: 0, stream: stream.clone(), version: 0, event },
        };
        let rows = events.into_iter().zip(metadata).map(row).collect();
        Ok(Self { stream, rows, expected, fence })
    }

    pub(super) fn weight(&self) -> usize {
        let payload = |row: &EventRow| row.recorded.event.payload.as_str().len();
        CALL_WEIGHT + self.rows.iter().map(payload).sum::<usize>()
    }
}
