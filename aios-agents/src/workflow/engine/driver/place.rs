//! Decides which engine advances a run: the owner of its shard, or another one that has code for
//! it.
//!
//! The journal decides: its last `moved` entry names the fence of the guest lease under which the run
//! is advanced, or none for the owner of the shard. Memory (`Ownership`) is a copy that may be behind,
//! and the fence of each append settles it.
//!
//! | the last entry names | this engine owns | then |
//! |---|---|---|
//! | no engine, or a lease of this engine | – | it advances the run |
//! | another engine that is alive | the shard | it notes where the run is and leaves it alone |
//! | an engine that is gone | the shard | it takes the run back, and records that |
//! | another engine | only guests | the run is not, or no longer, a guest here |

use std::{collections::BTreeSet, sync::Arc};

use aios_core::{
    Chain,
    catalog::{codes, workflow},
    failure::Failure,
    store::{Fence, RecordedEvent, StoreError},
};
use metrics::counter;
use tracing::{info, warn};

use super::{
    Driver, Exit, acknowledge_all,
    entries::exit,
    oversize::{subject, too_large},
};
use crate::workflow::{
    engine::Engine,
    journal::{Entry, JournalError, Moved, decode},
};

/// Checks that this engine is the one that a run's journal names. Returns whether it takes the run
/// back from an engine that is gone.
pub(super) async fn check(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    journal: &[RecordedEvent],
) -> Result<bool, Exit> {
    // A run that was never moved belongs to the owner of its shard.
    let to = journal.iter().rev().find_map(moved).and_then(|moved| moved.to);
    let Some(host) = to.filter(|host| engine.ownership.lease(*host).is_none()) else {
        // A change also changes the shard that the run belongs to here, so it is loaded again.
        return match engine.ownership.place(run_id, to) {
            true => Err(Exit::NotOwner),
            false => Ok(false),
        };
    };
    if engine.ownership.is_guest(run_id) {
        engine.ownership.place(run_id, None);
        return Err(Exit::NotOwner);
    }
    if engine.is_alive(host).await.map_err(Exit::Failed)? {
        engine.ownership.place(run_id, Some(host));
        return Err(Exit::NotOwner);
    }
    Ok(true)
}

/// The placement of a run that an event records.
fn moved(recorded: &RecordedEvent) -> Option<Moved> {
    match recorded.event.event_type.segments() {
        (workflow::DOMAIN, _, workflow::MOVED) => match decode(&recorded.event) {
            Ok(Entry::Moved(moved)) => Some(*moved),
            _ => None,
        },
        _ => None,
    }
}

/// The engines that declined a run.
pub(super) fn declined<'a>(journal: impl Iterator<Item = &'a Entry>) -> BTreeSet<Box<str>> {
    let said = journal.filter_map(|entry| match entry {
        Entry::Moved(moved) => moved.failure.is_some().then(|| moved.by.clone()),
        _ => None,
    });
    said.collect()
}

impl Driver {
    /// Records that the owner of the run's shard advances it again.
    pub(super) fn record_return(&mut self) {
        let by = self.engine.owner.as_str().into();
        self.write(Entry::Moved(Box::new(Moved::new(None, by, None))));
    }

    /// Moves the run to an engine that may have code for it, if the failure is that this engine has
    /// none. If there is no such engine, the returned failure says so.
    pub(super) async fn move_if_no_code(&mut self, failure: Failure) -> Result<Failure, Exit> {
        if ![codes::WORKFLOW_NOT_FOUND, codes::UNKNOWN_VERSION].contains(&failure.code.as_str()) {
            return Ok(failure);
        }
        let engine = Arc::clone(&self.engine);
        let run_id = Arc::clone(&self.run_id);
        let workflow = (self.origin.workflow.as_str(), self.origin.version);
        match engine.host_for(&run_id, workflow, &self.declined).await {
            Ok(Some(host)) => Err(self.move_to(host, failure).await),
            Ok(None) => {
                engine.hosting.unhosted.add(&run_id, workflow.0, workflow.1);
                let message = format!("{}; no engine has code for the run", failure.message);
                Ok(Failure { message, ..failure })
            }
            Err(error) => Err(Exit::Failed(error)),
        }
    }

    /// Records the move. This engine appends nothing to the run afterwards, because the run leaves
    /// memory.
    async fn move_to(&mut self, host: Fence, failure: Failure) -> Exit {
        let by = self.engine.owner.as_str().into();
        let reason = failure.message.clone();
        let moved = Moved::new(Some(host), by, Some(failure));
        if let Err(exit) = self.append_last(Entry::Moved(Box::new(moved))).await {
            return exit;
        }
        let number = host.shard.guests_number();
        info!(
            run = %self.run_id, engine = number, reason,
            "this engine has no code for a run; it moved to another engine"
        );
        counter!("aios_runs_moved_total", "workflow" => self.origin.workflow.to_string())
            .increment(1);
        self.engine.ownership.place(&self.run_id, Some(host));
        self.engine.hosting.unhosted.remove(&self.run_id);
        Exit::NotOwner
    }

    /// Appends an entry after which the run leaves memory, together with the answers that arrived
    /// in the meantime and the outcomes of steps that have ended: they are kept for code that fits. Of code
    /// that does not match its journal, no steps are kept: other code may not request them.
    ///
    /// It may be appended at any place: what others have appended does not change what this entry says.
    /// While the store does not answer, the append is repeated for as long as the leases last.
    pub(super) async fn append_last(&mut self, entry: Entry) -> Result<(), Exit> {
        let last = self.encode(entry).map_err(Exit::Unreadable)?;
        let ended = match self.execution.shared.is_mismatched() {
            true => Vec::new(),
            false => self.execution.machine().take_outcomes(),
        };
        let mut records = std::mem::take(&mut self.outbox);
        for outcome in ended {
            match self.encode(outcome) {
                Ok(record) => records.push(record),
                // It could not be recorded at any other time either.
                Err(error) => {
                    let run = &*self.run_id;
                    warn!(error = %Chain(&error), run, "could not record what a run has done");
                }
            }
        }
        records.push(last);
        let mut backoff = self.engine.options.backoff.initial_delay;
        loop {
            match self.append_anywhere(&mut records).await {
                Ok(()) => break,
                // The outcomes would be lost with this driver.
                Err(JournalError::Store(error))
                    if error.is_retryable() && self.engine.ownership.is_valid() =>
                {
                    self.engine.store_failed(&error);
                    self.engine.clock.sleep(backoff).await;
                    backoff = self.engine.options.backoff.next(backoff);
                }
                Err(JournalError::Store(StoreError::Fenced { .. })) => {
                    self.engine.lost(self.fence);
                    return Err(Exit::NotOwner);
                }
                Err(JournalError::Store(StoreError::TooLarge { id, bytes, limit })) => {
                    let failure = too_large(&subject(&records, &id), bytes, limit);
                    let Some(shrunk) = self.replace_oversized(&records, &id, &failure) else {
                        return Err(Exit::Failed(StoreError::TooLarge { id, bytes, limit }));
                    };
                    records = shrunk;
                }
                Err(error) => return Err(exit(error)),
            }
        }
        acknowledge_all(std::mem::take(&mut self.answers)).await;
        Ok(())
    }
}
