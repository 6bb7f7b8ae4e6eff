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
use crate::{measure::AgentTasks, trace::TraceParent};

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
    tasks: Arc<AgentTasks>,
}

impl Metrics {
    /// Measures time with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, tasks: Arc::default() }
    }
}

impl Middleware for Metrics {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let mut measured = Measured::start(self, context);
        let result = agent.process_task(context, parameters).await;
        measured.outcome = if result.is_ok() { "completed" } else { "failed" };
        result
    }
}

/// Reports a task when it is dropped, however it ended.
struct Measured<'a> {
    layer: &'a Metrics,
    /// When the task reached this layer, by the monotonic time of the clock. Layers further out do not count.
    started: Duration,
    agent_type: &'a str,
    /// The trace of the task, as the example of the histogram.
    trace: Option<TraceParent>,
    /// `dropped` until the agent's code has ended.
    outcome: &'static str,
}

impl<'a> Measured<'a> {
    /// Counts the task as running.
    fn start(layer: &'a Metrics, context: &'a TaskContext) -> Self {
        let agent_type = context.agent_type();
        layer.tasks.begin(agent_type);
        let trace = TraceParent::caller(context.metadata());
        Self { layer, started: layer.clock.elapsed(), agent_type, trace, outcome: "dropped" }
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let took = self.layer.clock.elapsed().saturating_sub(self.started);
        self.layer.tasks.end(self.agent_type, self.outcome, took, self.trace);
    }
}
