//! Entries that are larger than the store accepts.
//!
//! The store has a limit for one event. An outcome above it can't be recorded, and a run that tried
//! again would try forever. The failure `EVENT_TOO_LARGE` takes its place: the code of the run handles
//! it like any other. An entry that the code itself wrote, such as a status or the parameters of a
//! task, has no such substitute and blocks the run.

use aios_core::{event::EventId, failure::Failure};

use super::Driver;
use crate::{
    failing::truncate,
    workflow::journal::{Entry, Failed, OperationFailed, Record},
};

/// Failure code of an operation whose outcome is larger than the store accepts.
pub(in super::super) const TOO_LARGE: &str = "EVENT_TOO_LARGE";

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
                Entry::Failed(end) => Entry::Failed(Failed::new(truncate(&end.failure))),
                Entry::Cancelled(end) => Entry::Cancelled(Failed::new(truncate(&end.failure))),
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

/// Whether an entry already replaces one that was too large. If it is too large as well, the cause
/// is the metadata that every event of the run carries.
fn is_replaced(entry: &Entry) -> bool {
    match entry {
        Entry::OperationFailed(failed) => failed.name.is_none() && failed.failure.code == TOO_LARGE,
        Entry::Failed(end) | Entry::Cancelled(end) => end.failure == truncate(&end.failure),
        _ => false,
    }
}

/// The failure that replaces a result.
pub(in super::super) fn too_large(bytes: usize, limit: usize) -> Failure {
    let message = format!("the result has {bytes} bytes, the store takes at most {limit}");
    Failure::new(TOO_LARGE, message)
}
