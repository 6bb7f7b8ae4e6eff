use aios_core::{
    event::{Event, EventId, Payload, Timestamp},
    store::{RecordedEvent, StoreError, StreamId},
};
use uuid::Uuid;

use super::decode_metadata;

/// The row of an event.
#[derive(Debug)]
pub(crate) struct StoredEvent {
    pub(crate) position: i64,
    pub(crate) key: Uuid,
    pub(crate) external_id: Option<String>,
    pub(crate) stream: String,
    pub(crate) version: i64,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) created_at: i64,
    pub(crate) payload: String,
    pub(crate) metadata: Option<String>,
}

impl StoredEvent {
    /// Decodes the row.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidRow`] if a column is invalid.
    pub(crate) fn into_recorded(self, database: &str) -> Result<RecordedEvent, StoreError> {
        let position = self.position;
        self.recorded().map_err(|cause| StoreError::InvalidRow {
            database: database.to_owned(),
            reason: format!("the event at position {position} is invalid: {cause}"),
        })
    }

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
