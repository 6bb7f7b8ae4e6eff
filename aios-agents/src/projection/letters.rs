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

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

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
            if let Ok(mut letter) = recorded.event.data::<ProjectionDeadLetter>() {
                // Only `redriven` needs it.
                letter.request = None;
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

/// The dead letters that a projection has applied again without a record of it: those with a request up to
/// the position of the projection, and after the one that failed last.
pub(super) async fn redriven<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
    position: u64,
) -> Result<Vec<u64>, StoreError> {
    let mut requests = BTreeMap::<u64, BTreeSet<u64>>::new();
    // The requests that failed last, of the letters that are open.
    let mut failed = BTreeMap::new();
    for_each(store, stream, |recorded| match recorded.event.event_type.action() {
        PROJECTION_FAILED => {
            if let Ok(letter) = recorded.event.data::<ProjectionDeadLetter>() {
                // Earlier versions did not record which request it was, and took it for all so far.
                failed.insert(letter.position, letter.request.unwrap_or(recorded.position));
            }
        }
        PROJECTION_REDRIVE_REQUESTED => {
            if let Ok(letter) = recorded.event.data::<DeadLetterPosition>() {
                requests.entry(letter.position).or_default().insert(recorded.position);
            }
        }
        PROJECTION_REDRIVEN => {
            if let Ok(letter) = recorded.event.data::<DeadLetterPosition>() {
                failed.remove(&letter.position);
            }
        }
        _ => {}
    })
    .await?;
    let was_applied = |(letter, failed): &(u64, u64)| {
        let after = (Bound::Excluded(*failed), Bound::Included(position));
        *failed < position
            && requests.get(letter).is_some_and(|all| all.range(after).next().is_some())
    };
    Ok(failed.into_iter().filter(was_applied).map(|(letter, _)| letter).collect())
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
