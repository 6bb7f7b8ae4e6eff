//! Copies of journals: a fork of a run, from an operation on.
//!
//! The new run gets the entries up to the operation as its own, so that its code replays them and
//! executes the rest. Ids that contain the id of the forked run are derived again, since a task or
//! child of the new run must not be mistaken for one of the other. Copies are marked, because the relay
//! has published the originals before. A fork is the child or successor of no run.

use aios_core::{
    agent::TaskId,
    event::{Event, EventError, EventId, Metadata, Timestamp},
};

use super::{ChildStarted, DrawnFrom, Entry, Seed};
use crate::workflow::run_id;

/// Metadata field of events copied by a fork: the id of the original.
const COPY_OF: &str = "copy_of";

/// Marks an event as a copy, which is not published again.
pub(crate) fn mark_copy(metadata: &mut Metadata, original: &EventId) -> Result<(), EventError> {
    metadata.extra.insert(COPY_OF, original)
}

/// Removes the mark of a copy from metadata of a copied event, for an event that is not a copy.
pub(crate) fn unmark_copy(metadata: &mut Metadata) {
    metadata.extra.remove(COPY_OF);
}

/// Whether an event was copied from the journal of another run.
pub(crate) fn is_copy(event: &Event) -> bool {
    event.metadata.extra.contains(COPY_OF)
}

/// Copies the journal of a run as the beginning of a new run.
#[derive(Debug)]
pub(crate) struct Fork<'f> {
    /// Id of the forked run.
    pub(crate) run_id: &'f str,
    /// Id of the new run.
    pub(crate) new_id: &'f str,
    /// The first operation that the new run executes itself.
    pub(crate) operation: u64,
    /// Whether the new run is a retry of the forked run.
    pub(crate) is_retry: bool,
    /// The time of the copy.
    pub(crate) at: Timestamp,
}

impl Fork<'_> {
    /// Copies an entry, recorded at `recorded_at`, to the new run. Its tasks get ids of the new run. `seed` is
    /// the seed of the forked run.
    pub(crate) fn copy(&self, mut entry: Entry, recorded_at: Timestamp, seed: &Seed) -> Entry {
        match &mut entry {
            // The new run reports to no parent and continues no chain.
            Entry::Started(started) => {
                started.forked_from = Some(self.run_id.to_owned());
                started.retry_of = self.is_retry.then(|| self.run_id.to_owned());
                started.parent = None;
                started.predecessor = None;
                started.first_run_id = None;
                started.children = Vec::new();
                self.inherit(&mut started.draws, seed);
            }
            Entry::ChildStarted(child) => self.rename(child),
            // It may still be open: the journal does not tell which wait took a signal.
            Entry::SignalAwaited(wait) => {
                wait.deadline = self.at + wait.deadline.duration_since(recorded_at);
            }
            Entry::TaskAssigned(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskCompleted(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskFailed(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskCancelled(entry) => entry.data.task_id.move_to(self.new_id),
            _ => {}
        }
        entry
    }

    /// Derives the id of a child again for the new run, if it was derived in the forked run.
    fn rename(&self, child: &mut ChildStarted) {
        if self.derives(child) {
            child.run_id = run_id::of_child(self.new_id, child.operation).into();
        }
    }

    /// Whether the id of a child was derived in the forked run, and not chosen by its code.
    pub(super) fn derives(&self, child: &ChildStarted) -> bool {
        // The form of derived ids in earlier versions.
        let legacy = format!("{}.{}", self.run_id, child.operation);
        *child.run_id == *run_id::of_child(self.run_id, child.operation) || *child.run_id == *legacy
    }

    /// Makes the new run draw from the seed of the forked run, which may be a fork itself, before the
    /// forked operation.
    fn inherit(&self, draws: &mut Vec<DrawnFrom>, seed: &Seed) {
        let before = self.operation;
        draws.iter_mut().for_each(|drawn| drawn.before = drawn.before.min(before));
        if draws.last().is_none_or(|last| last.before < before) {
            draws.push(DrawnFrom::new(seed.clone(), before));
        }
    }
}

/// Moves a task id to another run.
trait MoveTo {
    /// Replaces the run in a task id. Ids that name no run stay as they are.
    fn move_to(&mut self, run_id: &str);
}

impl MoveTo for TaskId {
    fn move_to(&mut self, run_id: &str) {
        if let Some((_, operation)) = self.run() {
            *self = Self::of_run(run_id, operation);
        }
    }
}
