//! Requests, outcomes and results: everything that the code of a workflow does to the machine.
//!
//! The life of an operation as the code sees it:
//!
//! ```text
//! reserve ──► ask ──► (outcome applied) ──► take_outcome
//!    │         │              │
//!    │         └──────────────┴──► abandon, if the call is dropped
//!    └── not asked: the number stays reserved, and nothing is recorded
//! ```
//!
//! A number is reserved where the operation is called and requested where it is first polled, so that
//! numbers don't depend on the order of polls. During a replay a request is compared with the journal
//! and adds nothing to record, except for operations that the journal does not have yet: what the code
//! requested after the last entry is recorded once the run is live.
//!
//! Steps have a part of their own, because their code runs here: `begin_step`, `poll_step` and
//! `step_ended` follow one attempt.

use std::sync::Arc;

use aios_core::{
    agent::{Name, TaskError},
    catalog::codes,
    event::{EventId, Payload, Timestamp},
    failure::Failure,
};

use super::{Effect, Machine, Mismatch, Outcome, Request, State, operation::Operation};
use crate::workflow::journal::{
    AgentEvent, Entry, EventEmitted, OperationFailed, RetryScheduled, SignalAwaited, StatusSet,
    StepCompleted, TaskCancelled, TimerStarted, VersionMarked,
};

/// Methods called on behalf of the code of a workflow.
impl Machine {
    /// Requests a reserved operation. Call it once for each operation. Deadlines count from `now`.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] if the journal records a different operation under this number.
    pub fn ask(
        &mut self,
        operation: u64,
        request: Request,
        now: Timestamp,
    ) -> Result<(), Mismatch> {
        self.expected.check(operation, &request)?;
        let (is_served, displaced) = match &request {
            Request::Signal { name, .. } => self.signals.add_waiter(name, operation),
            _ => (false, None),
        };
        let is_new = !is_served && !self.expected.knows(operation);
        let discarded = is_new && self.flushing;
        if is_new && !discarded {
            let entries = self.start_entries(operation, &request, now);
            self.recording.extend(entries);
        }
        if let Some(displaced) = displaced {
            self.await_later_signal(displaced, now);
        }
        let compensates = self.compensating;
        // These two wait for nothing: the code continues in the same poll.
        let is_over = matches!(request, Request::Emit { .. } | Request::Status { .. });
        if let Some(found) = self.operation_mut(operation) {
            let state = State::Open { attempt: 1, until: None };
            let request = Some(Box::new(request));
            *found = Operation { request, state, discarded, compensates, ..Operation::default() };
        }
        match is_over {
            true => self.resolve(operation, Ok(Payload::null()), self.place),
            false => drop(self.active.insert(operation)),
        }
        Ok(())
    }

    /// The entries that record the start of an operation.
    ///
    /// A step has none: it is recorded when it has ended. A wait for a signal has one only if it has a
    /// deadline, which must be the same after a crash. One that gets a signal which has arrived before
    /// waits for nothing, and has no start.
    fn start_entries(&self, operation: u64, request: &Request, now: Timestamp) -> Vec<Entry> {
        match request {
            Request::Step { .. } | Request::Signal { timeout: None, .. } => Vec::new(),
            Request::Task(task) => {
                vec![Entry::TaskAssigned(self.assignment(operation, task, 1))]
            }
            Request::Sleep { duration } => {
                let fires_at = now + *duration;
                vec![Entry::TimerStarted(TimerStarted::new(operation, fires_at))]
            }
            Request::Signal { name, timeout: Some(timeout) } => {
                let name = name.clone();
                let deadline = now + *timeout;
                vec![Entry::SignalAwaited(SignalAwaited::new(operation, name, deadline))]
            }
            Request::Child(child) => {
                vec![Entry::ChildStarted(self.child_started(operation, child, self.compensating))]
            }
            Request::Emit { event } => {
                // Derived, so that code which runs again requests the same event.
                let event_id = EventId::derive_from(&self.incarnation, &operation.to_string());
                let event = (**event).clone().with_id(event_id.clone()).with_timestamp(now);
                vec![
                    Entry::EventEmitted(EventEmitted::new(operation, event_id)),
                    Entry::Other(Box::new(event)),
                ]
            }
            Request::Status { text, progress } => {
                let text = text.clone();
                let progress = progress.clone();
                vec![Entry::StatusSet(StatusSet::new(operation, text, progress))]
            }
        }
    }

    /// Records the deadline of a wait that has none because a signal was there for it, which an
    /// operation with a lower number takes instead.
    fn await_later_signal(&mut self, operation: u64, now: Timestamp) {
        let request = self.operation(operation).and_then(Operation::request).cloned();
        let is_new = !self.expected.knows(operation);
        if let Some(request) = request.filter(|_| is_new && !self.flushing) {
            let entries = self.start_entries(operation, &request, now);
            self.recording.extend(entries);
        }
    }

    /// Place of an operation's outcome in the journal, if it is recorded and not taken.
    #[must_use]
    pub fn outcome_place(&self, operation: u64) -> Option<u64> {
        match self.operation(operation)?.state {
            State::Resolved { place, .. } => Some(place),
            _ => None,
        }
    }

    /// Whether the outcome of an operation is recorded, even if the code has already taken it.
    #[must_use]
    pub fn has_outcome(&self, operation: u64) -> bool {
        let state = self.operation(operation).map(|found| &found.state);
        matches!(state, Some(State::Resolved { .. } | State::Taken))
    }

    /// The first untaken signal in the journal that an operation waits for: its place, and the
    /// operation.
    ///
    /// Such a pair exists when a signal was returned by a call that was dropped, or arrived while
    /// nothing waited for it. The code takes it when it is idle, in the order of the journal.
    pub fn first_kept_signal(&mut self) -> Option<(u64, u64)> {
        self.signals.first_match()
    }

    /// Resolves an operation with the first untaken signal of its name.
    pub fn give_signal(&mut self, operation: u64) {
        let request = self.operation(operation).and_then(Operation::request);
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
            State::Resolved { outcome, .. } => Some(outcome.map_err(|failure| *failure)),
            _ => None,
        }
    }

    /// Number of the attempt, from 1, of a step whose code may run now.
    ///
    /// `None` while the journal is replayed, while the run is paused or held, and while outcomes that
    /// the code has seen are not durable.
    #[must_use]
    pub fn step_attempt(&self, operation: u64) -> Option<u32> {
        match self.operation(operation)?.state {
            State::Open { attempt, .. } if self.live && !self.is_paused() && !self.ahead => {
                Some(attempt)
            }
            _ => None,
        }
    }

    /// Notes that the code polls a step. Returns whether the result of this attempt would be recorded.
    ///
    /// A later attempt, a recorded timeout or an abandoned call make it `false`: the code of the old
    /// attempt is dropped then.
    pub fn poll_step(&mut self, operation: u64, attempt: u32) -> bool {
        let Some(found) = self.operation_mut(operation) else { return false };
        found.unpolled = false;
        matches!(found.state, State::Open { attempt: open, .. } if open == attempt)
    }

    /// Begins an attempt of a step, if its code may run now, and returns the number of the attempt. Its
    /// timeout does not elapse before [`time_step`](Self::time_step).
    pub fn begin_step(&mut self, operation: u64, now: Timestamp) -> Option<u32> {
        let attempt = self.step_attempt(operation)?;
        let found = self.operation_mut(operation)?;
        (found.begun, found.began_at) = (true, Some(now));
        Some(attempt)
    }

    /// Lets the timeout of the running attempt of a step elapse, from when the attempt began, or from
    /// `began_at` if its code was queued.
    ///
    /// The start of a step is not recorded, so its timeout begins again after a crash.
    pub fn time_step(&mut self, operation: u64, began_at: Option<Timestamp>) {
        let Some(found) = self.operation_mut(operation) else { return };
        found.began_at = began_at.or(found.began_at);
        if let (State::Open { until, .. }, Some(began_at), Some(request)) =
            (&mut found.state, found.began_at, found.request.as_deref())
            && let Request::Step { timeout: Some(timeout), .. } = request
        {
            let at = began_at + *timeout;
            *until = Some(at);
            self.effects.push(Effect::Timer { operation, at });
        }
    }

    /// Records the result of a step whose code ended.
    ///
    /// Nothing is recorded if no attempt is open any more, for example because it timed out.
    pub fn step_ended(
        &mut self,
        operation: u64,
        outcome: Result<Payload, TaskError>,
        now: Timestamp,
    ) {
        let Some(found) = self.operation_mut(operation) else { return };
        let State::Open { attempt, until } = found.state else { return };
        let Some(Request::Step { name, .. }) = found.request() else { return };
        let name = Box::from(&**name);
        found.begun = false;
        found.state = State::Recording;
        if until.is_some() {
            self.effects.push(Effect::Settled { operation });
        }
        let entry = match outcome {
            Ok(result) => Entry::StepCompleted(StepCompleted::new(operation, name, result)),
            Err(error) => self.after_failure(operation, attempt, error, now),
        };
        self.recording.push(entry);
    }

    /// The entry that records a failed attempt: it schedules a retry, or fails the operation if no
    /// attempt is left.
    ///
    /// The jitter derives from the run's incarnation and the operation, so a repeated simulation gets
    /// the same delay.
    ///
    /// | the error | what is recorded |
    /// |---|---|
    /// | is not retryable, or its code is excluded by the policy | the operation has failed |
    /// | comes from the last attempt | the operation has failed |
    /// | leaves no time for the delay before the total timeout of the task | the operation has failed |
    /// | else | a retry, with its time |
    #[must_use]
    pub fn after_failure(
        &self,
        operation: u64,
        attempt: u32,
        error: TaskError,
        now: Timestamp,
    ) -> Entry {
        let found = self.operation(operation);
        let expires_at = found.and_then(Operation::expires_at);
        let (name, retry) = match found.and_then(Operation::request) {
            Some(Request::Step { name, retry, .. }) => (Some(Box::from(&**name)), Some(retry)),
            Some(Request::Task(task)) => (None, Some(&task.retry)),
            _ => (None, None),
        };
        let failure = error.failure;
        let jitter = self.jitter(&format!("retry/{operation}/{attempt}"));
        let delay = retry
            .filter(|retry| error.retryable && retry.allows(&failure.code))
            .and_then(|retry| retry.delay_after(attempt, jitter))
            .filter(|delay| expires_at.is_none_or(|expires_at| now + *delay < expires_at));
        match delay {
            Some(delay) => Entry::RetryScheduled(Box::new(RetryScheduled::new(
                operation,
                name,
                attempt + 1,
                now + delay,
                failure,
            ))),
            None => Entry::OperationFailed(OperationFailed::new(operation, name, failure)),
        }
    }

    /// Abandons an operation: the code no longer waits for it. Entries about it that are not in the
    /// journal yet are discarded.
    ///
    /// | operation | what else happens |
    /// |---|---|
    /// | whose start is not recorded yet | its start is discarded, as if it had never been requested |
    /// | task | its agents are notified that nothing awaits it |
    /// | timer | it is cleared |
    /// | wait whose signal has arrived | the signal is kept for the next wait, at its former place |
    /// | child that was to be cancelled when dropped | it is cancelled, unless it has ended, or the run was cancelled and leaves it running |
    /// | step | its code was dropped by the caller |
    pub fn abandon(&mut self, operation: u64) {
        self.active.remove(&operation);
        let is_cancelled = self.cancelled.is_some();
        let Some(found) = self.operation_mut(operation) else { return };
        if matches!(found.state, State::Reserved | State::Taken | State::Abandoned) {
            return;
        }
        // Before the request is taken, on which it depends.
        let was_waiting = found.waits_externally();
        let was_discarded = found.discarded;
        // The cancellation of the run drops all calls but those of its compensations.
        let is_cancelled = is_cancelled && !found.compensates;
        let has_ended = matches!(found.state, State::Resolved { .. });
        let state = std::mem::replace(&mut found.state, State::Abandoned);
        let request = found.request.take();
        if let State::Resolved { outcome: Ok(payload), place, signal: Some(name) } = state {
            // The code has not seen this signal, so the next wait takes it.
            self.signals.keep(name, place, payload);
        }
        if let Some(Request::Signal { name, .. }) = request.as_deref() {
            self.signals.remove_waiter(name, operation);
        }
        let begins = |entry: &Entry| entry.operation() == Some(operation) && entry.is_beginning();
        let before = self.recording.len();
        self.recording.retain(|entry| !begins(entry));
        // If the start was still here or was discarded, nothing outside has heard of the operation.
        let is_known = self.recording.len() == before && !was_discarded;
        self.forget_wait(operation);
        if let Some(Request::Child(child)) = request.as_deref()
            && child.cancel_when_dropped
            && !(child.leave_running && is_cancelled)
            && is_known
            && !has_ended
        {
            self.unwanted.insert(operation);
        }
        if !self.live || !is_known {
            return;
        }
        if was_waiting {
            self.effects.push(Effect::Settled { operation });
        }
        if let Some(Request::Task(task)) = request.map(|request| *request) {
            self.cancel_task(operation, task.agent_type);
        }
    }

    /// Records that nothing awaits a task any more, and notifies its agents.
    pub(crate) fn cancel_task(&mut self, operation: u64, agent_type: Name) {
        let task_id = self.task_id(operation);
        let data = TaskCancelled::new(task_id.clone());
        self.effects.push(Effect::CancelTask { agent_type: agent_type.clone(), task_id });
        self.recording.push(Entry::TaskCancelled(AgentEvent { agent_type, data }));
    }

    /// Whether the code has dropped the call of an operation.
    pub(crate) fn is_abandoned(&self, operation: u64) -> bool {
        self.operation(operation).is_some_and(|found| matches!(found.state, State::Abandoned))
    }

    /// The code runs its compensations from now on. Children that it requests are not cancelled with the
    /// run.
    pub fn begin_compensations(&mut self) {
        self.compensating = true;
    }

    /// Discards the starts of operations that the code requests from now on, until
    /// [`end_flush`](Self::end_flush).
    ///
    /// Used while held entries are applied before a cancellation. Everything else is recorded: outcomes
    /// of work that began before, and the versions of changes, which the code follows already.
    pub fn begin_flush(&mut self) {
        self.flushing = true;
    }

    /// Ends the effect of [`begin_flush`](Self::begin_flush).
    pub fn end_flush(&mut self) {
        self.flushing = false;
    }

    /// The version of a change that this run follows: the one pinned in its journal; else the oldest,
    /// if the run executed this point before the change was made; else the newest, which is pinned
    /// now.
    ///
    /// # Errors
    ///
    /// A failure with the code `UNKNOWN_VERSION` if the journal pins a version outside the range.
    ///
    /// An entry beyond the operations that the code has reserved shows that the run has been at a later
    /// place before. A version that is followed without a record is remembered here, so that a second
    /// call in the same run follows it too.
    pub fn version(&mut self, change: &str, oldest: u32, newest: u32) -> Result<u32, Failure> {
        let known = self.versions.get(change).copied().or_else(|| self.expected.version(change));
        // Only entries about operations show how far the code got; signals, for example, do not.
        let passed_before = self.expected.knows_later_than(self.reserved());
        let version = known.unwrap_or(if passed_before { oldest } else { newest });
        if known.is_none() && !passed_before {
            let change = change.into();
            self.recording.push(Entry::VersionMarked(VersionMarked::new(change, version)));
        }
        self.versions.insert(change.into(), version);
        if (oldest..=newest).contains(&version) {
            return Ok(version);
        }
        Err(Failure::new(
            codes::UNKNOWN_VERSION,
            format!(
                "the run follows version {version} of {change}; the code supports {oldest} to {newest}"
            ),
        ))
    }

    /// The next UUID. It is the same in every replay.
    ///
    /// The number of reserved operations decides whether a fork still draws from the seed of the run
    /// that it was forked from.
    pub fn draw(&mut self) -> uuid::Uuid {
        let reserved = self.reserved();
        self.draws.next_uuid(reserved)
    }

    /// The idempotency key of an operation: the same in all its attempts, and different from the key of
    /// every other operation, even if a later run reuses the id of this run. Tasks have keys of the
    /// same form.
    #[must_use]
    pub fn idempotency_key(&self, operation: u64) -> String {
        format!("{}/{operation}@{}", self.run_id, self.incarnation)
    }

    /// Id of the run.
    #[must_use]
    pub(crate) fn run_id(&self) -> Arc<str> {
        Arc::clone(&self.run_id)
    }

    /// A number from 0 to 1, derived from the run's incarnation and `label`.
    fn jitter(&self, label: &str) -> f64 {
        let key = EventId::derive(&format!("{}/{label}", self.incarnation)).key();
        // The lowest 32 bits of the hash: evenly distributed, and exact as an `f64`.
        let bits = u32::try_from(key.as_u128() & 0xffff_ffff).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX)
    }
}
