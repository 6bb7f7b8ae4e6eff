use aios_core::{
    agent::TaskId,
    event::{Event, EventId, Metadata},
};
use serde_json::Value;

use super::{ChildStarted, DrawnFrom, Entry, Seed};
use crate::workflow::run_id;

/// Field of the metadata of events that a fork copied: the id of the original.
const COPY_OF: &str = "copy_of";

/// Marks the metadata of an event as that of a copy, which is not published again.
pub(crate) fn mark_copy(metadata: &mut Metadata, original: &EventId) {
    metadata.extra.insert(COPY_OF.to_owned(), Value::String(original.to_string()));
}

/// Whether an event was copied from the journal of another run.
pub(crate) fn is_copy(event: &Event) -> bool {
    event.metadata.extra.contains_key(COPY_OF)
}

/// How the journal of a run becomes the beginning of another one.
#[derive(Debug)]
pub(crate) struct Fork<'f> {
    /// The run that is forked.
    pub(crate) run_id: &'f str,
    /// The new one.
    pub(crate) new_id: &'f str,
    /// Where the new one goes on for itself.
    pub(crate) operation: u64,
}

impl Fork<'_> {
    /// The same entry in the new run: its tasks carry the new run's name. `seed` is what the run that
    /// is forked draws from.
    pub(crate) fn copy(&self, mut entry: Entry, seed: &Seed) -> Entry {
        match &mut entry {
            Entry::Started(started) => {
                started.forked_from = Some(self.run_id.to_owned());
                started.parent = None;
                started.predecessor = None;
                started.first_run_id = None;
                self.inherit(&mut started.draws, seed);
            }
            Entry::ChildStarted(child) => self.rename(child),
            Entry::TaskAssigned(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskCompleted(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskFailed(entry) => entry.data.task_id.move_to(self.new_id),
            Entry::TaskCancelled(entry) => entry.data.task_id.move_to(self.new_id),
            _ => {}
        }
        entry
    }

    /// A child whose id was derived is another one in the new run.
    fn rename(&self, child: &mut ChildStarted) {
        let of = |run_id| run_id::of_child(run_id, child.operation);
        // As earlier versions derived it.
        let formerly = format!("{}.{}", self.run_id, child.operation);
        if *child.run_id == *of(self.run_id) || *child.run_id == *formerly {
            child.run_id = of(self.new_id).into();
        }
    }

    /// What comes before the operation is drawn as the run that is forked did, which may be a fork
    /// itself.
    fn inherit(&self, draws: &mut Vec<DrawnFrom>, seed: &Seed) {
        let before = self.operation;
        draws.iter_mut().for_each(|drawn| drawn.before = drawn.before.min(before));
        if draws.last().is_none_or(|last| last.before < before) {
            draws.push(DrawnFrom { seed: seed.clone(), before });
        }
    }
}

/// A task's name follows its run.
trait MoveTo {
    fn move_to(&mut self, run_id: &str);
}

impl MoveTo for TaskId {
    fn move_to(&mut self, run_id: &str) {
        if let Some((_, operation)) = self.run() {
            *self = Self::of_run(run_id, operation);
        }
    }
}
