//! The messages in the inbox of a run, above all the answers of agents.
//!
//! The order that no answer may break:
//!
//! ```text
//! delivery ──► classify ──► outbox ──► append ──► applied ──► acknowledged
//!                  │
//!                  ├── no attempt awaits it ──► confirmed by the store that the run is ours ──► acknowledged
//!                  └── it is not a valid answer ──► confirmed in the same way ──► dead letter
//! ```
//!
//! If the process dies before the acknowledgement, the broker delivers the answer again, to this engine
//! or its successor. If the append was durable by then, no attempt awaits the second copy.
//!
//! The belief of a driver about its ownership may be outdated, so a refusal is never final before the
//! store has confirmed the fence (`Engine::settle_refused`).

use std::future::poll_fn;

use aios_core::{
    agent::{TaskError, TaskFailed},
    broker::Delivery,
};

use super::{
    Driver, Exit, Message, acknowledge,
    classify::Answer,
    tasks::{AnonymousAnswer, Refusal},
};
use crate::workflow::journal::{AgentEvent, Entry, Record};

impl Driver {
    /// Handles one message. An exit means that the run leaves memory.
    pub(super) async fn on_message(&mut self, message: Message) -> Option<Exit> {
        match message {
            // The next owner reads the journal.
            Message::Wake if self.is_leaving => {}
            // The append in flight must not be read back before it is answered, or it would be
            // applied twice.
            Message::Wake if self.append.is_some() => self.reread_pending = true,
            Message::Wake => return self.reread().await,
            // The timeout of a step that is running is the only one that counts during a pause.
            Message::TimerDue(operation)
                if self.is_paused() && !self.execution.machine().is_running(operation) =>
            {
                self.missed.insert(operation);
            }
            Message::TimerDue(operation) => return self.on_timer(operation).await,
            Message::Answer(delivery) => self.on_answer(*delivery).await,
            Message::Undeliverable { operation, attempt, failure, retryable } => {
                let error = TaskError::retryable(failure).with_retryable(retryable);
                let failure = error.failure.clone();
                if self.on_undeliverable(operation, attempt, error) {
                    self.report_unreached(operation, attempt, failure);
                }
            }
            Message::DeadLettered { operation, attempt, letter } => {
                self.on_dead_letter(operation, attempt, &letter);
            }
            Message::Deferred { operation, attempt, is_uncertain } => {
                self.on_deferred(operation, attempt, is_uncertain);
            }
            Message::Sought { operation, attempt } => self.on_sought(operation, attempt),
            Message::Suspect => self.suspect(),
            // The run is idle already, and its wake-up time is noted.
            Message::Leave if self.is_idle() => return Some(Exit::Waiting(self.parked())),
            Message::Leave => self.set_leaving(true).await,
            Message::Stay => self.set_leaving(false).await,
            Message::Lost => return Some(Exit::NotOwner),
        }
        None
    }

    /// Handles a due timer. A task is dispatched again only after the journal has been read, because
    /// another engine may have recorded its answer.
    ///
    /// | before the check | then |
    /// |---|---|
    /// | the timer dispatches nothing | it is handled at once |
    /// | the journal can be read now | it is read, and the task is left alone if it has an outcome now |
    /// | an append is in flight, or the store does not answer | the timer is set again, for a moment later |
    pub(super) async fn on_timer(&mut self, operation: u64) -> Option<Exit> {
        let is_read = self.may_repeat(operation);
        if is_read {
            // The append in flight would be read back and applied twice.
            if self.append.is_none()
                && let Some(exit) = self.reread().await
            {
                return Some(exit);
            }
            if self.append.is_some() || self.reread_timer.is_some() {
                let backoff = self.engine.options.backoff;
                let is_appending = self.append.is_some();
                let pause = if is_appending { backoff.initial_delay } else { backoff.max_delay };
                self.engine.timers.set(self.engine.clock.now() + pause, &self.run_id, operation);
                return None;
            }
            if !self.execution.machine().awaits_task(operation, None) {
                return None;
            }
        }
        self.timer_due(operation, is_read);
        None
    }

    /// Whether a due timer may dispatch a task again.
    ///
    /// Two reasons: the broker did not take it, or has probably lost it.
    fn may_repeat(&mut self, operation: u64) -> bool {
        let is_put_off = self.tasks.deferred.contains_key(&operation);
        is_put_off || self.is_lost(operation, self.engine.clock.now())
    }

    /// Handles a due timer of an operation. Timers that are not due at the time read now are set
    /// again. `is_read` says that the journal was just read, so that a task may be dispatched again.
    fn timer_due(&mut self, operation: u64, is_read: bool) {
        let now = self.engine.clock.now();
        if self.expire(operation, now) {
            return;
        }
        self.children.retry_start(operation);
        let (again, not_due) = {
            let mut machine = self.execution.machine();
            let again = machine.timer_due(operation, now);
            // The check of a child sets a timer of its own. Without one, this timer was that check.
            if !self.engine.timers.is_set(&self.run_id, operation) {
                machine.repeat_child(operation);
            }
            let is_put_off = self.tasks.deferred.contains_key(&operation);
            if is_put_off && !self.tasks.assigned.contains_key(&operation) {
                machine.repeat_task(operation);
            }
            (again, machine.timer(operation))
        };
        if let Some(at) = not_due {
            self.engine.timers.set(at, &self.run_id, operation);
        }
        if let Some(operation) = again {
            self.execution.shared.wake_step(operation);
        }
        self.check_assignment(operation, now, is_read);
    }

    /// The broker did not take a task; it is dispatched again after a pause. If the broker may have taken
    /// it, it is sought among the agents first.
    fn on_deferred(&mut self, operation: u64, attempt: u32, is_uncertain: bool) {
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        if let Some(assignment) = self.tasks.assigned.get(&operation) {
            // An agent has it, so the broker has taken it.
            if assignment.is_known_to_agents() {
                return;
            }
            if is_uncertain {
                self.tasks.recorded_attempts.insert(operation, (attempt, assignment.recorded_at));
            }
        }
        let backoff = self.engine.options.backoff;
        let last = self.tasks.deferred.get(&operation);
        let pause = last.map_or(backoff.initial_delay, |pause| backoff.next(*pause));
        self.tasks.deferred.insert(operation, pause);
        self.tasks.assigned.remove(&operation);
        self.engine.timers.set(self.engine.clock.now() + pause, &self.run_id, operation);
    }

    /// An agent answered: its answer is recorded in the journal, then acknowledged.
    async fn on_answer(&mut self, delivery: Delivery) {
        match self.classify(&delivery.event) {
            Ok(Answer::Heartbeat { operation }) => {
                self.on_heartbeat(operation).await;
                acknowledge(delivery).await;
            }
            Ok(Answer::Question { operation }) => {
                self.on_attempt_started(operation).await;
                self.engine.answer_soon(delivery, true);
            }
            Ok(Answer::Held { operation }) => {
                self.on_held(operation);
                acknowledge(delivery).await;
            }
            Ok(Answer::Ended { operation, attempt, entry }) => {
                self.accept(operation, attempt, entry, delivery);
            }
            Ok(Answer::Anonymous { operation, attempt, entry }) => {
                self.keep_anonymous(operation, AnonymousAnswer { attempt, entry, delivery }).await;
            }
            Err(Refusal::NotAwaited) => self.ignore(delivery),
            Err(refusal) => self.engine.settle_refused(self.fence, delivery, refusal),
        }
    }

    /// Settles an answer that no attempt awaits, once nothing is being recorded: it may be a second copy
    /// of an answer that is, or a result that comes while the timeout of its attempt is.
    ///
    /// A second copy that is acknowledged before the first is durable would be missing if the append
    /// failed and the run moved.
    fn ignore(&mut self, delivery: Delivery) {
        if self.append.is_some() || !self.outbox.is_empty() {
            self.postponed.push(delivery);
        } else {
            self.engine.settle_refused(self.fence, delivery, Refusal::NotAwaited);
        }
    }

    /// Handles the answers again that no attempt awaited while something was being recorded.
    pub(super) async fn reconsider(&mut self) {
        for delivery in std::mem::take(&mut self.postponed) {
            self.on_answer(delivery).await;
        }
    }

    /// Records an answer in the journal; it is acknowledged once that is durable.
    pub(super) fn accept(
        &mut self,
        operation: u64,
        attempt: u32,
        entry: Entry,
        delivery: Delivery,
    ) {
        // Under an id that every engine derives in the same way, so that two of them record it once.
        let event = self.recorded(&delivery.event, operation, attempt);
        self.outbox.push(Record { entry: entry.clone(), event });
        self.answers.push(delivery);
        self.end_assignment(operation);
        self.execution.machine().task_answered(operation);
        // The failure and what follows from it are appended together, so that no crash can come
        // between.
        if let Entry::TaskFailed(AgentEvent { data, .. }) = entry {
            let TaskFailed { attempt, failure, retryable, .. } = data;
            let error = TaskError::retryable(failure).with_retryable(retryable);
            self.record_failure(operation, attempt, error);
        }
    }

    /// Records what follows a failed attempt that another engine recorded.
    ///
    /// The other engine could record the answer and not what follows: that depends on the retry policy,
    /// which only the code of the run knows.
    pub(super) fn on_failed_elsewhere(&mut self, failed: TaskFailed, operation: u64) {
        let TaskFailed { attempt, failure, retryable, .. } = failed;
        if self.execution.machine().awaits_task(operation, Some(attempt)) {
            self.end_assignment(operation);
            self.execution.machine().task_answered(operation);
            let error = TaskError::retryable(failure).with_retryable(retryable);
            self.record_failure(operation, attempt, error);
        }
    }

    /// Sets whether the run is about to move to another engine.
    async fn set_leaving(&mut self, is_leaving: bool) {
        self.is_leaving = is_leaving;
        if is_leaving {
            self.execution.hold();
            // Shows which steps the code still polls; those that it does not can't end, and are not
            // waited for.
            poll_fn(|context| self.execution.poll(context)).await;
            self.tasks.outgoing.release_slot();
        } else {
            self.execution.release();
        }
    }

    /// A task could not be delivered to any agent. Returns whether it will be tried again.
    pub(super) fn on_undeliverable(
        &mut self,
        operation: u64,
        attempt: u32,
        error: TaskError,
    ) -> bool {
        let mut machine = self.execution.machine();
        if !machine.awaits_task(operation, Some(attempt)) {
            return false;
        }
        // The attempt ends once, however often its end is reported before it is recorded.
        machine.task_answered(operation);
        drop(machine);
        self.record_failure(operation, attempt, error)
    }

    /// Records what follows a failed attempt. Returns whether it will be tried again.
    pub(super) fn record_failure(
        &mut self,
        operation: u64,
        attempt: u32,
        error: TaskError,
    ) -> bool {
        // The deferred dispatch belongs to this attempt; the next one is dispatched once it is
        // recorded.
        self.tasks.deferred.remove(&operation);
        let now = self.engine.clock.now();
        let entry = self.execution.machine().after_failure(operation, attempt, error, now);
        let is_retried = matches!(entry, Entry::RetryScheduled(_));
        self.write(entry);
        is_retried
    }
}
