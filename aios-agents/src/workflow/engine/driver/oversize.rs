//! Entries that are larger than the store accepts.
//!
//! The store has a limit for one event. An outcome above it can't be recorded, and a run that tried
//! again would try forever. A failure is cut. The failure `EVENT_TOO_LARGE` takes the place of a result,
//! and of a failure that is too large although it was cut: the code of the run handles it like any
//! other. An entry that the code itself wrote, such as a status or the parameters of a
//! task, has no such substitute and blocks the run.

use aios_core::{catalog::codes, event::EventId, failure::Failure};

use super::Driver;
use crate::{
    failing::truncate,
    workflow::journal::{Entry, Failed, OperationFailed, Record},
};

impl Driver {
    /// Replaces an oversized result with a failure; `None` if the entry is not a result, so that
    /// the code has to change.
    pub(super) fn replace_oversized(
        &self,
        records: &[Record],
        id: &EventId,
        failure: &Failure,
    ) -> Option<Vec<Record>> {
        let replace = |record: &Record| {
            if record.event.id != *id {
                return Some(record.clone());
            }
            if let Some(cut) = cut(&record.entry) {
                return self.encode(cut).ok();
            }
            if is_replaced(&record.entry) {
                return None;
            }
            // By kind: the outcome of an operation, the end of the run, or something that only other
            // code can make smaller.
            let entry = match record.entry.clone() {
                Entry::StepCompleted(step) => Entry::OperationFailed(OperationFailed::new(
                    step.operation,
                    Some(step.name),
                    failure.clone(),
                )),
                Entry::Completed(_) => Entry::Failed(Failed::new(failure.clone())),
                Entry::StatusSet(_) | Entry::ChildStarted(_) | Entry::TaskAssigned(_) => {
                    return None;
                }
                other => Entry::OperationFailed(OperationFailed::new(
                    other.operation()?,
                    None,
                    failure.clone(),
                )),
            };
            self.encode(entry).ok()
        };
        records.iter().map(replace).collect()
    }
}

/// The entry with a shorter failure; `None` if it has no failure that can be cut.
fn cut(entry: &Entry) -> Option<Entry> {
    let mut entry = entry.clone();
    let failure = match &mut entry {
        Entry::Failed(end) | Entry::Cancelled(end) => &mut end.failure,
        Entry::OperationFailed(failed) => &mut failed.failure,
        Entry::RetryScheduled(retry) => &mut retry.failure,
        Entry::TaskFailed(task) => &mut task.data.failure,
        _ => return None,
    };
    let shorter = truncate(failure);
    if *failure == shorter {
        return None;
    }
    *failure = shorter;
    Some(entry)
}

/// Whether an entry already replaces one that was too large. If it is too large as well, the cause
/// is the metadata that every event of the run carries.
fn is_replaced(entry: &Entry) -> bool {
    match entry {
        Entry::OperationFailed(failed) => {
            failed.name.is_none() && failed.failure.code == codes::EVENT_TOO_LARGE
        }
        Entry::Failed(_) | Entry::Cancelled(_) => true,
        _ => false,
    }
}

/// The failure of something that the store does not take; `what` names it.
pub(in super::super) fn too_large(what: &str, bytes: usize, limit: usize) -> Failure {
    let message = format!("{what} is {bytes} bytes; the store accepts at most {limit}");
    Failure::new(codes::EVENT_TOO_LARGE, message)
}

/// Names the refused one of these records, and its operation.
pub(super) fn subject(records: &[Record], id: &EventId) -> String {
    let refused = records.iter().find(|record| record.event.id == *id).map(|it| &it.entry);
    let what = match refused {
        Some(
            Entry::StepCompleted(_)
            | Entry::TaskCompleted(_)
            | Entry::ChildEnded(_)
            | Entry::Completed(_),
        ) => "the result",
        Some(
            Entry::OperationFailed(_)
            | Entry::RetryScheduled(_)
            | Entry::TaskFailed(_)
            | Entry::Failed(_)
            | Entry::Cancelled(_),
        ) => "the failure",
        Some(Entry::TaskAssigned(_)) => "the task",
        Some(Entry::ChildStarted(_)) => "the child",
        Some(Entry::StatusSet(_)) => "the status",
        Some(Entry::VersionMarked(_)) => "the version of a change",
        Some(Entry::Other(event)) => &format!("event {}", event.event_type),
        _ => "an entry",
    };
    let emits = |record: &Record| match &record.entry {
        Entry::EventEmitted(emitted) if emitted.event_id == *id => Some(emitted.operation),
        _ => None,
    };
    let operation = refused.and_then(Entry::operation);
    match operation.or_else(|| records.iter().find_map(emits)) {
        Some(operation) => format!("{what} of operation {operation}"),
        None => what.to_owned(),
    }
}
