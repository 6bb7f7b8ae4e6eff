//! Values of requests and answers.

use aios_core::{
    event::{EventError, Payload},
    store::RecordedEvent,
};
use serde::Serialize;

use super::{ClientError, Page, resources::Event};

/// Encodes an argument. A fault is reported when the request is awaited.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Payload, EventError> {
    Payload::encode(value)
}

/// A page of events with their places in the log.
pub(super) fn recorded(page: Page<Event>) -> Result<Page<RecordedEvent>, ClientError> {
    let Page { items, next, unreadable } = page;
    let items: Result<_, _> = items.into_iter().map(Event::recorded).collect();
    let invalid = |reason| ClientError::InvalidResponse { reason, request_id: None };
    Ok(Page { items: items.map_err(invalid)?, next, unreadable })
}
