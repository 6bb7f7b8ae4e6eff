//! The dead letters of a projection, which are events in its stream `projections/<name>`.
//!
//! | event | effect |
//! |---|---|
//! | `system.projection.projection_failed` | the event at a position is a dead letter |
//! | `system.projection.projection_redrive_requested` | it must be applied again |
//! | `system.projection.projection_redriven` | it was applied, or removed from the log, and is not a dead letter any more |
//!
//! A request is an event of the log like any other. The projection finds it when it reads the log,
//! so the request reaches whichever process runs the projection, even after a restart.

use std::collections::BTreeMap;

use aios_core::{
    catalog::system::{
        DOMAIN, DeadLetterPosition, PROJECTION_FAILED, PROJECTION_REDRIVE_REQUESTED,
        PROJECTION_REDRIVEN, ProjectionDeadLetter,
    },
    clock::Clock,
    event::{Event, EventError, EventType},
    store::{EventStore, RecordedEvent, StoreError, StreamId},
};
use serde::Serialize;

/// How many events are read at once.
const PAGE: usize = 1000;

/// The stream of a projection.
pub(super) fn stream_of(name: &str) -> Result<StreamId, StoreError> {
    StreamId::new(format!("projections/{name}"))
}

/// Creates an event for the stream of a projection.
pub(super) fn note<T: Serialize>(
    action: &str,
    source: &std::sync::Arc<str>,
    clock: &dyn Clock,
    data: &T,
) -> Result<Event, EventError> {
    let event_type = EventType::new(DOMAIN, "projection", action)?;
    Ok(Event::new(event_type, std::sync::Arc::clone(source), data)?.with_timestamp(clock.now()))
}

/// The position of the dead letter that an event requests this projection to redrive, if it does.
pub(super) fn request(recorded: &RecordedEvent, stream: &StreamId) -> Option<u64> {
    let is_ours = recorded.stream == *stream
        && recorded.event.event_type.action() == PROJECTION_REDRIVE_REQUESTED;
    is_ours.then(|| recorded.event.data::<DeadLetterPosition>().ok())?.map(|letter| letter.position)
}

/// Whether an event is the record of a dead letter, of this projection or of another one.
pub(super) fn is_record(event_type: &EventType) -> bool {
    event_type.domain() == DOMAIN
        && event_type.entity() == "projection"
        && event_type.action() == PROJECTION_FAILED
}

/// The dead letters of a projection that were not redriven, by position.
pub(super) async fn open<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
) -> Result<BTreeMap<u64, ProjectionDeadLetter>, StoreError> {
    let mut letters = BTreeMap::new();
    for_each(store, stream, |recorded| match recorded.event.event_type.action() {
        PROJECTION_FAILED => {
            if let Ok(letter) = recorded.event.data::<ProjectionDeadLetter>() {
                letters.insert(letter.position, letter);
            }
        }
        PROJECTION_REDRIVEN => {
            if let Ok(letter) = recorded.event.data::<DeadLetterPosition>() {
                letters.remove(&letter.position);
            }
        }
        _ => {}
    })
    .await?;
    Ok(letters)
}

/// The dead letters with a request to redrive them that has no recorded outcome, and the positions of the
/// first such requests.
pub(super) async fn requested<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
) -> Result<BTreeMap<u64, u64>, StoreError> {
    let mut requested = BTreeMap::new();
    for_each(store, stream, |recorded| {
        let Ok(letter) = recorded.event.data::<DeadLetterPosition>() else { return };
        match recorded.event.event_type.action() {
            PROJECTION_REDRIVE_REQUESTED => {
                requested.entry(letter.position).or_insert(recorded.position);
            }
            PROJECTION_FAILED | PROJECTION_REDRIVEN => {
                requested.remove(&letter.position);
            }
            _ => {}
        }
    })
    .await?;
    Ok(requested)
}

/// Calls a function with each event of a stream.
async fn for_each<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
    mut function: impl FnMut(&RecordedEvent),
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = store.read_stream(stream, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.version;
        page.iter().for_each(&mut function);
    }
}
