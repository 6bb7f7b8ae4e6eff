//! The UUIDs that a run draws, for `uuid()` and `random()` of the context.
//!
//! They are neither recorded nor numbered as operations. Each follows from a seed and a counter. The
//! seed is the incarnation of the run, so that a later run with the same id draws other values.
//!
//! A fork repeats the operations of the run that it was forked from, up to the forked one, and must
//! draw the same values there. Its start therefore lists the seeds of its ancestors, each with the
//! operation before which it applies.

use uuid::Uuid;

use crate::workflow::journal::{DrawnFrom, Entry, Seed, uuid_at};

/// UUIDs that are the same in every replay.
#[derive(Debug)]
pub(super) struct Draws {
    /// The seed of this run.
    seed: Seed,
    /// Seeds inherited from the runs that this run was forked from, the oldest first.
    inherited: Vec<DrawnFrom>,
    /// Number of UUIDs drawn so far, over all seeds.
    drawn: u64,
}

impl Draws {
    /// Reads the inherited seeds from the start of the journal.
    pub(super) fn of<'a>(seed: Seed, journal: impl IntoIterator<Item = &'a Entry>) -> Self {
        let inherited = match journal.into_iter().next() {
            Some(Entry::Started(started)) => started.draws.clone(),
            _ => Vec::new(),
        };
        Self { seed, inherited, drawn: 0 }
    }

    /// Sets the seed of this run, which is known only with the event that started it.
    pub(super) fn set_seed(&mut self, seed: Seed) {
        self.seed = seed;
    }

    /// The next UUID of a run that has reserved `operations` operations.
    pub(super) fn next_uuid(&mut self, operations: u64) -> Uuid {
        self.drawn += 1;
        // The oldest ancestor whose part of the operations includes this one.
        let inherited = self.inherited.iter().find(|drawn| operations < drawn.before);
        uuid_at(inherited.map_or(&self.seed, |drawn| &drawn.seed), self.drawn)
    }
}
