//! Metrics of what this process appends, and of how long it took. Nothing is allocated for them without a
//! recorder: labels whose values are made at run time are in keys that are made once (`keys`).
//!
//! Counters follow the store: they are incremented when an append was committed, not when an
//! operation happens. So a count never includes what a crash has undone, and replays count nothing.

mod durations;
mod keys;

use std::time::Duration;

use aios_core::{
    catalog::{agent, workflow},
    clock::Clock,
    store::{Append, Appended, StoreError},
};
use metrics::{counter, gauge, histogram};

pub(crate) use self::durations::{AgentTasks, Durations, Waits};

/// Numbers of the kinds of events in an append.
///
/// Counted before the append, because the append consumes the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// All events of the append, for the histogram of its size.
    events: u32,
    /// The other fields count the events that have a counter of their own.
    runs_started: u64,
    steps_completed: u64,
    operations_failed: u64,
    retries: u64,
    timers_fired: u64,
    tasks_assigned: u64,
    tasks_completed: u64,
    tasks_failed: u64,
}

impl Measured {
    /// Counts the events of an append by their types.
    pub(crate) fn of(append: &Append) -> Self {
        let events = u32::try_from(append.events.len()).unwrap_or(u32::MAX);
        let mut measured = Self { events, ..Self::default() };
        for event in &append.events {
            let (domain, _, action) = event.event_type.segments();
            let number = match (domain, action) {
                (workflow::DOMAIN, workflow::STARTED) => &mut measured.runs_started,
                (workflow::DOMAIN, workflow::STEP_COMPLETED) => &mut measured.steps_completed,
                (workflow::DOMAIN, workflow::OPERATION_FAILED) => &mut measured.operations_failed,
                (workflow::DOMAIN, workflow::RETRY_SCHEDULED) => &mut measured.retries,
                (workflow::DOMAIN, workflow::TIMER_FIRED) => &mut measured.timers_fired,
                (agent::DOMAIN, agent::TASK_ASSIGNED | agent::TASK_DIRECTED) => {
                    &mut measured.tasks_assigned
                }
                (agent::DOMAIN, agent::TASK_COMPLETED) => &mut measured.tasks_completed,
                (agent::DOMAIN, agent::TASK_FAILED) => &mut measured.tasks_failed,
                _ => continue,
            };
            *number += 1;
        }
        measured
    }

    /// Counts an append that was committed, or refused. One that is repeated was counted before.
    pub(crate) fn report(&self, result: &Result<Appended, StoreError>) {
        match result {
            Ok(appended) if appended.repeated => {}
            Ok(_) => self.committed(),
            Err(StoreError::Conflict { .. }) => refused("conflict"),
            Err(StoreError::Fenced { .. }) => refused("fenced"),
            Err(_) => refused("error"),
        }
    }

    /// Increments only the counters that change: most appends have one or two kinds of events.
    fn committed(&self) {
        histogram!("aios_store_append_events").record(f64::from(self.events));
        if self.runs_started > 0 {
            counter!("aios_runs_started_total").increment(self.runs_started);
        }
        if self.steps_completed > 0 {
            counter!("aios_steps_completed_total").increment(self.steps_completed);
        }
        if self.operations_failed > 0 {
            counter!("aios_operations_failed_total").increment(self.operations_failed);
        }
        if self.retries > 0 {
            counter!("aios_retries_scheduled_total").increment(self.retries);
        }
        if self.timers_fired > 0 {
            counter!("aios_timers_fired_total").increment(self.timers_fired);
        }
        if self.tasks_assigned > 0 {
            counter!("aios_tasks_assigned_total").increment(self.tasks_assigned);
        }
        if self.tasks_completed > 0 {
            counter!("aios_task_answers_total", "outcome" => "completed")
                .increment(self.tasks_completed);
        }
        if self.tasks_failed > 0 {
            counter!("aios_task_answers_total", "outcome" => "failed").increment(self.tasks_failed);
        }
    }
}

/// Counts an append that the store refused, by reason.
fn refused(reason: &'static str) {
    match reason {
        "conflict" => counter!("aios_store_appends_refused_total", "reason" => "conflict"),
        "fenced" => counter!("aios_store_appends_refused_total", "reason" => "fenced"),
        _ => counter!("aios_store_appends_refused_total", "reason" => "error"),
    }
    .increment(1);
}

/// Reports how long a batch of appends took.
pub(crate) fn took(began: Duration, clock: &dyn Clock) {
    let seconds = clock.elapsed().saturating_sub(began).as_secs_f64();
    histogram!("aios_store_append_seconds").record(seconds);
}

/// Counts an append as waiting for its commit until dropped.
///
/// The gauge is lowered in any case, even if the call is cancelled.
pub(crate) struct WaitingAppend(());

impl WaitingAppend {
    /// Raises the gauge.
    pub(crate) fn begin() -> Self {
        gauge!("aios_store_appends_waiting").increment(1.0);
        Self(())
    }
}

impl Drop for WaitingAppend {
    fn drop(&mut self) {
        gauge!("aios_store_appends_waiting").decrement(1.0);
    }
}
