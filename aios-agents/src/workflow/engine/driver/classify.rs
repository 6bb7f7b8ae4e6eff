//! The classification of events in the mailbox of a run.
//!
//! A mailbox belongs to an engine and anyone may publish to it, so nothing in an event is trusted. An
//! answer counts for an attempt if all of this holds: the run awaits the task, the event comes from
//! agents of the assigned type, and its cause is the event that assigned the attempt. Agents that are
//! not built with aios may leave out the cause; their answers are held for a while (`tasks::assignment`).
//!
//! A result is also accepted from an earlier attempt that was given up: the work is done, and a
//! repetition may do it twice. A failure of an earlier attempt says nothing about the current one.

use aios_core::{agent::TaskHeartbeat, catalog::agent, event::Event};

use super::{
    Driver,
    tasks::{ANONYMOUS, Refusal},
};
use crate::workflow::journal::{Entry, decode};

/// Meaning of an event in the mailbox for a task.
#[derive(Debug)]
pub(super) enum Answer {
    /// The agent works on the current attempt.
    Heartbeat { operation: u64 },
    /// An agent's process holds the current attempt and has not begun it.
    Held { operation: u64 },
    /// An agent's process asks whether the attempt, which is the current one, is still open.
    Question { operation: u64 },
    /// An attempt has ended.
    Ended { operation: u64, attempt: u32, entry: Entry },
    /// An attempt has ended, according to an answer that does not name the assignment.
    Anonymous { operation: u64, attempt: u32, entry: Entry },
}

impl Driver {
    /// Classifies an event in the mailbox. It answers an open attempt only if it comes from the
    /// agent type that was assigned the task, and names the assignment as its cause.
    pub(super) fn classify(&self, event: &Event) -> Result<Answer, Refusal> {
        let unreadable = |_| Refusal::Foreign("its data can't be read");
        let mut waits = false;
        let mut asks = false;
        let (operation, attempt, ended) = if event.event_type.action() == agent::TASK_HEARTBEAT {
            let beat: TaskHeartbeat = event.data().map_err(unreadable)?;
            (waits, asks) = (beat.waits, beat.asks);
            (beat.task_id.run().map(|(_, operation)| operation), Some(beat.attempt), None)
        } else {
            let entry = decode(event).map_err(unreadable)?;
            let attempt = match &entry {
                Entry::TaskFailed(task) => Some(task.data.attempt),
                // A result names no attempt.
                Entry::TaskCompleted(_) => None,
                _ => return Err(Refusal::Foreign("it is not the answer of an agent")),
            };
            (entry.operation(), attempt, Some(entry))
        };
        let operation = operation.ok_or(Refusal::NotAwaited)?;
        let answered = self.answers_attempt(event, operation, attempt)?;
        Ok(match (ended, answered) {
            (None, Some(_)) if asks => Answer::Question { operation },
            (None, Some(_)) if waits => Answer::Held { operation },
            (None, Some(_)) => Answer::Heartbeat { operation },
            (None, None) => return Err(Refusal::Foreign(ANONYMOUS)),
            (Some(entry), Some(attempt)) => Answer::Ended { operation, attempt, entry },
            (Some(entry), None) => {
                let current = self.execution.machine().task_attempt(operation);
                let attempt = attempt.or(current).ok_or(Refusal::NotAwaited)?;
                Answer::Anonymous { operation, attempt, entry }
            }
        })
    }

    /// The attempt that an event names as its cause; `None` if it names no cause. A result is also
    /// accepted from an earlier attempt, so that finished work is not repeated; any other end of an
    /// earlier attempt is too late.
    fn answers_attempt(
        &self,
        event: &Event,
        operation: u64,
        named: Option<u32>,
    ) -> Result<Option<u32>, Refusal> {
        let machine = self.execution.machine();
        if !machine.awaits_task(operation, named) {
            return Err(Refusal::NotAwaited);
        }
        let (agent_type, current) = machine.task(operation).ok_or(Refusal::NotAwaited)?;
        if event.event_type.entity() != agent_type.as_str() {
            return Err(Refusal::Foreign("the task was assigned to agents of another type"));
        }
        let Some(cause) = &event.metadata.causation_id else { return Ok(None) };
        // The latest first, since it is the usual one.
        let mut attempts = named.map_or(1..=current, |attempt| attempt..=attempt).rev();
        attempts
            .find(|&attempt| **cause == *self.assignment_id(operation, attempt).to_string())
            .map(Some)
            .ok_or(Refusal::Foreign("it names another assignment as its cause"))
    }
}
