//! The row of an event, as the SQL stores read it.
//!
//! Both stores select the same columns in the same order and differ only in how the driver returns
//! them. What the columns mean, and what makes a row invalid, is decided here once.

use std::sync::Arc;

use aios_core::{
    event::{Event, EventError, EventId, EventType, Metadata, Payload, Timestamp},
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

/// The values of the previous row of a page. Neighbours often have the same ones, which are then shared
/// and not decoded again.
#[derive(Debug, Default)]
pub(crate) struct Previous {
    stream: Option<StreamId>,
    /// The default metadata of `stream`, once a row had it.
    metadata: Option<Arc<Metadata>>,
    event_type: Option<EventType>,
    source: Option<Arc<str>>,
}

impl Previous {
    fn stream(&mut self, name: String) -> Result<StreamId, InvalidColumn> {
        if let Some(stream) = self.stream.as_ref().filter(|stream| stream.as_str() == name) {
            return Ok(stream.clone());
        }
        let stream = StreamId::new(name)?;
        (self.stream, self.metadata) = (Some(stream.clone()), None);
        Ok(stream)
    }

    /// The metadata of a row of the stream that was returned last.
    fn metadata(
        &mut self,
        stream: &StreamId,
        text: Option<&str>,
    ) -> Result<Arc<Metadata>, InvalidColumn> {
        if text.is_some() {
            return Ok(decode_metadata(stream, text)?.into());
        }
        if let Some(default) = &self.metadata {
            return Ok(Arc::clone(default));
        }
        let default = Arc::new(decode_metadata(stream, None)?);
        Ok(Arc::clone(self.metadata.insert(default)))
    }

    fn event_type(&mut self, text: &str) -> Result<EventType, EventError> {
        if let Some(known) = self.event_type.as_ref().filter(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        Ok(self.event_type.insert(text.parse()?).clone())
    }

    fn source(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.source.as_ref().filter(|known| ***known == *text) {
            return Arc::clone(known);
        }
        Arc::clone(self.source.insert(text.into()))
    }
}

/// Why a column is invalid.
type InvalidColumn = Box<dyn std::error::Error + Send + Sync>;

impl StoredEvent {
    /// Decodes the row. `database` is the name of the database in the error.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidRow`] if a column is invalid.
    pub(crate) fn into_recorded(
        self,
        database: &str,
        previous: &mut Previous,
    ) -> Result<RecordedEvent, StoreError> {
        let position = self.position;
        self.recorded(previous).map_err(|cause| StoreError::InvalidRow {
            database: database.to_owned(),
            reason: format!("the event at position {position} is invalid: {cause}"),
        })
    }

    /// Decodes each column with the parser of its type. Any failure means that another program, or
    /// a fault of the disk, changed the row.
    fn recorded(self, previous: &mut Previous) -> Result<RecordedEvent, InvalidColumn> {
        let id = match self.external_id {
            Some(text) => text.parse()?,
            None => EventId::from(self.key),
        };
        let stream = previous.stream(self.stream)?;
        let event = Event {
            id,
            event_type: previous.event_type(&self.event_type)?,
            timestamp: Timestamp::from_micros(self.created_at),
            source: previous.source(self.source),
            payload: Payload::from_text(self.payload)?,
            metadata: previous.metadata(&stream, self.metadata.as_deref())?,
        };
        Ok(RecordedEvent {
            position: u64::try_from(self.position)?,
            stream,
            version: u64::try_from(self.version)?,
            event,
        })
    }
}
