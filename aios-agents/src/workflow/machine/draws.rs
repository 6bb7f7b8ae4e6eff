use uuid::Uuid;

use crate::workflow::journal::{DrawnFrom, Entry, Seed, uuid_at};

/// UUIDs that are the same in every replay.
#[derive(Debug)]
pub(super) struct Draws {
    seed: Seed,
    /// Seeds inherited from the runs that this run was forked from, the oldest first.
    inherited: Vec<DrawnFrom>,
    drawn: u64,
}

impl Draws {
    pub(super) fn of<'a>(seed: Seed, journal: impl IntoIterator<Item = &'a Entry>) -> Self {
        let inherited = match journal.into_iter().next() {
            Some(Entry::Started(started)) => started.draws.clone(),
            _ => Vec::new(),
        };
        Self { seed, inherited, drawn: 0 }
    }

    pub(super) fn set_seed(&mut self, seed: Seed) {
        self.seed = seed;
    }

    /// The next UUID of a run that has reserved `operations` operations.
    pub(super) fn next_uuid(&mut self, operations: u64) -> Uuid {
        self.drawn += 1;
        let inherited = self.inherited.iter().find(|drawn| operations < drawn.before);
        uuid_at(inherited.map_or(&self.seed, |drawn| &drawn.seed), self.drawn)
    }
}
