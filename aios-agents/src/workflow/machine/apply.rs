use aios_core::{
    agent::{Name, TaskError},
    event::Timestamp,
    failure::Failure,
};

use super::{Machine, Mismatch, Outcome, Request, State, operation::Operation};
use crate::workflow::{
    WorkflowError,
    journal::{ChildEnded, Entry, Signaled},
};

/// What the host of a machine tells it.
impl Machine {
    /// Applies the next entry of the journal, which is durable since `at`. Afterwards let the code
    /// run before the next one is applied.
    ///
    /// Returns the operation whose outcome this is, if it is one.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the entry is about an operation that the code did not ask for.
    pub fn apply(&mut self, entry: &Entry, at: Timestamp) -> Result<Option<u64>, Mismatch> {
        self.place += 1;
        if !is_about_the_host(entry) {
            self.now = self.now.max(at);
        }
        match entry {
            Entry::Started(started) => {
                self.now = self.now.max(started.start_at.unwrap_or(self.now));
            }
            Entry::Signaled(signal) => return Ok(self.signaled(signal)),
            Entry::VersionMarked(mark) => {
                self.versions.insert(mark.change.clone(), mark.version);
            }
            Entry::CancelRequested(request) => {
                let failure = Failure::new(WorkflowError::CANCELLED, request.reason.clone());
                self.cancelled.get_or_insert(failure);
                self.unpause();
            }
            // A run that is being cancelled is not paused any more.
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

    fn unpause(&mut self) {
        if std::mem::replace(&mut self.paused, false) && self.live && !self.held {
            self.resume();
        }
    }

    fn apply_to(
        &mut self,
        operation: u64,
        entry: &Entry,
        at: Timestamp,
    ) -> Result<Option<u64>, Mismatch> {
        let Some(found) = self.operation(operation).filter(|found| found.is_asked()) else {
            let unasked = Mismatch::unasked(operation, "more than that".to_owned());
            return Err(self.expected.first_unless(|other| other != operation).unwrap_or(unasked));
        };
        if found.is_over() || found.request.as_ref().is_some_and(|it| it.is_foreign(entry)) {
            return Ok(None);
        }
        if let Some(request) = found.request.as_ref().filter(|request| !request.takes(entry)) {
            let (recorded, asked) = (entry_name(entry), request.describe());
            return Err(Mismatch { operation, recorded, asked });
        }
        if let Some(outcome) = outcome(entry, found.request.as_ref()) {
            self.forget_attempt(operation);
            self.resolve(operation, outcome, self.place);
            return Ok(Some(operation));
        }
        if let (Some(state), Some(found)) = (begun(entry), self.operation_mut(operation)) {
            found.state = state;
            found.begin_total_timeout(at);
            found.note_child(entry);
            if self.live {
                self.push_effect(operation);
            }
        }
        Ok(None)
    }

    /// Gives a signal to the operation that waits for it longest, or keeps it for the next.
    fn signaled(&mut self, signal: &Signaled) -> Option<u64> {
        let place = match signal.inherited {
            // Sent before any that was sent to this run, whichever was recorded first.
            true => {
                self.inherited += 1;
                self.inherited
            }
            false => self.place,
        };
        self.signals.came(place);
        let waiting = self.signals.longest_wait(&signal.name);
        match waiting {
            Some(operation) => self.resolve(operation, Ok(signal.payload.clone()), place),
            None => self.signals.keep(signal.name.clone(), place, signal.payload.clone()),
        }
        waiting
    }

    /// A timer is due at last. Returns the operation whose code is to run again, or is out of time,
    /// if it is a step. In a paused run nothing is due; its timers are set again when it is resumed.
    pub fn timer_due(&mut self, operation: u64, present: Timestamp) -> Option<u64> {
        if self.is_paused() {
            return None;
        }
        let found = self.operation_mut(operation)?;
        if found.timer().is_none_or(|due| due > present) {
            return None;
        }
        match (&found.state, &found.request) {
            (State::Waiting { attempt, .. }, _) => {
                found.state = State::Waiting { attempt: *attempt, until: None };
                let fired = crate::workflow::journal::TimerFired { operation };
                self.recording.push(Entry::TimerFired(fired));
                None
            }
            (State::Retrying { attempt, .. }, Some(Request::Task(task))) => {
                let (attempt, task) = (*attempt, task.clone());
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
                let failure = Failure::new("STEP_TIMEOUT", "the step did not end in time");
                self.step_ended(operation, Err(TaskError::retryable(failure)), present);
                Some(operation)
            }
            _ => None,
        }
    }

    /// Whether the answer of an agent to this attempt of a task is still waited for.
    #[must_use]
    pub fn awaits_task(&self, operation: u64, attempt: Option<u32>) -> bool {
        let is_task = |found: &&Operation| matches!(found.request, Some(Request::Task(_)));
        let Some(found) = self.operation(operation).filter(is_task) else { return false };
        match found.state {
            State::Waiting { attempt: current, .. } => attempt.is_none_or(|it| it == current),
            State::Retrying { .. } => attempt.is_none(),
            _ => false,
        }
    }

    /// Type of the agents that are to do a task, and the number of its current or coming attempt, if
    /// the task is waited for.
    #[must_use]
    pub fn task(&self, operation: u64) -> Option<(&Name, u32)> {
        let found = self.operation(operation)?;
        let Some(Request::Task(task)) = &found.request else { return None };
        match found.state {
            State::Waiting { attempt, .. } | State::Retrying { attempt, .. } => {
                Some((&task.agent_type, attempt))
            }
            _ => None,
        }
    }

    /// When all attempts of a task that is waited for are out of time, counted from when it was
    /// assigned first.
    #[must_use]
    pub fn task_expiry(&self, operation: u64) -> Option<Timestamp> {
        let found = self.operation(operation)?;
        match found.state {
            State::Waiting { .. } | State::Retrying { .. } => found.expires_at,
            _ => None,
        }
    }

    /// The attempt of a task that is waited for now.
    #[must_use]
    pub fn task_attempt(&self, operation: u64) -> Option<u32> {
        match self.operation(operation)?.state {
            State::Waiting { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// The answer of an agent is on its way into the journal; further ones are not waited for.
    pub fn task_answered(&mut self, operation: u64) {
        self.forget_attempt(operation);
        if let Some(found) = self.operation_mut(operation) {
            found.state = State::Recording;
        }
    }
}

impl Machine {
    /// A task has an outcome: a further attempt that is not recorded yet never is.
    fn forget_attempt(&mut self, operation: u64) {
        let state = self.operation(operation).map(|found| &found.state);
        if matches!(state, Some(State::Waiting { attempt: 2.., .. })) {
            self.recording.retain(|entry| {
                !matches!(entry, Entry::TaskAssigned(_)) || entry.operation() != Some(operation)
            });
        }
    }
}

/// What an entry is called where it does not belong.
fn entry_name(entry: &Entry) -> String {
    let debug = format!("{entry:?}");
    debug.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

/// The state that an operation is in after its start or a failed attempt was recorded.
fn begun(entry: &Entry) -> Option<State> {
    Some(match entry {
        Entry::TimerStarted(timer) => State::Waiting { attempt: 1, until: Some(timer.fires_at) },
        Entry::SignalAwaited(wait) => State::Waiting { attempt: 1, until: Some(wait.deadline) },
        Entry::TaskAssigned(task) => State::Waiting { attempt: task.data.attempt, until: None },
        Entry::ChildStarted(_) => State::Waiting { attempt: 1, until: None },
        Entry::RetryScheduled(retry) => State::Retrying { attempt: retry.attempt, at: retry.at },
        _ => return None,
    })
}

/// The outcome that an entry records, if it is one.
fn outcome(entry: &Entry, request: Option<&Request>) -> Option<Outcome> {
    match entry {
        Entry::StepCompleted(step) => Some(Ok(step.result.clone())),
        Entry::OperationFailed(failed) => Some(Err(failed.failure.clone())),
        Entry::TaskCompleted(task) => Some(Ok(task.data.output.clone())),
        Entry::ChildEnded(child) => Some(child_outcome(child)),
        Entry::TimerFired(_) => Some(match request {
            Some(Request::Signal { name, .. }) => {
                Err(Failure::new("SIGNAL_TIMEOUT", format!("signal {name} did not come in time")))
            }
            _ => Ok(aios_core::event::Payload::null()),
        }),
        _ => None,
    }
}

fn child_outcome(child: &ChildEnded) -> Outcome {
    match &child.failure {
        Some(failure) => Err(failure.clone()),
        None => Ok(child.result.clone().unwrap_or_default()),
    }
}

/// Whether an entry says nothing about how far the run is.
fn is_about_the_host(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Paused | Entry::Resumed | Entry::Blocked(_) | Entry::Unblocked | Entry::Moved(_)
    )
}
