//! The row of an event, as the SQL stores read it.
//!
//! Both stores select the same columns in the same order and differ only in how the driver returns
//! them. What the columns mean, and what makes a row invalid, is decided here once.

use aios_core::{
    event::{Event, EventId, Payload, Timestamp},
    store::{RecordedEvent, StoreError, StreamId},
};
use uuid::Uuid;

use super::decode_metadata;

/// The row of an event.
#[derive(Debug)]
pub(crate) struct StoredEvent {
    /// SQL has no unsigned integers; no position or version is negative.
    pub(crate) position: i64,
    pub(crate) key: Uuid,
    /// The text of an id that is not a UUID.
    pub(crate) external_id: Option<String>,
    /// Name of the stream, which the row refers to by a number.
    pub(crate) stream: String,
    pub(crate) version: i64,
    pub(crate) event_type: String,
    pub(crate) source: String,
    /// The timestamp of the event in microseconds since the Unix epoch, not the time of the append.
    pub(crate) created_at: i64,
    /// JSON, as it was written.
    pub(crate) payload: String,
    /// `None` for the default metadata of the stream; see `encode_metadata`.
    pub(crate) metadata: Option<String>,
}

impl StoredEvent {
    /// Decodes the row.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidRow`] if a column is invalid.
    ///
    /// `database` is the name of the database in the error.
    pub(crate) fn into_recorded(self, database: &str) -> Result<RecordedEvent, StoreError> {
        let position = self.position;
        self.recorded().map_err(|cause| StoreError::InvalidRow {
            database: database.to_owned(),
            reason: format!("the event at position {position} is invalid: {cause}"),
        })
    }

    /// Decodes each column with the parser of its type. Any failure means that another program, or
    /// a fault of the disk, changed the row.
    fn recorded(self) -> Result<RecordedEvent, Box<dyn std::error::Error + Send + Sync>> {
        let id = match self.external_id {
            Some(text) => text.parse()?,
            None => EventId::from(self.key),
        };
        let stream = StreamId::new(self.stream)?;
        let metadata = decode_metadata(&stream, self.metadata.as_deref())?;
        let event = Event {
            id,
            event_type: self.event_type.parse()?,
            timestamp: Timestamp::from_micros(self.created_at),
            source: self.source.into(),
            payload: Payload::from_text(self.payload)?,
            metadata: metadata.into(),
        };
        Ok(RecordedEvent {
            position: u64::try_from(self.position)?,
            stream,
            version: u64::try_from(self.version)?,
            event,
        })
    }
}
