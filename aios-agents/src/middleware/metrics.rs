//! Metrics of the tasks that agents run.
//!
//! The outcome is reported when a guard is dropped, so a task whose future is dropped is counted,
//! too.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::Payload,
};

use super::Middleware;
use crate::trace::TraceParent;

/// Counts and times tasks with the `metrics` facade, which does nothing until a program installs a
/// recorder.
///
/// - `aios_agent_tasks_total` counts tasks by `agent_type` and `outcome`, which is `completed`,
///   `failed` or `dropped` (timed out or cancelled),
/// - `aios_agent_task_seconds` is a histogram of their durations, with the same labels,
/// - `aios_agent_tasks_running` is a gauge of the running tasks, by `agent_type`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::{agent::AgentDefinition, middleware::Metrics, prelude::*};
/// use aios_core::clock::SystemClock;
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// let metrics = Metrics::new(Arc::new(SystemClock));
/// let definition = AgentDefinition::instance("upper", Upper).with_layer(metrics);
/// # drop(definition);
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    clock: Arc<dyn Clock>,
}

impl Metrics {
    /// Measures time with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl Middleware for Metrics {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let trace = TraceParent::caller(context.metadata());
        let mut measured = Measured::start(&*self.clock, context.agent_type(), trace);
        let result = agent.process_task(context, parameters).await;
        measured.outcome = if result.is_ok() { "completed" } else { "failed" };
        result
    }
}

/// Reports a task when it is dropped, however it ended.
struct Measured<'a> {
    /// The clock of the layer.
    clock: &'a dyn Clock,
    /// When the task reached this layer, by the monotonic time of the clock. Layers further out do not count.
    started: Duration,
    agent_type: String,
    /// The trace of the task, as the example of the histogram.
    trace: Option<TraceParent>,
    /// `dropped` until the agent's code has ended.
    outcome: &'static str,
}

impl<'a> Measured<'a> {
    /// Counts the task as running.
    fn start(clock: &'a dyn Clock, agent_type: &str, trace: Option<TraceParent>) -> Self {
        let agent_type = agent_type.to_owned();
        metrics::gauge!("aios_agent_tasks_running", "agent_type" => agent_type.clone())
            .increment(1.0);
        Self { clock, started: clock.elapsed(), agent_type, trace, outcome: "dropped" }
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let seconds = self.clock.elapsed().saturating_sub(self.started).as_secs_f64();
        let agent_type = || self.agent_type.clone();
        let outcome = self.outcome;
        metrics::gauge!("aios_agent_tasks_running", "agent_type" => agent_type()).decrement(1.0);
        metrics::counter!("aios_agent_tasks_total", "agent_type" => agent_type(), "outcome" => outcome)
            .increment(1);
        let histogram = metrics::histogram!("aios_agent_task_seconds", "agent_type" => agent_type(), "outcome" => outcome);
        match self.trace {
            Some(trace) => trace.in_scope(|| histogram.record(seconds)),
            None => histogram.record(seconds),
        }
    }
}
