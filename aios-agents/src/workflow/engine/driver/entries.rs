//! Reads the journal of a run, and what its later events have in common.

use std::sync::Arc;

use aios_core::{
    agent::TaskFailed,
    catalog::workflow::DOMAIN,
    event::{Event, EventError, Metadata, Payload},
    failure::Failure,
    store::{EventStore, RecordedEvent, RunStatus, StoreError, StreamId},
};

use super::Exit;
use crate::workflow::{
    engine::{Engine, RunOutcome, recovery::Start},
    journal::{Entry, JournalError, decode},
};

/// Events read at once.
const PAGE: usize = 1000;

/// Reads a whole journal. The first part comes through the shared queue, where the reads of many runs
/// are batched.
pub(super) async fn read(engine: &Engine, stream: &StreamId) -> Result<Vec<RecordedEvent>, Exit> {
    let Start { mut events, mut may_have_more } =
        engine.read_start(stream).await.map_err(failed)?;
    while may_have_more {
        let after = events.last().map_or(0, |last| last.version);
        let page = engine.store.read_stream(stream, after, PAGE).await.map_err(failed)?;
        may_have_more = page.len() >= PAGE;
        events.extend(page);
    }
    Ok(events)
}

/// The exit of a run whose store failed.
pub(super) fn failed(error: StoreError) -> Exit {
    Exit::Failed(error)
}

/// The exit of a run whose journal could not be used.
///
/// Errors that concern neither the store nor an event, such as an unknown workflow, make a journal
/// unreadable for this engine.
pub(super) fn exit(error: JournalError) -> Exit {
    match error {
        JournalError::Store(error) => Exit::Failed(error),
        JournalError::Event(error) => Exit::Unreadable(error),
        other => Exit::Unreadable(EventError::InvalidType { text: other.to_string() }),
    }
}

/// Decodes an entry of a run's journal. An event of another workflow has no meaning for this run.
pub(super) fn read_entry(workflow: &str, event: &Event) -> Result<Entry, EventError> {
    match event.event_type.segments() {
        (DOMAIN, other, _) if other != workflow => Ok(Entry::Other(Box::new(event.clone()))),
        _ => decode(event),
    }
}

/// The exit of a run whose journal can't be decoded.
pub(super) fn unreadable(error: EventError) -> Exit {
    Exit::Unreadable(error)
}

/// The failed attempts in a part of a journal.
///
/// The consequence of each may not be recorded: another engine recorded the failure, or this one died in
/// between.
pub(super) fn failures<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<(u64, TaskFailed)> {
    let failed = entries.filter_map(|entry| match entry {
        Entry::TaskFailed(task) => Some((entry.operation()?, task.data.clone())),
        _ => None,
    });
    failed.collect()
}

impl RunOutcome {
    /// The outcome of a run, if this entry ends it.
    pub(super) fn from_entry(entry: &Entry) -> Option<Self> {
        let ended = |status, result: Option<Payload>, failure: Option<Failure>| {
            Some(Self { status, result, failure, continued_as: None })
        };
        match entry {
            Entry::Completed(end) => ended(RunStatus::Completed, Some(end.result.clone()), None),
            Entry::Failed(end) => ended(RunStatus::Failed, None, Some(end.failure.clone())),
            Entry::Cancelled(end) => ended(RunStatus::Cancelled, None, Some(end.failure.clone())),
            Entry::Continued(next) => Some(Self {
                status: RunStatus::Continued,
                result: None,
                failure: None,
                continued_as: Some(next.run_id.as_str().into()),
            }),
            _ => None,
        }
    }
}

/// The metadata of a run's events: that of its start, with the start as their cause.
pub(in super::super) fn run_metadata(started: &Event, run_id: &Arc<str>) -> Metadata {
    let theirs = &started.metadata;
    Metadata {
        correlation_id: theirs.correlation_id.clone().or_else(|| Some(Arc::clone(run_id))),
        // The metadata is shared by all events of the run, so none of them names a nearer cause.
        causation_id: Some(started.id.to_string().into()),
        user_id: theirs.user_id.clone(),
        traceparent: theirs.traceparent.clone(),
        tracestate: theirs.tracestate.clone(),
        run_id: Some(Arc::clone(run_id)),
        extra: theirs.extra.clone(),
        ..Metadata::default()
    }
}
