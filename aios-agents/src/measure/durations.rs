//! Durations of runs, steps and tasks, and numbers of queued tasks, by workflow or agent type.
//!
//! Each value is recorded in the scope of the trace that it belongs to, so that a histogram can
//! link to an example of a trace.

use std::time::Duration;

use aios_core::{
    agent::Name,
    event::{Event, Timestamp},
};

use super::keys::Keys;
use crate::trace::TraceParent;

/// The metrics of an engine that have labels whose values are made at run time.
#[derive(Debug)]
pub(crate) struct Durations {
    /// `aios_run_seconds`.
    runs: Keys,
    /// `aios_step_seconds`.
    steps: Keys,
    /// `aios_task_seconds`.
    tasks: Keys,
    /// `aios_tasks_queued`, the only gauge.
    queued: Keys,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            runs: Keys::new("aios_run_seconds", "workflow", Some("status")),
            steps: Keys::new("aios_step_seconds", "workflow", Some("outcome")),
            tasks: Keys::new("aios_task_seconds", "agent_type", Some("outcome")),
            queued: Keys::new("aios_tasks_queued", "agent_type", None),
        }
    }
}

impl Durations {
    /// Reports how long a run took.
    pub(crate) fn run(
        &self,
        workflow: &Name,
        status: &'static str,
        took: Duration,
        trace: TraceParent,
    ) {
        trace.in_scope(|| self.runs.record(workflow, status, took.as_secs_f64()));
    }

    /// Reports how long the last attempt of a step took.
    pub(crate) fn step(
        &self,
        workflow: &Name,
        outcome: &'static str,
        took: Duration,
        trace: TraceParent,
    ) {
        trace.in_scope(|| self.steps.record(workflow, outcome, took.as_secs_f64()));
    }

    /// Reports how long all attempts of a task took.
    pub(crate) fn task(
        &self,
        agent_type: &Name,
        outcome: &'static str,
        took: Duration,
        trace: TraceParent,
    ) {
        trace.in_scope(|| self.tasks.record(agent_type, outcome, took.as_secs_f64()));
    }

    /// Adds to the number of tasks that no agent has begun.
    pub(crate) fn queued(&self, agent_type: &Name, added: f64) {
        self.queued.add(agent_type, added);
    }
}

/// How long attempts of tasks wait until an agent begins them.
#[derive(Debug)]
pub(crate) struct Waits(Keys);

impl Default for Waits {
    fn default() -> Self {
        Self(Keys::new("aios_agent_task_wait_seconds", "agent_type", None))
    }
}

impl Waits {
    /// Reports an attempt that begins. `assigned` is the event that assigns it.
    pub(crate) fn report(&self, agent_type: &Name, assigned: &Event, now: Timestamp) {
        // Zero if the clock of the assigning process is ahead.
        let waited = now.duration_since(assigned.timestamp).as_secs_f64();
        let record = || self.0.record(agent_type, "", waited);
        match TraceParent::caller(&assigned.metadata) {
            Some(trace) => trace.in_scope(record),
            None => record(),
        }
    }
}

#[cfg(test)]
mod tests {
    use aios_core::store::Appended;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Everything is reported once before, as keys are made then.
    #[test]
    fn should_allocate_nothing_without_a_recorder() {
        let name = Name::new("order").unwrap();
        let trace = PARENT.parse().unwrap();
        let durations = Durations::default();
        let waits = Waits::default();
        let event = Event::new("agents.order.task_assigned".parse().unwrap(), "test", &1).unwrap();
        let report = || {
            durations.run(&name, "completed", Duration::ZERO, trace);
            durations.step(&name, "completed", Duration::ZERO, trace);
            durations.task(&name, "failed", Duration::ZERO, trace);
            durations.queued(&name, 1.0);
            waits.report(&name, &event, event.timestamp);
            super::super::Measured::default().report(&Ok(Appended {
                version: 1,
                position: 1,
                repeated: false,
            }));
            drop(super::super::WaitingAppend::begin());
        };
        report();
        assert_eq!(allocation_counter::measure(report).count_total, 0);
    }
}
