//! The dead letters of a projection: events in its stream, `projections/<name>`.

use std::collections::BTreeMap;

use aios_core::{
    clock::Clock,
    event::{Event, EventError, EventType},
    failure::Failure,
    store::{EventStore, RecordedEvent, StoreError, StreamId},
};
use serde::{Deserialize, Serialize};

/// Events read at once.
const PAGE: usize = 1000;
/// Action of the event that says that an event was skipped.
pub(super) const DEAD: &str = "projection_failed";
/// Action of the event that asks to apply a dead letter again.
pub(super) const REQUESTED: &str = "projection_redrive_requested";
/// Action of the event that says that a dead letter was applied.
pub(super) const REDRIVEN: &str = "projection_redriven";

/// An event that a projection could not apply, and skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionDeadLetter {
    /// Its position in the log.
    pub position: u64,
    /// Its id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Why it could not be applied.
    pub failure: Failure,
    /// How often it was tried.
    pub attempts: u32,
}

/// Names a dead letter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) position: u64,
}

pub(super) fn stream_of(name: &str) -> Result<StreamId, StoreError> {
    StreamId::new(format!("projections/{name}"))
}

/// An event in the stream of a projection.
pub(super) fn note<T: Serialize>(
    action: &str,
    source: &std::sync::Arc<str>,
    clock: &dyn Clock,
    data: &T,
) -> Result<Event, EventError> {
    let event_type = EventType::new("system", "projection", action)?;
    Ok(Event::new(event_type, std::sync::Arc::clone(source), data)?.with_timestamp(clock.now()))
}

/// What an event in the log asks of the projection with this stream: to apply a dead letter again.
pub(super) fn request(recorded: &RecordedEvent, stream: &StreamId) -> Option<u64> {
    let is_ours = recorded.stream == *stream && recorded.event.event_type.action() == REQUESTED;
    is_ours.then(|| recorded.event.data::<Letter>().ok())?.map(|letter| letter.position)
}

/// The dead letters of a projection that were not redriven, by position.
pub(super) async fn open<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
) -> Result<BTreeMap<u64, ProjectionDeadLetter>, StoreError> {
    let (mut letters, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = store.read_stream(stream, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(letters) };
        after = last.version;
        for recorded in &page {
            match recorded.event.event_type.action() {
                DEAD => {
                    if let Ok(letter) = recorded.event.data::<ProjectionDeadLetter>() {
                        letters.insert(letter.position, letter);
                    }
                }
                REDRIVEN => {
                    if let Ok(letter) = recorded.event.data::<Letter>() {
                        letters.remove(&letter.position);
                    }
                }
                _ => {}
            }
        }
    }
}
