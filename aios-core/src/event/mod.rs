//! The event envelope: an immutable fact, in one JSON shape in every transport and store.
//!
//! ```
//! use aios_core::event::Event;
//!
//! let text = r#"{"id":"msg-123","type":"agents.backend.task_completed","timestamp":"2024-01-01T00:00:00Z","source":"backend-agent-1","data":{"task_id":"task-456"},"metadata":{"correlation_id":"corr-789"}}"#;
//! let event: Event = serde_json::from_str(text)?;
//! assert_eq!(serde_json::to_string(&event)?, text);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod cloud_event;
mod error;
mod event_type;
mod id;
mod metadata;
mod pattern;
mod payload;
mod timestamp;

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    cloud_event::CloudEvent,
    error::EventError,
    event_type::EventType,
    id::EventId,
    metadata::{Extra, Metadata},
    pattern::Pattern,
    payload::Payload,
    timestamp::Timestamp,
};

pub(crate) use self::{error::excerpt, event_type::is_segment};

/// Longest id, type and source of an event, in bytes. This is the limit of AMQP short strings.
pub const MAX_NAME_BYTES: usize = 255;

/// An immutable fact that has happened.
///
/// Cloning is cheap: names and payload are shared, not copied.
///
/// # Examples
///
/// ```
/// use aios_core::event::{Event, EventId};
/// use serde_json::json;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let placed = Event::new("shop.order.placed".parse()?, "shop", &json!({"order": 7}))?;
/// // The same request always has the same event, which a store keeps once.
/// let paid = Event::new("shop.order.paid".parse()?, "shop", &json!({"order": 7}))?
///     .with_id(EventId::derive("payments/7"))
///     .caused_by(&placed);
/// assert_eq!(paid.data::<serde_json::Value>()?["order"], 7);
/// assert_eq!(Event::from_json(&paid.to_json()?)?, paid);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Unique name of this event.
    pub id: EventId,
    /// The type of the fact; also the routing key.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The service or agent that reports the fact, 1 to 255 bytes.
    #[serde(deserialize_with = "source")]
    pub source: Arc<str>,
    /// The data; decode it with [`Event::data`].
    #[serde(rename = "data")]
    pub payload: Payload,
    /// How this event relates to others. Events can share it; change it with
    /// [`metadata_mut`](Self::metadata_mut).
    #[serde(default = "Metadata::empty", deserialize_with = "metadata::shared")]
    pub metadata: Arc<Metadata>,
}

impl Event {
    /// Creates an event that happens now, with a fresh id.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if `data` cannot be serialised to JSON;
    /// [`EventError::InvalidSource`].
    pub fn new<T: Serialize + ?Sized>(
        event_type: EventType,
        source: impl Into<Arc<str>>,
        data: &T,
    ) -> Result<Self, EventError> {
        let source = source.into();
        Self::check_source(&source)?;
        Ok(Self {
            id: EventId::generate(),
            event_type,
            timestamp: Timestamp::now(),
            source,
            payload: Payload::encode(data)?,
            metadata: Metadata::empty(),
        })
    }

    /// Checks whether a text can be the source of an event: no envelope with another one can be parsed.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidSource`] if it is empty or longer than 255 bytes.
    pub fn check_source(source: &str) -> Result<(), EventError> {
        match (1..=MAX_NAME_BYTES).contains(&source.len()) {
            true => Ok(()),
            false => Err(EventError::InvalidSource { bytes: source.len() }),
        }
    }

    /// Decodes the data.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if the data does not have the shape of `T`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, EventError> {
        self.payload.decode()
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// Sets the time at which it happened.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Replaces the metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl Into<Arc<Metadata>>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// The metadata, to be changed. Copies it first if other events share it.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        Arc::make_mut(&mut self.metadata)
    }

    /// Marks `parent` as the cause, and inherits its correlation, user, trace and run.
    ///
    /// If the parent has no correlation, its id is used, so that everything that one event caused
    /// can be found by one key.
    #[must_use]
    pub fn caused_by(mut self, parent: &Self) -> Self {
        let inherited = &parent.metadata;
        let parent_id: Arc<str> = parent.id.to_string().into();
        let metadata = self.metadata_mut();
        metadata.correlation_id =
            Some(inherited.correlation_id.clone().unwrap_or_else(|| Arc::clone(&parent_id)));
        metadata.causation_id = Some(parent_id);
        metadata.user_id.clone_from(&inherited.user_id);
        metadata.traceparent.clone_from(&inherited.traceparent);
        metadata.tracestate.clone_from(&inherited.tracestate);
        metadata.run_id.clone_from(&inherited.run_id);
        self
    }

    /// Parses the JSON envelope.
    ///
    /// # Errors
    ///
    /// [`EventError::Malformed`] with the error and its location.
    pub fn from_json(text: &str) -> Result<Self, EventError> {
        serde_json::from_str(text).map_err(EventError::malformed)
    }

    /// Serialises the JSON envelope.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidData`] if it cannot be serialised, which does not happen to events
    /// created by this crate.
    pub fn to_json(&self) -> Result<String, EventError> {
        serde_json::to_string(self).map_err(EventError::invalid_data)
    }
}

fn source<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let text = <Arc<str>>::deserialize(deserializer)?;
    Event::check_source(&text).map_err(serde::de::Error::custom)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: &str = r#"{"id":"msg-123","type":"agents.backend.task_completed","timestamp":"2024-01-01T00:00:00Z","source":"backend-agent-1","data":{"task_id":"task-456","result":"success","output":{}},"metadata":{"correlation_id":"corr-789","causation_id":"msg-122","user_id":"user-1"}}"#;

    #[test]
    fn should_write_the_envelope_it_read() {
        let event = Event::from_json(ENVELOPE).unwrap();
        assert_eq!(event.to_json().unwrap(), ENVELOPE);
    }

    #[test]
    fn should_keep_unknown_metadata_and_microseconds() {
        let text = ENVELOPE
            .replace("\"user_id\":\"user-1\"", "\"tenant\":{\"a\":[1,2]},\"zone\":\"eu\"")
            .replace("00:00:00Z", "00:00:00.123456Z");
        assert_eq!(Event::from_json(&text).unwrap().to_json().unwrap(), text);
    }

    #[test]
    fn should_read_exactly_the_numbers_that_were_written() {
        for number in [0.1 + 0.2, 1.0 / 3.0, 122.416_294_033_786_58, f64::MIN_POSITIVE, f64::MAX] {
            let payload = Payload::encode(&number).unwrap();
            let read: f64 = payload.decode().unwrap();
            assert_eq!(read.to_bits(), number.to_bits(), "{number:e}");
            let value: serde_json::Value = payload.decode().unwrap();
            assert_eq!(value.as_f64().map(f64::to_bits), Some(number.to_bits()), "{number:e}");
        }
    }

    #[test]
    fn should_refuse_malformed_envelopes() {
        for (from, to, says) in [
            ("msg-123", "", "id"),
            ("agents.backend.task_completed", "agents.backend", "three segments"),
            ("agents.backend.task_completed", "Agents.backend.x", "three segments"),
            ("2024-01-01T00:00:00Z", "yesterday", "timestamp"),
            ("backend-agent-1", "", "source"),
            ("\"metadata\"", "\"meta\"", "unknown field"),
            ("\"data\"", "\"data\":1,\"data\"", "duplicate field"),
        ] {
            let error = Event::from_json(&ENVELOPE.replace(from, to)).unwrap_err();
            assert_eq!(error.code(), "MALFORMED_EVENT");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(says), "{cause:?} should say {says:?}");
        }
    }

    #[test]
    fn should_refuse_sources_that_no_envelope_can_have() {
        let new = |bytes: usize| Event::new("a.b.c".parse().unwrap(), "s".repeat(bytes), &1);
        for bytes in [0, 256, 100_000] {
            let refused = matches!(new(bytes), Err(EventError::InvalidSource { bytes: found }) if found == bytes);
            assert!(refused, "{bytes}");
        }
        for bytes in [1, 255] {
            let text = new(bytes).unwrap().to_json().unwrap();
            assert_eq!(Event::from_json(&text).unwrap().source.len(), bytes);
        }
    }

    #[test]
    fn should_inherit_correlation_user_and_trace() {
        let mut parent = Event::from_json(ENVELOPE).unwrap();
        parent.metadata_mut().traceparent = Some("00-1-2-01".into());
        let child = Event::new("a.b.c".parse().unwrap(), "me", &1).unwrap().caused_by(&parent);
        assert_eq!(child.metadata.causation_id.as_deref(), Some("msg-123"));
        assert_eq!(child.metadata.correlation_id.as_deref(), Some("corr-789"));
        assert_eq!(child.metadata.user_id.as_deref(), Some("user-1"));
        assert_eq!(child.metadata.traceparent.as_deref(), Some("00-1-2-01"));
    }
    #[test]
    fn should_share_its_metadata_with_its_clones() {
        let event = Event::from_json(ENVELOPE).unwrap();
        let mut other = event.clone();
        assert!(Arc::ptr_eq(&event.metadata, &other.metadata));
        other.metadata_mut().user_id = None;
        assert_eq!(event.metadata.user_id.as_deref(), Some("user-1"));
        assert!(size_of::<Event>() <= 104, "{}", size_of::<Event>());
    }
}
