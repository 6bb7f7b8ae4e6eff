use aios_core::{
    agent::{TaskError, TaskFailed, TaskHeartbeat},
    broker::Delivery,
    event::Timestamp,
    failure::Failure,
};
use tracing::{debug, warn};

use super::{Driver, Exit, Message, acknowledge};
use crate::workflow::journal::{Entry, OfAgent, Record, decode};

impl Driver {
    pub(super) async fn told(&mut self, message: Message) -> Option<Exit> {
        match message {
            // What is in flight must not be read back before it is answered: it would be applied
            // twice.
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
            Message::Deferred { operation, attempt } => self.deferred(operation, attempt),
            Message::Lost => return Some(Exit::Lost),
        }
        None
    }

    /// Does what is due for an operation. Whatever is not due by the time read now is woken again.
    pub(super) fn timer_due(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        let (again, not_due) = {
            let mut machine = self.execution.machine();
            let again = machine.timer_due(operation, now);
            if !self.engine.timers.is_set(&self.run_id, operation) {
                machine.repeat_child(operation);
            }
            if self.deferred.contains_key(&operation) {
                machine.repeat_task(operation);
            }
            (again, machine.timer(operation))
        };
        if let Some(at) = not_due {
            self.engine.timers.set(at, &self.run_id, operation);
        }
        if let Some(operation) = again {
            self.execution.cell.wake(operation);
        }
        self.miss_heartbeats(operation, now);
    }

    /// The broker did not take a task; it is given again after a pause.
    fn deferred(&mut self, operation: u64, attempt: u32) {
        if !self.execution.machine().awaits_task(operation, Some(attempt)) {
            return;
        }
        let (first, most) = self.engine.options.back_off;
        let pause = self.deferred.get(&operation).map_or(first, |pause| (*pause * 2).min(most));
        self.deferred.insert(operation, pause);
        self.engine.timers.set(self.engine.clock.now() + pause, &self.run_id, operation);
    }

    /// An agent that works on a task says so. From then on silence means that it died.
    fn heartbeat(&mut self, delivery: &Delivery) {
        let Ok(beat) = delivery.event.data::<TaskHeartbeat>() else { return };
        let Some((_, operation)) = beat.task_id.run() else { return };
        if self.execution.machine().awaits_task(operation, Some(beat.attempt)) {
            let now = self.engine.clock.now();
            self.seen.insert(operation, now);
            let silence = now + self.engine.options.heartbeat_timeout;
            self.engine.timers.set(silence, &self.run_id, operation);
        }
    }

    /// Gives a task to another agent if the one that worked on it has fallen silent.
    fn miss_heartbeats(&mut self, operation: u64, now: Timestamp) {
        let Some(seen) = self.seen.get(&operation) else { return };
        let silence = *seen + self.engine.options.heartbeat_timeout;
        if silence > now {
            return self.engine.timers.set(silence, &self.run_id, operation);
        }
        self.seen.remove(&operation);
        let attempt = self.execution.machine().task_attempt(operation);
        if let Some(attempt) = attempt {
            let failure = Failure::new("HEARTBEAT_MISSED", "the agent has fallen silent");
            self.decide(operation, attempt, TaskError::retryable(failure));
        }
    }

    /// An agent answered: its event becomes part of the journal, then it is acknowledged.
    async fn answered(&mut self, delivery: Delivery) {
        if delivery.event.event_type.action() == "task_heartbeat" {
            self.heartbeat(&delivery);
            return acknowledge(delivery).await;
        }
        let entry = match decode(&delivery.event) {
            Ok(entry) => entry,
            Err(error) => {
                warn!(%error, "an answer can't be read");
                let reason = Failure::from_error(error.code(), &error).message;
                if let Err(error) = delivery.dead_letter(reason).await {
                    warn!(%error, "could not give an answer up; it will come again");
                }
                return;
            }
        };
        let attempt = match &entry {
            Entry::TaskFailed(task) => Some(task.data.attempt),
            _ => None,
        };
        let awaited = entry
            .operation()
            .filter(|operation| self.execution.machine().awaits_task(*operation, attempt));
        let (Some(operation), Entry::TaskCompleted(_) | Entry::TaskFailed(_)) = (awaited, &entry)
        else {
            debug!(event = %delivery.event.event_type, "an answer that nobody waits for");
            return acknowledge(delivery).await;
        };
        self.outbox.push(Record { entry: entry.clone(), event: delivery.event.clone() });
        self.answers.push(delivery);
        self.seen.remove(&operation);
        self.execution.machine().task_answered(operation);
        if let Entry::TaskFailed(OfAgent { data, .. }) = entry {
            let TaskFailed { attempt, failure, retryable, .. } = data;
            self.decide(operation, attempt, TaskError { failure, retryable });
        }
    }

    /// A task could not be given to anybody.
    pub(super) fn undelivered(&mut self, operation: u64, attempt: u32, error: TaskError) {
        if self.execution.machine().awaits_task(operation, Some(attempt)) {
            self.decide(operation, attempt, error);
        }
    }

    /// Records what follows a failed attempt.
    fn decide(&mut self, operation: u64, attempt: u32, error: TaskError) {
        let now = self.engine.clock.now();
        let entry = self.execution.machine().after_failure(operation, attempt, error, now);
        match self.encode(entry) {
            Ok(record) => self.outbox.push(record),
            Err(error) => warn!(%error, "could not write what follows a failure"),
        }
    }
}
