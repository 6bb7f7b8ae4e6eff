//! The state machine of a run: journal entries in, entries to record and effects out.
//!
//! CONTRIBUTING.md lists the files of an operation, from the event to the binding in Python.
//!
//! It does no I/O and reads no clock. The code of a workflow *requests* operations. The host
//! *applies* the entries of the journal, one at a time and in order, and polls the code after each
//! entry. During a replay the machine checks that the requests match the journal and returns neither
//! entries nor effects. After [`Machine::go_live`] it returns the entries to record and the effects
//! to perform.
//!
//! | operation is | requested | start recorded | failed attempt | outcome recorded |
//! |---|---|---|---|---|
//! | reserved | open | [`Mismatch`] | [`Mismatch`] | [`Mismatch`] |
//! | open | [`Mismatch`] | waiting | retrying | resolved |
//! | waiting | [`Mismatch`] | waiting, next attempt | retrying | resolved |
//! | retrying | [`Mismatch`] | waiting, next attempt | retrying | resolved |
//! | resolved | [`Mismatch`] | ignored | ignored | ignored |
//! | abandoned | [`Mismatch`] | ignored | ignored | ignored |
//!
//! # Time
//!
//! `now` is the time that the code sees: that of the entry that resumed it. Deadlines count from the
//! time that the host passes in, and are recorded. Nothing else depends on time.
//!
//! # When something is recorded, and when it takes effect
//!
//! | run | `take_recording` | `take_effects` | steps begin |
//! |---|---|---|---|
//! | replayed | nothing | nothing | no |
//! | live | everything | everything | yes |
//! | paused by a client | outcomes of what had begun, and pinned versions | timeouts of running steps | no |
//! | held by its host | the same | these and dispatches (`take_held_effects`) | no |
//! | ahead of its journal | everything | withheld by the driver | no |

mod apply;
mod ask;
mod draws;
mod effect;
mod journal_index;
mod operation;
mod signals;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    catalog::workflow::Gap,
    event::{EventId, Timestamp},
    failure::Failure,
};

pub(crate) use self::apply::signal_timeout;
use self::{
    draws::Draws,
    journal_index::JournalIndex,
    operation::{Operation, State},
    signals::Signals,
};
pub use self::{
    effect::Effect,
    journal_index::Mismatch,
    operation::{ChildRequest, Outcome, Request, TaskRequest},
};
use super::journal::{Entry, Seed};

/// The place before the first entry. Lower places belong to inherited signals.
const FIRST_PLACE: u64 = 1 << 32;

/// State of one run, derived from its journal and the requests of its code.
///
/// # Examples
///
/// A timer, from its request to its outcome:
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::workflow::machine::{Effect, Machine, Request};
/// use aios_core::event::Timestamp;
///
/// let now = Timestamp::UNIX_EPOCH;
/// let later = now + Duration::from_secs(5);
/// let mut machine = Machine::new("nap".into(), []);
/// machine.go_live().unwrap();
/// let operation = machine.reserve();
/// machine.ask(operation, Request::Sleep { duration: Duration::from_secs(5) }, now).unwrap();
///
/// // The host appends the start to the journal. Once it is durable, it is applied and takes effect.
/// for entry in machine.take_recording() {
///     machine.apply(&entry, now).unwrap();
/// }
/// assert!(matches!(machine.take_effects()[..], [Effect::Timer { operation: 1, .. }]));
///
/// // The timer is due. Its end is recorded and applied in the same way.
/// machine.timer_due(operation, later);
/// for entry in machine.take_recording() {
///     assert_eq!(machine.apply(&entry, later).unwrap(), Some(operation));
/// }
/// assert!(machine.take_outcome(operation).unwrap().is_ok());
/// ```
#[derive(Debug)]
pub struct Machine {
    /// Part of the ids of tasks and children.
    run_id: Arc<str>,
    /// All operations, in the order of their numbers, also those that are over: an entry about any of
    /// them may still arrive.
    operations: Vec<Operation>,
    /// Numbers of the requested operations without an outcome.
    active: BTreeSet<u64>,
    /// Signals that were not taken, and waits for signals.
    signals: Signals,
    /// Distinguishes this run from earlier and later runs with the same id.
    incarnation: EventId,
    /// The version of each change that the run follows.
    versions: BTreeMap<Box<str>, u32>,
    /// The UUIDs of the run.
    draws: Draws,
    /// The operations that the code must request, by the journal; empty once the run is live.
    expected: JournalIndex,
    /// Entries to record, in the order in which they arose.
    recording: Vec<Entry>,
    /// Effects that were not taken yet.
    effects: Vec<Effect>,
    /// Operations of children that the code no longer wants, to be cancelled.
    unwanted: BTreeSet<u64>,
    /// The time as the code sees it. Never goes back.
    now: Timestamp,
    /// When the code began, by its own time.
    began: Timestamp,
    /// The times between copied parts and forks.
    gaps: Vec<Gap>,
    /// Number of the last applied entry. Inherited signals are numbered before all other entries.
    place: u64,
    /// Number of inherited signals applied so far.
    inherited: u64,
    /// Whether the replay has ended.
    live: bool,
    /// Whether the effects of all active operations are due once the run is no longer paused.
    effects_deferred: bool,
    /// Whether a client paused the run.
    paused: bool,
    /// Whether the host holds the run, with the same effect as a pause.
    held: bool,
    /// Whether the starts of the operations that the code requests are discarded.
    flushing: bool,
    /// Whether the code has seen outcomes that are not durable, so that no step may begin.
    ahead: bool,
    /// Whether the code runs its compensations.
    compensating: bool,
    /// The failure with which the run ends, since its cancellation was requested.
    cancelled: Option<Failure>,
}

impl Machine {
    /// Creates a machine that expects the requests recorded in `journal`.
    #[must_use]
    pub fn new<'a, J>(run_id: Arc<str>, journal: J) -> Self
    where
        J: IntoIterator<Item = &'a Entry, IntoIter: Clone>,
    {
        let journal = journal.into_iter();
        let draws = Draws::of(Seed::Incarnation(run_id.to_string()), journal.clone());
        Self {
            incarnation: EventId::derive(&run_id),
            run_id,
            operations: Vec::new(),
            active: BTreeSet::new(),
            signals: Signals::default(),
            versions: BTreeMap::new(),
            draws,
            expected: JournalIndex::of(journal),
            recording: Vec::new(),
            effects: Vec::new(),
            unwanted: BTreeSet::new(),
            now: Timestamp::UNIX_EPOCH,
            began: Timestamp::UNIX_EPOCH,
            gaps: Vec::new(),
            place: FIRST_PLACE,
            inherited: 0,
            live: false,
            effects_deferred: false,
            paused: false,
            held: false,
            flushing: false,
            ahead: false,
            compensating: false,
            cancelled: None,
        }
    }

    /// Sets the id of the event that started the run, and the seed of its UUIDs and random numbers.
    ///
    /// The ids of emitted events and the idempotency keys of steps derive from the id of this event,
    /// so that they differ between successive runs with the same id. Without it, they derive from the
    /// run's own id.
    pub fn set_start(&mut self, incarnation: EventId, seed: Seed) {
        self.incarnation = incarnation;
        self.draws.set_seed(seed);
    }

    /// The signals that were not taken, numbered from 1 in the order in which they were applied.
    #[must_use]
    pub fn untaken_signals(&self) -> Vec<u64> {
        self.signals.untaken()
    }

    /// Reserves the number of the next operation, from 1.
    pub fn reserve(&mut self) -> u64 {
        self.operations.push(Operation::default());
        self.reserved()
    }

    /// Ends the replay. Entries to record and effects are returned from now on.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the journal contains an operation that the code did not request.
    pub fn go_live(&mut self) -> Result<(), Mismatch> {
        let asked = |operation| self.operation(operation).is_some_and(Operation::is_requested);
        if let Some(mismatch) = self.expected.first_missing(asked) {
            return Err(mismatch);
        }
        self.expected = JournalIndex::default();
        self.live = true;
        self.effects_deferred = self.is_paused();
        if !self.is_paused() {
            self.push_effects();
        }
        Ok(())
    }

    /// The operations of children that have to be cancelled since the last call. None while the run is
    /// replayed.
    pub fn take_unwanted(&mut self) -> BTreeSet<u64> {
        if self.live { std::mem::take(&mut self.unwanted) } else { BTreeSet::new() }
    }

    /// Number of reserved operations.
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

    /// Takes the entries to record, in order. Empty during a replay. While the run is paused, contains
    /// only the outcomes of work that began before the pause.
    pub fn take_recording(&mut self) -> Vec<Entry> {
        if !self.live || self.is_paused() {
            return self.take_outcomes();
        }
        // Drained to keep the capacity for the next entries.
        self.recording.drain(..).collect()
    }

    /// Takes the outcomes to record, in order, and nothing that would begin. Empty during a replay.
    pub fn take_outcomes(&mut self) -> Vec<Entry> {
        match self.live {
            true => self.recording.extract_if(.., |entry| entry.passes_pause()).collect(),
            false => Vec::new(),
        }
    }

    /// The entries to record, in order; see [`take_recording`](Self::take_recording).
    pub fn recording(&self) -> impl Iterator<Item = &Entry> {
        self.recording.iter()
    }

    /// Puts back taken entries that could not be recorded because the run was paused.
    ///
    /// They come before what was requested since, as in the order in which the code requested them.
    pub fn put_back(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.recording.splice(..0, entries);
    }

    /// Whether there are entries to record.
    #[must_use]
    pub fn has_recording(&self) -> bool {
        match self.is_paused() {
            true => self.live && self.recording.iter().any(Entry::is_outcome),
            false => self.live && !self.recording.is_empty(),
        }
    }

    /// Whether recording can be delayed to batch it with later entries: no entry starts or ends an
    /// operation.
    #[must_use]
    pub fn recording_is_informational(&self) -> bool {
        self.recording.iter().all(|entry| {
            matches!(entry, Entry::StatusSet(_) | Entry::VersionMarked(_) | Entry::TaskCancelled(_))
        })
    }

    /// Whether there are effects to perform.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        match self.is_paused() {
            true => self.effects.iter().any(|effect| self.times_running_step(effect)),
            false => self.effects_deferred || !self.effects.is_empty(),
        }
    }

    /// Takes the effects of the applied entries. Empty during a replay. While the run is paused, only the
    /// timeouts of running steps are taken, whose code may have been queued when the pause began.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        if self.is_paused() {
            return self.extract_effects(|_| false);
        }
        if std::mem::take(&mut self.effects_deferred) {
            self.push_effects();
        }
        std::mem::take(&mut self.effects)
    }

    /// Takes the effects that a held run still has: the tasks to dispatch that were recorded before it was
    /// held, unless it is paused too, and the timeouts of running steps.
    pub fn take_held_effects(&mut self) -> Vec<Effect> {
        let dispatches = !self.paused;
        self.extract_effects(|effect| dispatches && matches!(effect, Effect::Dispatch(_)))
    }

    /// Takes the timeouts of running steps, and other effects that are wanted.
    fn extract_effects(&mut self, is_wanted: impl Fn(&Effect) -> bool) -> Vec<Effect> {
        let (taken, left) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition(|effect| is_wanted(effect) || self.times_running_step(effect));
        self.effects = left;
        taken
    }

    /// Whether an effect is the timeout of a step whose code is running.
    fn times_running_step(&self, effect: &Effect) -> bool {
        matches!(effect, Effect::Timer { operation, .. } if self.is_running(*operation))
    }

    /// Adds the effects of all active operations, when the run goes live.
    fn push_effects(&mut self) {
        let active: Vec<u64> = self.active.iter().copied().collect();
        active.into_iter().for_each(|operation| self.push_effect(operation));
    }

    /// The current time as the code sees it: the time of the last applied entry.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The time since the code began, without the gaps before forks. It does not grow within a gap.
    #[must_use]
    pub fn age(&self) -> Duration {
        // The run may have been forked before its delayed start.
        let missing = |gap: &Gap| gap.until.min(self.now).duration_since(gap.from.max(self.began));
        let gaps = self.gaps.iter().map(missing).sum();
        self.now.duration_since(self.began).saturating_sub(gaps)
    }

    /// Whether a client paused the run.
    #[must_use]
    pub fn is_paused_by_client(&self) -> bool {
        self.paused
    }

    /// Whether a client paused the run or its host holds it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused || self.held
    }

    /// Stops beginning new work, as a pause does, until [`release`](Self::release). Returns the steps whose code
    /// is running. Wake them and poll the code: those that it does not poll then can't end.
    pub fn hold(&mut self) -> Vec<u64> {
        self.held = true;
        let active = self.active.iter().copied();
        let running: Vec<u64> = active
            .filter(|&operation| self.operation(operation).is_some_and(Operation::is_running))
            .collect();
        for &operation in &running {
            if let Some(found) = self.operation_mut(operation) {
                found.unpolled = true;
            }
        }
        running
    }

    /// Resumes a held run.
    pub fn release(&mut self) {
        if std::mem::replace(&mut self.held, false) && self.live && !self.paused {
            self.resume();
        }
    }

    /// Begins no step until [`end_lookahead`](Self::end_lookahead): the entries applied next are not durable
    /// yet.
    pub fn look_ahead(&mut self) {
        self.ahead = true;
    }

    /// The entries that were applied ahead are durable. Returns the steps whose code may begin.
    pub fn end_lookahead(&mut self) -> Vec<u64> {
        self.ahead = false;
        let active = self.active.iter().copied();
        active.filter(|&operation| self.step_attempt(operation).is_some()).collect()
    }

    /// The reason of the cancellation request, if there was one.
    #[must_use]
    pub fn cancelled(&self) -> Option<&Failure> {
        self.cancelled.as_ref()
    }

    /// Requested operations without an outcome.
    pub fn active(&self) -> impl Iterator<Item = (u64, &Request)> {
        self.active
            .iter()
            .filter_map(|&operation| Some((operation, self.operation(operation)?.request()?)))
    }

    /// Time of the earliest timer of any waiting operation.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.active.iter().filter_map(|&operation| self.operation(operation)?.timer()).min()
    }

    /// Whether an operation was requested and has no outcome.
    #[must_use]
    pub fn is_active(&self, operation: u64) -> bool {
        self.active.contains(&operation)
    }

    /// Whether the start of an operation is recorded, and the code still wants its outcome.
    #[must_use]
    pub fn is_started(&self, operation: u64) -> bool {
        self.operation(operation).is_some_and(Operation::is_started)
    }

    /// When the timer of a waiting operation is due, if it has one.
    #[must_use]
    pub fn timer(&self, operation: u64) -> Option<Timestamp> {
        self.operation(operation)?.timer()
    }

    /// Whether an operation is a step whose code is running.
    #[must_use]
    pub fn is_running(&self, operation: u64) -> bool {
        self.operation(operation).is_some_and(Operation::is_running)
    }

    /// Whether the code of any step is running and may end. While the host holds the run, a step that its
    /// code does not poll can't.
    #[must_use]
    pub fn runs_step(&self) -> bool {
        let runs = |found: &Operation| found.is_running() && !(self.held && found.unpolled);
        self.active.iter().any(|&operation| self.operation(operation).is_some_and(runs))
    }

    /// An operation, if its number was reserved.
    fn operation(&self, operation: u64) -> Option<&Operation> {
        self.operations.get(index(operation))
    }

    /// An operation to change, if its number was reserved.
    fn operation_mut(&mut self, operation: u64) -> Option<&mut Operation> {
        self.operations.get_mut(index(operation))
    }

    /// Resolves an operation with an outcome recorded at `place` in the journal.
    ///
    /// The code sees it only when the host releases it. `place` decides which of several outcomes is
    /// released first.
    fn resolve(&mut self, operation: u64, outcome: Outcome, place: u64) {
        self.active.remove(&operation);
        let Some(found) = self.operation_mut(operation) else { return };
        let was_waiting = found.waits_externally();
        let request = found.request.take();
        let signal = match request.map(|request| *request) {
            Some(Request::Signal { name, .. }) => Some(name),
            _ => None,
        };
        // A timed-out wait has not taken a signal.
        let kept = signal.clone().filter(|_| outcome.is_ok());
        let outcome = outcome.map_err(Box::new);
        found.state = State::Resolved { outcome, place, signal: kept };
        if let Some(name) = signal {
            self.signals.remove_waiter(&name, operation);
        }
        if was_waiting && self.live {
            self.effects.push(Effect::Settled { operation });
        }
    }
}

/// Index of an operation in the list. No operation has the number 0, so its index is out of range.
fn index(operation: u64) -> usize {
    operation.checked_sub(1).and_then(|index| index.try_into().ok()).unwrap_or(usize::MAX)
}
