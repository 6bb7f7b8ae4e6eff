//! The facts in the journal of a run, and the rules that the journal must obey.

use std::collections::{BTreeMap, BTreeSet};

use aios_agents::workflow::journal::{
    ChildEnded, OperationFailed, RetryScheduled, SignalAwaited, StepCompleted, TaskCancelled,
    TimerFired, TimerStarted,
};
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed},
    event::{Event, EventId},
};

use crate::{executor, invariant::Invariant};

/// The largest deviation of a clock from the true time, in microseconds.
pub const CLOCK_ERROR: i64 = 1_000_000;

/// The recorded state of a run.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    pub operations: BTreeMap<u64, OperationFacts>,
    /// The event that ended it.
    pub end: Option<Event>,
    /// The compensations that have run, in order.
    pub undone: Vec<u32>,
    pub was_cancelled: bool,
    pub is_blocked: bool,
    /// When it ended, in microseconds.
    closed_at: Option<u64>,
    /// Its cancellation was requested: it no longer waits for answers.
    pub is_to_be_cancelled: bool,
}

/// The recorded state of an operation.
#[derive(Clone, Debug, Default)]
pub struct OperationFacts {
    /// It has its outcome.
    pub is_settled: bool,
    /// When its outcome was recorded or an attempt ended, whichever came last; in microseconds.
    pub changed_at: u64,
    /// Attempts that have ended.
    pub ended: BTreeSet<u32>,
    /// The event that assigned the last attempt.
    pub assigned: Option<EventId>,
    /// The results by the events that they name as their causes, which are those that assigned attempts.
    results: BTreeMap<String, EventId>,
    /// The events that assigned attempts.
    assignments: BTreeSet<String>,
    /// When its outcome was recorded, and when its attempts ended, in microseconds.
    settled_at: Option<u64>,
    ended_at: BTreeMap<u32, u64>,
    retries: u32,
    fires_at: Option<i64>,
}

type Found = Option<(Invariant, String)>;

impl RunFacts {
    /// Applies an event of the journal.
    pub fn apply(&mut self, run_id: &str, event: &Event, now: u64) -> Found {
        let action = event.event_type.action();
        if self.end.is_some() {
            return Some((
                Invariant::NothingAfterEnd,
                format!("{action} follows the end of {run_id}"),
            ));
        }
        match (event.event_type.domain(), action) {
            ("workflows", "completed" | "failed" | "cancelled" | "continued") => {
                self.end = Some(event.clone());
                self.closed_at = Some(now);
                self.was_cancelled = action == "cancelled";
                None
            }
            ("workflows", "cancel_requested") => {
                self.is_to_be_cancelled = true;
                None
            }
            ("workflows", "blocked") => {
                self.is_blocked = true;
                None
            }
            ("workflows", "unblocked" | "resumed") => {
                self.is_blocked = false;
                None
            }
            _ => {
                let found = self.apply_to_operation(run_id, event, now);
                self.note_ends(now);
                let is_outcome = ["task_completed", "task_failed", "operation_failed"];
                if is_outcome.contains(&action)
                    && let Some(operation) = operation_of(event)
                {
                    self.of(operation).changed_at = now;
                }
                found
            }
        }
    }

    fn apply_to_operation(&mut self, run_id: &str, event: &Event, now: u64) -> Found {
        match event.event_type.action() {
            "step_completed" => {
                let step: StepCompleted = event.data().ok()?;
                if &*step.name == "undo" {
                    return self.undo(run_id, step.result.decode().ok()?);
                }
                self.settle(run_id, step.operation)
            }
            "operation_failed" => {
                let failed: OperationFailed = event.data().ok()?;
                self.settle(run_id, failed.operation)
            }
            "retry_scheduled" => {
                let retry: RetryScheduled = event.data().ok()?;
                self.of(retry.operation).retry(run_id, &retry)
            }
            "timer_started" => {
                let timer: TimerStarted = event.data().ok()?;
                self.of(timer.operation).fires_at = Some(timer.fires_at.as_micros());
                None
            }
            "timer_fired" => {
                let timer: TimerFired = event.data().ok()?;
                self.of(timer.operation).fire(run_id, timer.operation, now)
            }
            "signal_awaited" => {
                let _: SignalAwaited = event.data().ok()?;
                None
            }
            "child_ended" => {
                let child: ChildEnded = event.data().ok()?;
                self.settle(run_id, child.operation)
            }
            "task_assigned" => {
                let task: TaskAssigned = event.data().ok()?;
                let facts = self.of(task.task_id.run()?.1);
                facts.assigned = Some(event.id.clone());
                facts.assignments.insert(event.id.to_string());
                None
            }
            "task_completed" => {
                let answer: TaskCompleted = event.data().ok()?;
                // A late answer of another attempt may follow, and is ignored.
                let operation = answer.task_id.run()?.1;
                let facts = self.of(operation);
                facts.is_settled = true;
                facts.add_result(run_id, operation, event)
            }
            "task_cancelled" => {
                let task: TaskCancelled = event.data().ok()?;
                // Nothing waits for its answer.
                self.of(task.task_id.run()?.1).is_settled = true;
                None
            }
            "task_failed" => {
                let answer: TaskFailed = event.data().ok()?;
                self.of(answer.task_id.run()?.1).ended.insert(answer.attempt);
                None
            }
            _ => None,
        }
    }

    /// Records the time of everything that has ended since the last call.
    fn note_ends(&mut self, now: u64) {
        for operation in self.operations.values_mut() {
            if operation.is_settled {
                operation.settled_at.get_or_insert(now);
            }
            for attempt in &operation.ended {
                operation.ended_at.entry(*attempt).or_insert(now);
            }
        }
    }

    /// When an attempt at a task ended, if it has.
    pub fn ended_at(&self, operation: u64, attempt: u32) -> Option<u64> {
        let facts = self.operations.get(&operation);
        let ended = facts.map(|facts| [facts.settled_at, facts.ended_at.get(&attempt).copied()]);
        ended.into_iter().flatten().chain([self.closed_at]).flatten().min()
    }

    fn of(&mut self, operation: u64) -> &mut OperationFacts {
        self.operations.entry(operation).or_default()
    }

    fn settle(&mut self, run_id: &str, operation: u64) -> Found {
        let facts = self.of(operation);
        if std::mem::replace(&mut facts.is_settled, true) {
            let how = format!("operation {operation} of {run_id} has two outcomes");
            return Some((Invariant::OneWriter, how));
        }
        None
    }

    fn undo(&mut self, run_id: &str, number: u32) -> Found {
        let last = self.undone.last().copied();
        self.undone.push(number);
        last.filter(|last| *last <= number).map(|last| {
            let how = format!("{run_id} undoes {number} after {last}");
            (Invariant::CompensationsReversed, how)
        })
    }
}

/// The operation that an outcome is about.
fn operation_of(event: &Event) -> Option<u64> {
    match event.event_type.action() {
        "task_completed" => Some(event.data::<TaskCompleted>().ok()?.task_id.run()?.1),
        "task_failed" => Some(event.data::<TaskFailed>().ok()?.task_id.run()?.1),
        _ => Some(event.data::<OperationFailed>().ok()?.operation),
    }
}

impl OperationFacts {
    fn retry(&mut self, run_id: &str, retry: &RetryScheduled) -> Found {
        self.retries += 1;
        self.ended.insert(retry.attempt.saturating_sub(1));
        // The next attempt: the second one after the first failure.
        (retry.attempt != self.retries + 1).then(|| {
            let RetryScheduled { operation, attempt, .. } = retry;
            let how = format!(
                "failure {} of operation {operation} of {run_id} is followed by attempt {attempt}",
                self.retries
            );
            (Invariant::AttemptsCounted, how)
        })
    }

    fn add_result(&mut self, run_id: &str, operation: u64, event: &Event) -> Found {
        let cause = event.metadata.causation_id.as_deref()?;
        let known = self.results.insert(cause.to_owned(), event.id.clone());
        if known.is_none() && self.assignments.contains(cause) {
            return None;
        }
        let how = format!(
            "result {} of operation {operation} of {run_id}, caused by {cause}, is recorded again",
            event.id
        );
        Some((Invariant::ResultsRecordedOnce, how))
    }

    fn fire(&mut self, run_id: &str, operation: u64, now: u64) -> Found {
        self.is_settled = true;
        let early = self.fires_at? - executor::timestamp(now).as_micros();
        (early > CLOCK_ERROR).then(|| {
            let how = format!("timer {operation} of {run_id} fires {early} us early");
            (Invariant::TimersNotEarly, how)
        })
    }
}
