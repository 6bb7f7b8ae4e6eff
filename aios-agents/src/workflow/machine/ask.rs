use aios_core::{
    agent::{TaskError, TaskId},
    event::{EventId, Payload, Timestamp},
    failure::Failure,
};

use super::{
    Effect, Machine, Mismatch, Outcome, Request, State, UNKNOWN_VERSION, operation::Operation,
};
use crate::workflow::journal::{
    AgentEvent, Entry, EventEmitted, OperationFailed, RetryScheduled, SignalAwaited, StatusSet,
    StepCompleted, TaskCancelled, TimerStarted, VersionMarked,
};

/// What the code of a workflow may call.
impl Machine {
    /// The code asks for the operation that it reserved, once. Deadlines count from `present`.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the journal says that this operation is something else.
    pub fn ask(
        &mut self,
        operation: u64,
        request: Request,
        present: Timestamp,
    ) -> Result<(), Mismatch> {
        self.expected.check(operation, &request)?;
        if !self.expected.knows(operation) {
            let entries = self.opening(operation, &request, present);
            self.recording.extend(entries);
        }
        if let Request::Signal { name, .. } = &request {
            self.signals.join(name, operation);
        }
        let is_over = matches!(request, Request::Emit { .. } | Request::Status { .. });
        if let Some(found) = self.operation_mut(operation) {
            let state = State::Open { attempt: 1, until: None };
            *found = Operation { request: Some(request), state, ..Operation::default() };
        }
        match is_over {
            true => self.resolve(operation, Ok(Payload::null()), self.place),
            false => drop(self.active.insert(operation)),
        }
        Ok(())
    }

    /// What to record of an operation that the journal does not know yet.
    fn opening(&self, operation: u64, request: &Request, present: Timestamp) -> Vec<Entry> {
        match request {
            Request::Step { .. } | Request::Signal { timeout: None, .. } => Vec::new(),
            Request::Task(task) => {
                vec![Entry::TaskAssigned(self.assignment(operation, task, 1))]
            }
            Request::Sleep { duration } => {
                let fires_at = present + *duration;
                vec![Entry::TimerStarted(TimerStarted { operation, fires_at })]
            }
            Request::Signal { name, .. } if self.signals.has_for_another(name) => Vec::new(),
            Request::Signal { name, timeout: Some(timeout) } => {
                let (name, deadline) = (name.clone(), present + *timeout);
                vec![Entry::SignalAwaited(SignalAwaited { operation, name, deadline })]
            }
            Request::Child(child) => {
                vec![Entry::ChildStarted(self.child_started(operation, child))]
            }
            Request::Emit { event } => {
                let event_id = EventId::derive(&format!("{}/{operation}", self.incarnation));
                let event = (**event).clone().with_id(event_id.clone()).with_timestamp(present);
                vec![
                    Entry::EventEmitted(EventEmitted { operation, event_id }),
                    Entry::Other(Box::new(event)),
                ]
            }
            Request::Status { text, progress } => {
                let (text, progress) = (text.clone(), progress.clone());
                vec![Entry::StatusSet(StatusSet { operation, text, progress })]
            }
        }
    }

    /// Where the outcome of an operation stands in the journal, if it is recorded and not taken.
    #[must_use]
    pub fn outcome_place(&self, operation: u64) -> Option<u64> {
        match self.operation(operation)?.state {
            State::Resolved { place, .. } => Some(place),
            _ => None,
        }
    }

    /// Whether the outcome of an operation is recorded, also if the code has taken it.
    #[must_use]
    pub fn has_outcome(&self, operation: u64) -> bool {
        let state = self.operation(operation).map(|found| &found.state);
        matches!(state, Some(State::Resolved { .. } | State::Taken))
    }

    /// The first signal in the journal that is kept and that an operation waits for: its place and
    /// the operation.
    pub fn first_kept_signal(&mut self) -> Option<(u64, u64)> {
        self.signals.first_match()
    }

    /// Gives the first kept signal to an operation that waits for it.
    pub fn give_signal(&mut self, operation: u64) {
        let request = self.operation(operation).and_then(|found| found.request.as_ref());
        let Some(Request::Signal { name, .. }) = request else { return };
        let name = name.clone();
        if let Some((place, payload)) = self.signals.take(&name) {
            self.resolve(operation, Ok(payload), place);
        }
    }

    /// Takes the outcome of an operation, once it is recorded.
    pub fn take_outcome(&mut self, operation: u64) -> Option<Outcome> {
        let found = self.operation_mut(operation)?;
        if !matches!(found.state, State::Resolved { .. }) {
            return None;
        }
        match std::mem::replace(&mut found.state, State::Taken) {
            State::Resolved { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// The attempt, from 1, in which the code of a step is to run now, if it is to run at all.
    #[must_use]
    pub fn step_attempt(&self, operation: u64) -> Option<u32> {
        match self.operation(operation)?.state {
            State::Open { attempt, .. } if self.live && !self.is_paused() => Some(attempt),
            _ => None,
        }
    }

    /// Whether the result of this attempt of a step would be recorded.
    #[must_use]
    pub fn awaits_step(&self, operation: u64, attempt: u32) -> bool {
        let state = self.operation(operation).map(|found| &found.state);
        matches!(state, Some(State::Open { attempt: open, .. }) if *open == attempt)
    }

    /// Begins the code of a step, if it is to run now; its time counts from `present`, which is asked
    /// for only if the step has a timeout. Returns the number of the attempt.
    pub fn begin_step(
        &mut self,
        operation: u64,
        present: impl FnOnce() -> Timestamp,
    ) -> Option<u32> {
        let attempt = self.step_attempt(operation)?;
        let found = self.operation_mut(operation)?;
        found.begun = true;
        if let (State::Open { until, .. }, Some(Request::Step { timeout: Some(timeout), .. })) =
            (&mut found.state, &found.request)
        {
            let at = present() + *timeout;
            *until = Some(at);
            self.effects.push(Effect::Timer { operation, at });
        }
        Some(attempt)
    }

    /// The code of a step ended; its result is to be recorded.
    pub fn step_ended(
        &mut self,
        operation: u64,
        outcome: Result<Payload, TaskError>,
        present: Timestamp,
    ) {
        let Some(found) = self.operation_mut(operation) else { return };
        let State::Open { attempt, until } = found.state else { return };
        let Some(Request::Step { name, .. }) = &found.request else { return };
        let name = name.clone();
        found.begun = false;
        found.state = State::Recording;
        if until.is_some() {
            self.effects.push(Effect::Settled { operation });
        }
        let entry = match outcome {
            Ok(result) => Entry::StepCompleted(StepCompleted { operation, name, result }),
            Err(error) => self.after_failure(operation, attempt, error, present),
        };
        self.recording.push(entry);
    }

    /// What to record of a failed attempt: another one is scheduled, or it was the last.
    ///
    /// The jitter follows from the run's incarnation and the operation, so that it is the same in
    /// a simulation that runs again.
    #[must_use]
    pub fn after_failure(
        &self,
        operation: u64,
        attempt: u32,
        error: TaskError,
        present: Timestamp,
    ) -> Entry {
        let found = self.operation(operation);
        let expires_at = found.and_then(|found| found.expires_at);
        let (name, retry) = match found.and_then(|found| found.request.as_ref()) {
            Some(Request::Step { name, retry, .. }) => (Some(name.clone()), Some(retry)),
            Some(Request::Task(task)) => (None, Some(&task.retry)),
            _ => (None, None),
        };
        let failure = error.failure;
        let chance = self.chance(&format!("retry/{operation}/{attempt}"));
        let delay = retry
            .filter(|retry| error.retryable && retry.allows(&failure.code))
            .and_then(|retry| retry.delay_after(attempt, chance))
            .filter(|delay| expires_at.is_none_or(|expires_at| present + *delay < expires_at));
        match delay {
            Some(delay) => Entry::RetryScheduled(RetryScheduled {
                operation,
                name,
                attempt: attempt + 1,
                at: present + delay,
                failure,
            }),
            None => Entry::OperationFailed(OperationFailed { operation, name, failure }),
        }
    }

    /// The code waits for an operation no longer. What the journal does not know of it yet it never
    /// learns.
    pub fn abandon(&mut self, operation: u64) {
        self.active.remove(&operation);
        let Some(found) = self.operation_mut(operation) else { return };
        if matches!(found.state, State::Unasked | State::Taken | State::Abandoned) {
            return;
        }
        let was_waiting = found.waits_outside();
        let state = std::mem::replace(&mut found.state, State::Abandoned);
        let request = found.request.take();
        if let State::Resolved { outcome: Ok(payload), place, signal: Some(name) } = state {
            // A signal that the code has not seen is the next wait's.
            self.signals.keep(name, place, payload);
        }
        if let Some(Request::Signal { name, .. }) = &request {
            self.signals.leave(name, operation);
        }
        let begins = |entry: &Entry| entry.operation() == Some(operation) && entry.is_beginning();
        let before = self.recording.len();
        self.recording.retain(|entry| !begins(entry));
        let is_known = self.recording.len() == before;
        if !self.live || !is_known {
            return;
        }
        if was_waiting {
            self.effects.push(Effect::Settled { operation });
        }
        if let Some(Request::Task(task)) = request {
            let task_id = TaskId::of_run(&self.run_id, operation);
            let agent_type = task.agent_type;
            self.effects.push(Effect::CancelTask {
                agent_type: agent_type.clone(),
                task_id: task_id.clone(),
            });
            let data = TaskCancelled { task_id };
            self.recording.push(Entry::TaskCancelled(AgentEvent { agent_type, data }));
        }
    }

    /// How much is to be recorded by now; see [`forget_after`](Self::forget_after).
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.recording.len()
    }

    /// Forgets what the code asked for since there was `recorded` to be recorded. The versions of
    /// changes that it follows stay marked.
    pub fn forget_after(&mut self, recorded: usize) {
        let later = self.recording.split_off(recorded.min(self.recording.len()));
        let stays = |entry: &Entry| matches!(entry, Entry::VersionMarked(_));
        self.recording.extend(later.into_iter().filter(stays));
    }

    /// The version of a change that this run follows: what its journal marks; the oldest one if it
    /// passed here before the change was known; else the newest one, which is marked now.
    ///
    /// # Errors
    ///
    /// A failure with the code `UNKNOWN_VERSION` if the journal marks a version outside the range.
    pub fn version(&mut self, change: &str, oldest: u32, newest: u32) -> Result<u32, Failure> {
        let known = self.versions.get(change).copied().or_else(|| self.expected.version(change));
        // Entries that belong to no operation, as signals, say nothing about where the code is.
        let passed_before = self.expected.knows_later_than(self.reserved());
        let version = known.unwrap_or(if passed_before { oldest } else { newest });
        if known.is_none() && !passed_before {
            let change = change.into();
            self.recording.push(Entry::VersionMarked(VersionMarked { change, version }));
        }
        self.versions.insert(change.into(), version);
        if (oldest..=newest).contains(&version) {
            return Ok(version);
        }
        Err(Failure::new(
            UNKNOWN_VERSION,
            format!(
                "the journal follows version {version} of {change}, the code knows {oldest} to {newest}"
            ),
        ))
    }

    /// A UUID that is the same in every replay.
    pub fn draw(&mut self) -> uuid::Uuid {
        let reserved = self.reserved();
        self.draws.next(reserved)
    }

    /// A text that is the same in every attempt of an operation and in no other operation, also if
    /// a later run uses the id of this one again. That of a task is in the same form.
    #[must_use]
    pub fn idempotency_key(&self, operation: u64) -> String {
        format!("{}/{operation}@{}", self.run_id, self.incarnation)
    }

    /// A number from 0 to 1 that follows from the run's incarnation and `label`.
    fn chance(&self, label: &str) -> f64 {
        let key = EventId::derive(&format!("{}/{label}", self.incarnation)).key();
        let bits = u32::try_from(key.as_u128() & 0xffff_ffff).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX)
    }
}
