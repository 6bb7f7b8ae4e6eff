use aios_core::{
    Chain,
    agent::{TaskError, TaskFailed},
    broker::Delivery,
};
use tracing::warn;

use super::{
    Driver, Exit, Message, acknowledge,
    assignment::{Answer, Held, Refusal},
};
use crate::workflow::journal::{AgentEvent, Entry, Record};

impl Driver {
    pub(super) async fn told(&mut self, message: Message) -> Option<Exit> {
        match message {
            // What is in flight must not be read back before it is answered: it would be applied
            // twice.
            // Its next owner will look.
            Message::Nudge if self.is_leaving => {}
            Message::Nudge if self.append.is_some() => self.nudged = true,
            Message::Nudge => return self.look().await,
            Message::TimerDue(operation) if self.is_paused() => {
                self.missed.insert(operation);
            }
            Message::TimerDue(operation) => self.timer_due(operation),
            Message::Answer(delivery) => self.answered(*delivery).await,
            Message::Undelivered { operation, attempt, failure, retryable } => {
                self.undelivered(operation, attempt, TaskError { failure, retryable });
            }
            Message::DeadLettered { operation, attempt, letter } => {
                self.dead_lettered(operation, attempt, &letter);
            }
            Message::Deferred { operation, attempt } => self.deferred(operation, attempt),
            Message::Suspect => self.suspect(),
            // It rests already; what it waits for is noted.
            Message::Leave if self.may_rest() => return Some(Exit::Waiting(self.parked())),
            Message::Leave => self.set_leaving(true),
            Message::Stay => self.set_leaving(false),
            Message::Lost => return Some(Exit::Lost),
        }
        None
    }

    /// Does what is due for an operation. Whatever is not due by the time read now is woken again.
    pub(super) fn timer_due(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        if self.expire(operation, now) {
            return;
        }
        let (again, not_due) = {
            let mut machine = self.execution.machine();
            let again = machine.timer_due(operation, now);
            if !self.engine.timers.is_set(&self.run_id, operation) {
                machine.repeat_child(operation);
            }
            let is_put_off = self.deferred.contains_key(&operation);
            if is_put_off && !self.assigned.contains_key(&operation) {
                machine.repeat_task(operation);
            }
            (again, machine.timer(operation))
        };
        if let Some(at) = not_due {
            self.engine.timers.set(at, &self.run_id, operation);
        }
        if let Some(operation) = again {
            self.execution.cell.wake_step(operation);
        }
        self.check_assignment(operation, now);
    }

    /// The broker did not take a task; it is given again after a pause.
    fn deferred(&mut self, operation: u64, attempt: u32) {
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        let (first, most) = self.engine.options.backoff;
        let pause = self.deferred.get(&operation).map_or(first, |pause| (*pause * 2).min(most));
        self.deferred.insert(operation, pause);
        self.assigned.remove(&operation);
        self.engine.timers.set(self.engine.clock.now() + pause, &self.run_id, operation);
    }

    /// An agent answered: its answer becomes part of the journal, then it is acknowledged.
    async fn answered(&mut self, delivery: Delivery) {
        match self.judge(&delivery.event) {
            Ok(Answer::Heartbeat { operation }) => {
                self.heartbeat(operation).await;
                acknowledge(delivery).await;
            }
            Ok(Answer::Question { operation }) => {
                self.begins(operation).await;
                self.engine.answer_soon(delivery, true);
            }
            Ok(Answer::Held { operation }) => {
                self.held(operation);
                acknowledge(delivery).await;
            }
            Ok(Answer::Ended { operation, attempt, entry }) => {
                self.accept(operation, attempt, entry, delivery);
            }
            Ok(Answer::Anonymous { operation, attempt, entry }) => {
                self.hold(operation, Held { attempt, entry, delivery }).await;
            }
            Err(Refusal::NotAwaited) => self.ignore(delivery),
            Err(refusal) => self.engine.settle_refused(self.fence, delivery, refusal),
        }
    }

    /// Settles an answer that no attempt awaits, once what is known of the run is durable: it may be
    /// a second copy of an answer that is on its way into the journal. A question that comes meanwhile is
    /// asked again.
    fn ignore(&mut self, delivery: Delivery) {
        if !self.outbox.is_empty() {
            self.answers.push(delivery);
        } else if let Some(append) = &mut self.append {
            append.answers.push(delivery);
        } else {
            self.engine.settle_refused(self.fence, delivery, Refusal::NotAwaited);
        }
    }

    /// The answer becomes part of the journal, and is acknowledged once that is durable.
    pub(super) fn accept(
        &mut self,
        operation: u64,
        attempt: u32,
        entry: Entry,
        delivery: Delivery,
    ) {
        let event = self.recorded(&delivery.event, operation, attempt);
        self.outbox.push(Record { entry: entry.clone(), event });
        self.answers.push(delivery);
        self.end_assignment(operation);
        self.execution.machine().task_answered(operation);
        if let Entry::TaskFailed(AgentEvent { data, .. }) = entry {
            let TaskFailed { attempt, failure, retryable, .. } = data;
            self.decide(operation, attempt, TaskError { failure, retryable });
        }
    }

    /// An attempt failed, as somebody else recorded: decides what follows.
    pub(super) fn failed_elsewhere(&mut self, failed: TaskFailed, operation: u64) {
        let TaskFailed { attempt, failure, retryable, .. } = failed;
        if self.execution.machine().awaits_task(operation, Some(attempt)) {
            self.end_assignment(operation);
            self.execution.machine().task_answered(operation);
            self.decide(operation, attempt, TaskError { failure, retryable });
        }
    }

    /// The run moves to another engine, or stays after all.
    fn set_leaving(&mut self, is_leaving: bool) {
        self.is_leaving = is_leaving;
        if is_leaving {
            self.execution.machine().hold();
            self.outgoing.rest();
        } else {
            self.execution.go_on();
        }
    }

    /// A task could not be given to anybody.
    pub(super) fn undelivered(&mut self, operation: u64, attempt: u32, error: TaskError) {
        let mut machine = self.execution.machine();
        if !machine.awaits_task(operation, Some(attempt)) {
            return;
        }
        // It ends once, however often that is reported before it is recorded.
        machine.task_answered(operation);
        drop(machine);
        self.decide(operation, attempt, error);
    }

    /// Records what follows a failed attempt.
    pub(super) fn decide(&mut self, operation: u64, attempt: u32, error: TaskError) {
        // What the broker did not take was this attempt: the next one is given when it is recorded.
        self.deferred.remove(&operation);
        let now = self.engine.clock.now();
        let entry = self.execution.machine().after_failure(operation, attempt, error, now);
        self.write(entry);
    }
}

/// Dead-letters an answer, with the reason.
pub(in super::super) async fn refuse(delivery: Delivery, reason: &str) {
    warn!(
        event_id = %delivery.event.id, reason,
        event_type = %delivery.event.event_type, "refused an answer"
    );
    if let Err(error) = delivery.dead_letter(reason).await {
        warn!(error = %Chain(&error), "could not dead-letter an answer; it will be delivered again");
    }
}
