//! The pure machine: journal entries in, entries to record and effects out.
//!
//! It does no I/O and reads no clock. The code of a workflow *asks* for operations, the host
//! *applies* the entries of the journal, one at a time and in order, and lets the code run in
//! between. While the journal is replayed the machine checks that the code asks for what the
//! journal says, and holds everything back; once [`Machine::go_live`] was called, it tells what is
//! to be recorded and done.
//!
//! | operation is | asked | start recorded | failed attempt | outcome recorded |
//! |---|---|---|---|---|
//! | unasked | open | [`Mismatch`] | [`Mismatch`] | [`Mismatch`] |
//! | open | [`Mismatch`] | waiting | retrying | resolved |
//! | waiting | [`Mismatch`] | waiting, next attempt | retrying | resolved |
//! | retrying | [`Mismatch`] | waiting, next attempt | retrying | resolved |
//! | resolved | [`Mismatch`] | ignored: too late | ignored | ignored |
//! | abandoned | [`Mismatch`] | ignored | ignored | ignored |

mod apply;
mod ask;
mod draws;
mod effect;
mod expect;
mod operation;
mod signals;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aios_core::{event::Timestamp, failure::Failure};

use self::{
    draws::Draws,
    expect::Expectations,
    operation::{Operation, State},
    signals::Signals,
};
pub use self::{
    effect::Effect,
    expect::Mismatch,
    operation::{ChildRequest, Outcome, Request, TaskRequest},
};
use super::journal::{Entry, Seed};

/// Code of the failure of code that does not know the version of a change that the journal follows.
pub(crate) const UNKNOWN_VERSION: &str = "UNKNOWN_VERSION";

/// Number before that of the first entry; lower ones are places of inherited signals.
const FIRST_PLACE: u64 = 1 << 32;

/// State of one run, derived from its journal and from what its code asked.
#[derive(Debug)]
pub struct Machine {
    run_id: Arc<str>,
    operations: Vec<Operation>,
    active: BTreeSet<u64>,
    signals: Signals,
    /// What tells this run from others that use its id before or after it.
    incarnation: Arc<str>,
    versions: BTreeMap<Box<str>, u32>,
    draws: Draws,
    expected: Expectations,
    recording: Vec<Entry>,
    effects: Vec<Effect>,
    now: Timestamp,
    /// Number of the entry applied last; those of inherited signals come before all others.
    place: u64,
    /// Inherited signals so far.
    inherited: u64,
    live: bool,
    /// Whether what is to be done has to be told once the run is not paused any more.
    untold: bool,
    paused: bool,
    /// Whether the host keeps the run from going on, as if it was paused.
    held: bool,
    cancelled: Option<Failure>,
}

impl Machine {
    /// A machine that expects the code to ask for what `journal` says.
    #[must_use]
    pub fn new<'a, J>(run_id: Arc<str>, journal: J) -> Self
    where
        J: IntoIterator<Item = &'a Entry, IntoIter: Clone>,
    {
        let journal = journal.into_iter();
        let draws = Draws::of(Seed::Incarnation(run_id.to_string()), journal.clone());
        Self {
            incarnation: Arc::clone(&run_id),
            run_id,
            operations: Vec::new(),
            active: BTreeSet::new(),
            signals: Signals::default(),
            versions: BTreeMap::new(),
            draws,
            expected: Expectations::of(journal),
            recording: Vec::new(),
            effects: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            place: FIRST_PLACE,
            inherited: 0,
            live: false,
            untold: false,
            paused: false,
            held: false,
            cancelled: None,
        }
    }

    /// Sets the id of the event that started the run, and what it draws UUIDs and random numbers from.
    /// What has to differ between runs that use the same id one after the other is derived from the
    /// id of the event: the ids of emitted events and the idempotency keys of steps. Without it, the
    /// run's own id is used.
    pub fn set_start(&mut self, incarnation: Arc<str>, seed: Seed) {
        self.incarnation = incarnation;
        self.draws.set_seed(seed);
    }

    /// The signals that were not taken, by their number among those that were applied, from 1.
    #[must_use]
    pub fn untaken_signals(&self) -> Vec<u64> {
        self.signals.untaken()
    }

    /// Reserves the number of the next operation, from 1.
    pub fn reserve(&mut self) -> u64 {
        self.operations.push(Operation::default());
        self.reserved()
    }

    /// Ends the replay: what was held back is to be done now.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the journal knows an operation that the code did not ask for.
    pub fn go_live(&mut self) -> Result<(), Mismatch> {
        let asked = |operation| self.operation(operation).is_some_and(Operation::is_asked);
        if let Some(mismatch) = self.expected.first_unless(asked) {
            return Err(mismatch);
        }
        self.expected = Expectations::default();
        self.live = true;
        self.untold = self.is_paused();
        if !self.is_paused() {
            self.push_effects();
        }
        Ok(())
    }

    /// How many operations were reserved.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.operations.len().try_into().unwrap_or(u64::MAX)
    }

    /// Whether the replay has ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the code waits for the outcome of any operation.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.active.is_empty()
    }

    /// Takes the entries that are to be recorded, in order. Empty while replaying; while the run is
    /// paused only what was begun before and has ended since.
    pub fn take_recording(&mut self) -> Vec<Entry> {
        if !self.live {
            return Vec::new();
        }
        if self.is_paused() {
            return self.recording.extract_if(.., |entry| entry.passes_pause()).collect();
        }
        // Drained, so that the next entry finds room.
        self.recording.drain(..).collect()
    }

    /// Puts entries back that were taken and could not be recorded, because the run was paused.
    pub fn put_back(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.recording.splice(..0, entries);
    }

    /// Whether there are entries to be recorded.
    #[must_use]
    pub fn has_recording(&self) -> bool {
        match self.is_paused() {
            true => self.live && self.recording.iter().any(Entry::is_outcome),
            false => self.live && !self.recording.is_empty(),
        }
    }

    /// Whether what is to be recorded can wait for company: nothing of it starts or ends anything.
    #[must_use]
    pub fn recording_is_informational(&self) -> bool {
        self.recording.iter().all(|entry| {
            matches!(entry, Entry::StatusSet(_) | Entry::VersionMarked(_) | Entry::TaskCancelled(_))
        })
    }

    /// Whether there is anything to be done.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.is_paused() && (self.untold || !self.effects.is_empty())
    }

    /// Takes what is to be done because of what was applied. Empty while replaying, and while the
    /// run is paused.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        if self.is_paused() {
            return Vec::new();
        }
        if std::mem::take(&mut self.untold) {
            self.push_effects();
        }
        std::mem::take(&mut self.effects)
    }

    fn push_effects(&mut self) {
        let active: Vec<u64> = self.active.iter().copied().collect();
        active.into_iter().for_each(|operation| self.push_effect(operation));
    }

    /// The time of the entry applied last: what the code sees as now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether somebody paused the run, or its host holds it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused || self.held
    }

    /// Begins nothing more, as if the run was paused, until the host lets it go on.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Lets the run go on that was held.
    pub fn go_on(&mut self) {
        if std::mem::replace(&mut self.held, false) && self.live && !self.paused {
            self.resume();
        }
    }

    /// Why the run was asked to cancel, if it was.
    #[must_use]
    pub fn cancelled(&self) -> Option<&Failure> {
        self.cancelled.as_ref()
    }

    /// Operations that were asked for and have no outcome yet.
    pub fn active(&self) -> impl Iterator<Item = (u64, &Request)> {
        self.active.iter().filter_map(|&operation| {
            Some((operation, self.operation(operation)?.request.as_ref()?))
        })
    }

    /// When a waiting operation's timer is due, the earliest of all.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.active.iter().filter_map(|&operation| self.operation(operation)?.timer()).min()
    }

    /// Whether the code waits for an operation.
    #[must_use]
    pub fn is_active(&self, operation: u64) -> bool {
        self.active.contains(&operation)
    }

    /// When the timer of a waiting operation is due, if it has one.
    #[must_use]
    pub fn timer(&self, operation: u64) -> Option<Timestamp> {
        self.operation(operation)?.timer()
    }

    /// Whether the code of a step was begun and has not ended.
    #[must_use]
    pub fn runs_step(&self) -> bool {
        let runs = |found: &Operation| found.begun && matches!(found.state, State::Open { .. });
        self.active.iter().any(|&operation| self.operation(operation).is_some_and(runs))
    }

    fn operation(&self, operation: u64) -> Option<&Operation> {
        self.operations.get(index(operation))
    }

    fn operation_mut(&mut self, operation: u64) -> Option<&mut Operation> {
        self.operations.get_mut(index(operation))
    }

    /// Gives an operation its outcome, which stands at `place` in the journal.
    fn resolve(&mut self, operation: u64, outcome: Outcome, place: u64) {
        self.active.remove(&operation);
        let Some(found) = self.operation_mut(operation) else { return };
        let was_waiting = found.waits_outside();
        let request = found.request.take();
        let signal = match request {
            Some(Request::Signal { name, .. }) => Some(name),
            _ => None,
        };
        // A wait that timed out has taken no signal.
        let kept = signal.clone().filter(|_| outcome.is_ok());
        found.state = State::Resolved { outcome, place, signal: kept };
        if let Some(name) = signal {
            self.signals.leave(&name, operation);
        }
        if was_waiting && self.live {
            self.effects.push(Effect::Settled { operation });
        }
    }
}

/// Where an operation stands in the list; number 0, which no operation has, is out of it.
fn index(operation: u64) -> usize {
    operation.checked_sub(1).and_then(|index| index.try_into().ok()).unwrap_or(usize::MAX)
}
