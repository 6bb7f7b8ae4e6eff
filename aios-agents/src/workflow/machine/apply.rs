//! Entries of the journal, timers and results: everything that moves an operation from outside of the
//! code.
//!
//! `Machine::apply` is the one place where an entry changes state, live and in a replay. The table in
//! the documentation of the machine lists what each entry does in each state. Entries that arrive in a
//! state that they do not fit are either late, and ignored, or a sign that the code has changed, and a
//! `Mismatch`. Nothing here requests anything new, with one exception: `timer_due` begins the next
//! attempt of a task, because no code of the user takes part in that.

use aios_core::{
    agent::{Name, TaskError},
    catalog::codes,
    event::Timestamp,
    failure::Failure,
};

use super::{Machine, Mismatch, Outcome, Request, State, operation::Operation};
use crate::workflow::{
    WorkflowError,
    journal::{ChildEnded, Entry, Signaled, TimerFired},
};

/// Methods called by the host of a run.
impl Machine {
    /// Applies the next entry of the journal, recorded at `at`. Poll the code before applying the
    /// following entry.
    ///
    /// Returns the operation that the entry resolves, if it resolves one.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the entry is about an operation that the code did not request.
    pub fn apply(&mut self, entry: &Entry, at: Timestamp) -> Result<Option<u64>, Mismatch> {
        self.place += 1;
        if !is_administrative(entry) {
            // Entries of different processes may carry times that go backwards; the code's time does
            // not.
            self.now = self.now.max(at);
        }
        match entry {
            // A delayed start: the code begins at the time that the run was to begin, not when it was
            // requested.
            Entry::Started(started) => {
                self.now = self.now.max(started.start_at.unwrap_or(self.now));
                self.began = self.now;
                self.gaps.clone_from(&started.gaps);
            }
            Entry::Signaled(signal) => return Ok(self.apply_signal(signal)),
            Entry::VersionMarked(mark) => {
                self.versions.insert(mark.change.clone(), mark.version);
            }
            Entry::CancelRequested(request) => {
                let failure = Failure::new(WorkflowError::CANCELLED, request.reason.clone());
                // The first reason counts; a second request changes nothing.
                self.cancelled.get_or_insert(failure);
                self.unpause();
            }
            // A run that is being cancelled cannot be paused.
            Entry::Paused => self.paused = self.cancelled.is_none(),
            Entry::Resumed => self.unpause(),
            _ => {
                if let Some(operation) = entry.operation() {
                    return self.apply_to(operation, entry, at);
                }
            }
        }
        Ok(None)
    }

    /// Ends a pause, and sets up the timers and children that were not set up during it.
    fn unpause(&mut self) {
        if std::mem::replace(&mut self.paused, false) && self.live && !self.held {
            self.resume();
        }
    }

    /// Applies an entry about an operation. Returns the operation if the entry ends it.
    ///
    /// The checks come in this order:
    ///
    /// 1. An operation that the code has not requested by now is missing from the code: the code was
    ///    polled until it was idle before this entry. The error names what the journal has under its
    ///    number.
    /// 2. What is over ignores everything: a result that arrives twice, or after the code has dropped
    ///    the call.
    /// 3. An entry of another kind than the request is a mismatch.
    /// 4. An outcome resolves the operation. Everything else changes its state, and live it causes an
    ///    effect.
    fn apply_to(
        &mut self,
        operation: u64,
        entry: &Entry,
        at: Timestamp,
    ) -> Result<Option<u64>, Mismatch> {
        let Some(found) = self.operation(operation).filter(|found| found.is_requested()) else {
            let missing = Mismatch::not_requested(operation, "another operation".to_owned());
            return Err(self.expected.first_missing(|other| other != operation).unwrap_or(missing));
        };
        if found.is_over() || found.request().is_some_and(|it| it.is_from_other_type(entry)) {
            return Ok(None);
        }
        if let Some(request) = found.request().filter(|request| !request.accepts(entry)) {
            let recorded = entry_name(entry);
            let asked = request.describe();
            return Err(Mismatch { operation, recorded, asked });
        }
        if let Some(outcome) = outcome(entry, found.request()) {
            self.forget_attempt(operation);
            self.resolve(operation, outcome, self.place);
            return Ok(Some(operation));
        }
        // The attempt was assigned while the answer to an earlier one came, and is not dispatched.
        if matches!((entry, &found.state), (Entry::TaskAssigned(_), State::Recording)) {
            return Ok(None);
        }
        if let (Some(state), Some(found)) = (state_after(entry), self.operation_mut(operation)) {
            found.state = state;
            found.begin_task(at);
            found.keep_child_id(entry);
            if self.live {
                self.push_effect(operation);
            }
        }
        Ok(None)
    }

    /// Resolves the operation that waits longest for a signal, or keeps the signal for the next wait.
    /// Returns the operation.
    fn apply_signal(&mut self, signal: &Signaled) -> Option<u64> {
        let place = match signal.inherited {
            // Inherited signals were sent before all signals to this run, whatever the order of records.
            true => {
                self.inherited += 1;
                self.inherited
            }
            false => self.place,
        };
        self.signals.record_place(place);
        let waiting = self.signals.longest_wait(&signal.name);
        match waiting {
            Some(operation) => {
                self.forget_wait(operation);
                self.resolve(operation, Ok(signal.payload.clone()), place);
            }
            None => self.signals.keep(signal.name.clone(), place, signal.payload.clone()),
        }
        waiting
    }

    /// Fires the timer of an operation. Returns the operation if it is a step whose next attempt may
    /// begin or whose attempt timed out. While the run is paused, only the timeouts of running steps have
    /// an effect; all other timers are set again when it is resumed.
    ///
    /// | operation | the timer is | what follows |
    /// |---|---|---|
    /// | sleep, wait for a signal | its end | `TimerFired` is recorded |
    /// | task, retrying | the delay before the next attempt | `TaskAssigned` is recorded |
    /// | step, retrying | the delay before the next attempt | its code may begin again |
    /// | step, open | the timeout of the attempt | the attempt has failed |
    ///
    /// A timer that is set for later than `now`, or that the operation no longer has, is outdated:
    /// nothing happens.
    pub fn timer_due(&mut self, operation: u64, now: Timestamp) -> Option<u64> {
        if self.is_paused() && !self.is_running(operation) {
            return None;
        }
        let found = self.operation_mut(operation)?;
        if found.timer().is_none_or(|due| due > now) {
            return None;
        }
        match (&found.state, found.request()) {
            (State::Waiting { attempt, .. }, _) => {
                // Without its timer the operation can't fire twice while the entry is being recorded.
                found.state = State::Waiting { attempt: *attempt, until: None };
                let fired = TimerFired::new(operation);
                self.recording.push(Entry::TimerFired(fired));
                None
            }
            (State::Retrying { attempt, .. }, Some(Request::Task(task))) => {
                let attempt = *attempt;
                let task = task.clone();
                found.state = State::Waiting { attempt, until: None };
                let assignment = self.assignment(operation, &task, attempt);
                self.recording.push(Entry::TaskAssigned(assignment));
                None
            }
            (State::Retrying { attempt, .. }, _) => {
                found.state = State::Open { attempt: *attempt, until: None };
                Some(operation)
            }
            (State::Open { .. }, _) => {
                let failure = Failure::new(codes::STEP_TIMEOUT, "the step timed out");
                self.step_ended(operation, Err(TaskError::retryable(failure)), now);
                Some(operation)
            }
            _ => None,
        }
    }

    /// Whether the result of this attempt of a task is still awaited.
    ///
    /// Without a number, any attempt counts, also the next one of a task that is retrying.
    #[must_use]
    pub fn awaits_task(&self, operation: u64, attempt: Option<u32>) -> bool {
        let is_task = |found: &&Operation| matches!(found.request(), Some(Request::Task(_)));
        let Some(found) = self.operation(operation).filter(is_task) else { return false };
        match found.state {
            State::Waiting { attempt: current, .. } => attempt.is_none_or(|it| it == current),
            State::Retrying { .. } => attempt.is_none(),
            _ => false,
        }
    }

    /// The agent type of a task and the number of its current or next attempt, if the task is awaited.
    #[must_use]
    pub fn task(&self, operation: u64) -> Option<(&Name, u32)> {
        let found = self.operation(operation)?;
        let Some(Request::Task(task)) = found.request() else { return None };
        match found.state {
            State::Waiting { attempt, .. } | State::Retrying { attempt, .. } => {
                Some((&task.agent_type, attempt))
            }
            _ => None,
        }
    }

    /// When the total timeout of an awaited task expires, counted from its first assignment.
    #[must_use]
    pub fn task_expiry(&self, operation: u64) -> Option<Timestamp> {
        let found = self.operation(operation)?;
        match found.state {
            State::Waiting { .. } | State::Retrying { .. } => found.expires_at(),
            _ => None,
        }
    }

    /// The step or task that an entry ends, and when it began: a task at its first assignment, a step with
    /// the code of its last attempt.
    #[must_use]
    pub fn ends(&self, entry: &Entry) -> Option<(&Request, Timestamp)> {
        let found = self.operation(entry.operation()?)?;
        let request = found.request()?;
        let is_end = matches!(
            entry,
            Entry::StepCompleted(_) | Entry::TaskCompleted(_) | Entry::OperationFailed(_)
        );
        let counts = is_end && !found.is_over() && !request.is_from_other_type(entry);
        found.began_at.filter(|_| counts).map(|at| (request, at))
    }

    /// Number of the current attempt of a task, if its result is awaited.
    #[must_use]
    pub fn task_attempt(&self, operation: u64) -> Option<u32> {
        match self.operation(operation)?.state {
            State::Waiting { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// Notes that the result of a task is being recorded. Later results are ignored, also one of
    /// another attempt: the first one that arrives counts.
    pub fn task_answered(&mut self, operation: u64) {
        self.forget_attempt(operation);
        if let Some(found) = self.operation_mut(operation) {
            found.state = State::Recording;
        }
    }

    /// Notes an entry that is applied only when the pause of the run ends: what follows the attempt of
    /// a task is recorded, so it is not recorded again.
    pub fn hold_back(&mut self, entry: &Entry) {
        let follows_attempt = matches!(
            entry,
            Entry::TaskCompleted(_) | Entry::RetryScheduled(_) | Entry::OperationFailed(_)
        );
        let Some(operation) = entry.operation().filter(|_| follows_attempt) else { return };
        let request = self.operation(operation).and_then(Operation::request);
        let is_task = matches!(request, Some(Request::Task(_)));
        if is_task && !request.is_some_and(|it| it.is_from_other_type(entry)) {
            self.task_answered(operation);
        }
    }
}

impl Machine {
    /// Discards the next attempt of a task that has an outcome, if the attempt is not recorded yet. The
    /// first attempt stays, because it is what the journal knows the task by.
    fn forget_attempt(&mut self, operation: u64) {
        self.recording.retain(|entry| match entry {
            Entry::TaskAssigned(task) if task.data.attempt > 1 => {
                entry.operation() != Some(operation)
            }
            _ => true,
        });
    }

    /// Discards what is not recorded yet of a wait that is over: its deadline and its timeout.
    pub(super) fn forget_wait(&mut self, operation: u64) {
        self.recording.retain(|entry| match entry {
            Entry::SignalAwaited(wait) => wait.operation != operation,
            Entry::TimerFired(fired) => fired.operation != operation,
            _ => true,
        });
    }
}

/// The name of an entry in a [`Mismatch`]: that of its variant.
fn entry_name(entry: &Entry) -> String {
    let debug = format!("{entry:?}");
    debug.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

/// The state of an operation after the record of its start or of a failed attempt. `None` for entries
/// that change nothing here, such as the failure of an attempt whose retry follows in an entry of its
/// own.
fn state_after(entry: &Entry) -> Option<State> {
    Some(match entry {
        Entry::TimerStarted(timer) => State::Waiting { attempt: 1, until: Some(timer.fires_at) },
        Entry::SignalAwaited(wait) => State::Waiting { attempt: 1, until: Some(wait.deadline) },
        Entry::TaskAssigned(task) => State::Waiting { attempt: task.data.attempt, until: None },
        Entry::ChildStarted(_) => State::Waiting { attempt: 1, until: None },
        Entry::RetryScheduled(retry) => State::Retrying { attempt: retry.attempt, at: retry.at },
        _ => return None,
    })
}

/// The outcome that an entry records, if it records one. A timer that fired is the end of a sleep, and
/// the failure of a wait for a signal.
fn outcome(entry: &Entry, request: Option<&Request>) -> Option<Outcome> {
    match entry {
        Entry::StepCompleted(step) => Some(Ok(step.result.clone())),
        Entry::OperationFailed(failed) => Some(Err(failed.failure.clone())),
        Entry::TaskCompleted(task) => Some(Ok(task.data.output.clone())),
        Entry::ChildEnded(child) => Some(child_outcome(child)),
        Entry::TimerFired(_) => Some(match request {
            Some(Request::Signal { name, .. }) => Err(signal_timeout(name)),
            _ => Ok(aios_core::event::Payload::null()),
        }),
        _ => None,
    }
}

/// The failure of a wait for a signal that timed out.
pub(crate) fn signal_timeout(name: &str) -> Failure {
    Failure::new(codes::SIGNAL_TIMEOUT, format!("no signal {name} arrived in time"))
}

/// A child that ended without a failure and without a result has the result `null`.
fn child_outcome(child: &ChildEnded) -> Outcome {
    match &child.failure {
        Some(failure) => Err(failure.clone()),
        None => Ok(child.result.clone().unwrap_or_default()),
    }
}

/// Whether an entry is administrative: it does not advance the run's time. Operators and engines write
/// these, and `now()` is the time of what resumed the code.
fn is_administrative(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Paused | Entry::Resumed | Entry::Blocked(_) | Entry::Unblocked(_) | Entry::Moved(_)
    )
}
