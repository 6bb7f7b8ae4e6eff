//! The origin of a run: the content of the first event of its journal. It never changes.

use std::sync::Arc;

use aios_core::{
    agent::{InvalidName, Name},
    event::{EventError, EventId, Metadata, Timestamp},
    store::{RecordedEvent, StreamId},
};

use super::run_metadata;
use crate::{
    trace::TraceParent,
    workflow::journal::{Codec, Parent, Started},
};

/// Where a run comes from.
pub(super) struct RunOrigin {
    /// The stream of its journal.
    pub(super) stream: StreamId,
    /// Name of its workflow.
    pub(super) workflow: Name,
    /// The version of its workflow.
    pub(super) version: u32,
    /// Encodes its entries.
    pub(super) codec: Arc<Codec>,
    /// The span of the run.
    pub(super) trace: TraceParent,
    /// Metadata of the events that the run causes, which share it.
    pub(super) metadata: Arc<Metadata>,
    /// Metadata of completed steps. They are the most frequent rows of a busy log, so they are kept
    /// small: the run is their cause.
    pub(super) step_metadata: Arc<Metadata>,
    /// When the run was started, or when it was to begin.
    pub(super) started_at: Timestamp,
    /// Id of the event that started the run.
    pub(super) incarnation: EventId,
    /// The same as text, for metadata.
    pub(super) incarnation_text: Arc<str>,
    /// The run that waits for this one.
    pub(super) parent: Option<Parent>,
}

impl RunOrigin {
    /// Reads the first event. Fails if it does not name a workflow.
    pub(super) fn new(
        run_id: &Arc<str>,
        stream: StreamId,
        first: &RecordedEvent,
        started: &Started,
        codec: Arc<Codec>,
    ) -> Result<Self, EventError> {
        let workflow = first.event.event_type.entity();
        let invalid = |_: InvalidName| EventError::InvalidType { text: workflow.to_owned() };
        let metadata = run_metadata(&first.event, run_id);
        Ok(Self {
            stream,
            workflow: workflow.parse().map_err(invalid)?,
            version: started.version,
            codec,
            trace: TraceParent::of_run(&first.event.metadata, &first.event.id),
            step_metadata: Arc::new(Metadata { causation_id: None, ..metadata.clone() }),
            metadata: Arc::new(metadata),
            started_at: begins_at(started, first),
            incarnation: first.event.id.clone(),
            incarnation_text: first.event.id.to_string().into(),
            parent: started.parent.clone(),
        })
    }
}

/// When a run began, or will begin if its start is delayed.
///
/// A start time in the past begins the run at once, so this is the later of the two times.
fn begins_at(started: &Started, first: &RecordedEvent) -> Timestamp {
    started.start_at.map_or(first.event.timestamp, |at| at.max(first.event.timestamp))
}
