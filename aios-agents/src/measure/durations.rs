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
        trace.in_scope(|| self.runs.record(workflow.as_str(), status, took.as_secs_f64()));
    }

    /// Reports how long the last attempt of a step took.
    pub(crate) fn step(
        &self,
        workflow: &Name,
        outcome: &'static str,
        took: Duration,
        trace: TraceParent,
    ) {
        trace.in_scope(|| self.steps.record(workflow.as_str(), outcome, took.as_secs_f64()));
    }

    /// Reports how long all attempts of a task took.
    pub(crate) fn task(
        &self,
        agent_type: &Name,
        outcome: &'static str,
        took: Duration,
        trace: TraceParent,
    ) {
        trace.in_scope(|| self.tasks.record(agent_type.as_str(), outcome, took.as_secs_f64()));
    }

    /// Adds to the number of tasks that no agent has begun.
    pub(crate) fn queued(&self, agent_type: &Name, added: f64) {
        self.queued.add(agent_type.as_str(), added);
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
        let record = || self.0.record(agent_type.as_str(), "", waited);
        match TraceParent::caller(&assigned.metadata) {
            Some(trace) => trace.in_scope(record),
            None => record(),
        }
    }
}

/// The attempts of tasks that agents of this process run.
#[derive(Debug)]
pub(crate) struct AgentTasks {
    /// `aios_agent_tasks_running`.
    running: Keys,
    /// `aios_agent_tasks_total`.
    ended: Keys,
    /// `aios_agent_task_seconds`.
    seconds: Keys,
}

impl Default for AgentTasks {
    fn default() -> Self {
        Self {
            running: Keys::new("aios_agent_tasks_running", "agent_type", None),
            ended: Keys::new("aios_agent_tasks_total", "agent_type", Some("outcome")),
            seconds: Keys::new("aios_agent_task_seconds", "agent_type", Some("outcome")),
        }
    }
}

impl AgentTasks {
    /// Reports an attempt that begins.
    pub(crate) fn begin(&self, agent_type: &str) {
        self.running.add(agent_type, 1.0);
    }

    /// Reports an attempt that has begun and ends.
    pub(crate) fn end(
        &self,
        agent_type: &str,
        outcome: &'static str,
        took: Duration,
        trace: Option<TraceParent>,
    ) {
        self.running.add(agent_type, -1.0);
        self.ended.count(agent_type, outcome);
        let record = || self.seconds.record(agent_type, outcome, took.as_secs_f64());
        match trace {
            Some(trace) => trace.in_scope(record),
            None => record(),
        }
    }
}

#[cfg(test)]
mod tests {
    use aios_core::store::{Append, Appended, StreamId};

    use super::{super::Measured, *};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// An append with each kind of event that has a counter.
    fn measured_of_everything() -> Measured {
        let event = |event_type: &str| Event::new(event_type.parse().unwrap(), "test", &1).unwrap();
        let of_run = ["started", "step_completed", "operation_failed", "retry_scheduled"];
        let of_task = ["task_assigned", "task_completed", "task_failed"];
        let events = of_run.iter().map(|action| event(&format!("workflows.order.{action}")));
        let events = events.chain([event("workflows.order.timer_fired")]);
        let events = events.chain(of_task.iter().map(|it| event(&format!("agents.order.{it}"))));
        Measured::of(&Append::new(StreamId::new("runs/r1").unwrap(), events.collect()))
    }

    /// Everything is reported once before, as keys are made then.
    #[test]
    fn should_allocate_nothing_without_a_recorder() {
        let name = Name::new("order").unwrap();
        let trace = PARENT.parse().unwrap();
        let durations = Durations::default();
        let waits = Waits::default();
        let event = Event::new("agents.order.task_assigned".parse().unwrap(), "test", &1).unwrap();
        let measured = measured_of_everything();
        let report = || {
            durations.run(&name, "completed", Duration::ZERO, trace);
            durations.step(&name, "completed", Duration::ZERO, trace);
            durations.task(&name, "failed", Duration::ZERO, trace);
            durations.queued(&name, 1.0);
            waits.report(&name, &event, event.timestamp);
            measured.report(&Ok(Appended { version: 1, position: 1, repeated: false }));
            drop(super::super::WaitingAppend::begin());
        };
        report();
        assert_eq!(allocation_counter::measure(report).count_total, 0);
    }
}
