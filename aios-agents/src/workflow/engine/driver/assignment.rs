//! The open attempts at tasks: who may answer them, and until when.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{Segment, TaskAssigned, TaskError, TaskHeartbeat},
    event::{Event, EventId, Metadata, Timestamp},
    failure::Failure,
};

use super::Driver;
use crate::{
    agent::codes,
    workflow::journal::{Entry, OfAgent, decode},
};

/// An attempt that was published to its agents.
#[derive(Debug)]
pub(super) struct Assignment {
    agent_type: Segment,
    attempt: u32,
    timeout: Option<Duration>,
    assigned_at: Timestamp,
    /// When an agent was first heard of while it works on this attempt.
    started_at: Option<Timestamp>,
    /// When it was heard of last.
    seen_at: Option<Timestamp>,
}

/// What an event in the mailbox says about a task.
#[derive(Debug)]
pub(super) enum Answer {
    /// The agent works on the current attempt.
    Heartbeat { operation: u64 },
    /// An attempt has ended.
    Ended { operation: u64, attempt: u32, entry: Entry },
}

/// Why an event in the mailbox is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The attempt has been answered or given up.
    NotAwaited,
    /// It names no assignment.
    Anonymous { operation: u64, attempt: u32 },
    /// It comes from other agents than those that were assigned the task.
    Foreign(&'static str),
}

impl Driver {
    /// The id of the event that assigns an attempt; every answer names it as its cause. It differs
    /// between runs that used the same id one after the other, or in different stores.
    pub(super) fn assignment_id(&self, operation: u64, attempt: u32) -> EventId {
        EventId::derive(&format!("{}/{operation}#{attempt}", self.incarnation))
    }

    /// Metadata of what is published about a task.
    pub(super) fn task_metadata(&self) -> Metadata {
        let incarnation = Some(Arc::clone(&self.incarnation_text));
        Metadata { incarnation, ..self.metadata.clone() }
    }

    /// An attempt was handed to the dispatcher: it has to be answered by some time.
    pub(super) fn expect_answer(&mut self, operation: u64, task: &OfAgent<TaskAssigned>) {
        let assigned_at = self.engine.clock.now();
        let assignment = Assignment {
            agent_type: task.agent_type.clone(),
            attempt: task.data.attempt,
            timeout: task.data.timeout(),
            assigned_at,
            started_at: None,
            seen_at: None,
        };
        if let Some(timeout) = assignment.timeout {
            let deadline = assigned_at + timeout + self.engine.options.task_grace;
            self.engine.timers.set(deadline, &self.run_id, operation);
        }
        self.assigned.insert(operation, assignment);
    }

    /// An agent works on the current attempt. From then on silence means that it died.
    pub(super) fn heartbeat(&mut self, operation: u64) {
        let now = self.engine.clock.now();
        let Some(assignment) = self.assigned.get_mut(&operation) else { return };
        if assignment.started_at.replace(assignment.started_at.unwrap_or(now)).is_none() {
            self.engine.activity.note(&assignment.agent_type, now, assignment.assigned_at);
        }
        assignment.seen_at = Some(now);
        let silence = now + self.engine.options.heartbeat_timeout;
        self.engine.timers.set(silence, &self.run_id, operation);
    }

    /// Ends the current attempt if its agent has fallen silent or its time is over; else sets the
    /// next time to look.
    pub(super) fn check_assignment(&mut self, operation: u64, now: Timestamp) {
        let Some(assignment) = self.assigned.get(&operation) else { return };
        let attempt = assignment.attempt;
        let silent_at = assignment.seen_at.map(|seen| seen + self.engine.options.heartbeat_timeout);
        let late_at = self.deadline(assignment);
        let failure = match (silent_at, late_at) {
            (Some(at), _) if at <= now => {
                Failure::new("HEARTBEAT_MISSED", "the agent has fallen silent")
            }
            (_, Some(at)) if at <= now => timed_out(assignment),
            (silent_at, late_at) => {
                if let Some(next) = silent_at.into_iter().chain(late_at).min() {
                    self.engine.timers.set(next, &self.run_id, operation);
                }
                return;
            }
        };
        self.assigned.remove(&operation);
        self.undelivered(operation, attempt, TaskError::retryable(failure));
    }

    /// When the attempt has taken too long: its timeout, and the grace for the agent's own report,
    /// after an agent began it.
    ///
    /// An attempt that no agent has begun is queued or lost. It is queued as long as the agents of
    /// its type begin and end tasks that were assigned before it, or not much later. Its time counts
    /// from the last sign of that, or from its own assignment.
    fn deadline(&self, assignment: &Assignment) -> Option<Timestamp> {
        let allowed = assignment.timeout? + self.engine.options.task_grace;
        if let Some(started_at) = assignment.started_at {
            return Some(started_at + allowed);
        }
        let heard = self.engine.activity.of(&assignment.agent_type);
        let moving = heard.filter(|heard| heard.newest < assignment.assigned_at + allowed);
        let since = moving.map_or(assignment.assigned_at, |it| it.at.max(assignment.assigned_at));
        Some(since + allowed)
    }

    /// The current attempt has ended with an answer.
    pub(super) fn end_assignment(&mut self, operation: u64) {
        if let Some(assignment) = self.assigned.remove(&operation) {
            let now = self.engine.clock.now();
            self.engine.activity.note(&assignment.agent_type, now, assignment.assigned_at);
        }
    }

    /// Whether an event in the mailbox answers an open attempt: it must come from the agent type that
    /// was assigned the task, and name the assignment as its cause.
    pub(super) fn judge(&self, event: &Event) -> Result<Answer, Refusal> {
        let unreadable = |_| Refusal::Foreign("its data can't be read");
        let (operation, attempt, ended) = if event.event_type.action() == "task_heartbeat" {
            let beat: TaskHeartbeat = event.data().map_err(unreadable)?;
            (beat.task_id.run().map(|(_, operation)| operation), Some(beat.attempt), None)
        } else {
            let entry = decode(event).map_err(unreadable)?;
            let attempt = match &entry {
                Entry::TaskFailed(task) => Some(task.data.attempt),
                Entry::TaskCompleted(_) => None,
                _ => return Err(Refusal::Foreign("it is not the answer of an agent")),
            };
            (entry.operation(), attempt, Some(entry))
        };
        let operation = operation.ok_or(Refusal::NotAwaited)?;
        let attempt = self.answers_attempt(event, operation, attempt)?;
        Ok(match ended {
            None => Answer::Heartbeat { operation },
            Some(entry) => Answer::Ended { operation, attempt, entry },
        })
    }

    /// The attempt that an event answers. A result is taken from an earlier attempt as well, so that
    /// work that is done is not repeated; whatever else ends an earlier attempt comes too late.
    fn answers_attempt(
        &self,
        event: &Event,
        operation: u64,
        named: Option<u32>,
    ) -> Result<u32, Refusal> {
        let machine = self.execution.machine();
        if !machine.awaits_task(operation, named) {
            return Err(Refusal::NotAwaited);
        }
        let (agent_type, current) = machine.task(operation).ok_or(Refusal::NotAwaited)?;
        if event.event_type.entity() != agent_type.as_str() {
            return Err(Refusal::Foreign("the task was assigned to agents of another type"));
        }
        let Some(cause) = &event.metadata.causation_id else {
            return Err(Refusal::Anonymous { operation, attempt: current });
        };
        let mut attempts = named.map_or(1..=current, |attempt| attempt..=attempt).rev();
        attempts
            .find(|&attempt| **cause == *self.assignment_id(operation, attempt).to_string())
            .ok_or(Refusal::Foreign("it names another assignment as its cause"))
    }

    /// The event of an answer as the journal keeps it. Its id is derived, because an id that the
    /// agent chose may be stored already.
    pub(super) fn recorded(&self, answer: &Event, operation: u64, attempt: u32) -> Event {
        let id = EventId::derive(&format!("{}/{operation}/answer#{attempt}", self.incarnation));
        answer.clone().with_id(id)
    }
}

fn timed_out(assignment: &Assignment) -> Failure {
    let timeout = assignment.timeout.unwrap_or_default();
    let message = match assignment.started_at {
        Some(_) => format!("the agent did not answer within the timeout of {timeout:?}"),
        None => format!("no agent began the task within the timeout of {timeout:?}"),
    };
    Failure::new(codes::TASK_TIMEOUT, message)
}
