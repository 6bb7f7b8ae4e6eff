//! The agents, workflows and engine of a session.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    Runtime, RuntimeBuilder,
    agent::{AgentDefinition, HostOptions},
    middleware::{Metrics, Timeout},
    runtime::EngineOptions,
};
use aios_core::clock::SystemClock;
use pyo3::prelude::*;

use crate::{
    calls::Calls,
    convert::arguments::{AgentArg, WorkflowArg},
    llm::{LlmAgentArg, PreparedAgent, Shared},
    python::LoopPulse,
};

/// The agents and workflows of a runtime in Python, and the options of its engine.
pub(super) struct RuntimeParts {
    /// Agents written in Python.
    pub(super) agents: Vec<AgentArg>,
    /// Workflows written in Python.
    pub(super) workflows: Vec<WorkflowArg>,
    /// Whether runs are executed here; a client only starts and reads them.
    pub(super) has_engine: bool,
    /// How long a shard is leased.
    pub(super) lease_time: Duration,
    pub(super) relay: bool,
    /// After how long a blocked event loop is reported.
    pub(super) blocked_after: Option<Duration>,
    /// The limit of each attempt of a task.
    pub(super) agent_timeout: Option<Duration>,
}

impl RuntimeParts {
    /// The builder of the runtime, without a store, a broker and a source.
    pub(super) fn into_builder(
        self,
        py: Python<'_>,
        calls: &Calls,
        pulse: &Arc<LoopPulse>,
        source: &Arc<str>,
    ) -> PyResult<RuntimeBuilder> {
        let engine_options = EngineOptions::new()
            .with_lease_time(self.lease_time)
            .with_relay(self.relay)
            .with_blocked_after(self.blocked_after);
        let mut builder = Runtime::builder()
            .clock(Arc::new(SystemClock))
            .engine_options(engine_options)
            .host_options(HostOptions::new().with_blocked_after(self.blocked_after));
        for agent in self.agents {
            let definition = measured(agent.into_definition(&calls.executors, pulse, source)?);
            builder = builder.agents(match self.agent_timeout {
                Some(timeout) => {
                    definition.with_layer(Timeout::new(Arc::new(SystemClock), timeout))
                }
                None => definition,
            });
        }
        // The loop has to poll runs only if there are workflows in Python.
        if !self.workflows.is_empty() {
            builder = builder.executor(Arc::new(calls.run_executor()));
        }
        for workflow in self.workflows {
            builder = builder.workflow_dyn(workflow.into_workflow(py, &calls.executors)?);
        }
        Ok(if self.has_engine { builder } else { builder.client_only() })
    }
}

/// Measures the tasks of agents, as a `Service` does. Layers within are measured too.
pub(crate) fn measured(definition: AgentDefinition) -> AgentDefinition {
    definition.with_layer(Metrics::new(Arc::new(SystemClock)))
}

/// Prepares agents over language models, which share what they have in common.
pub(super) fn prepare_agents(
    py: Python<'_>,
    calls: &Calls,
    pulse: &Arc<LoopPulse>,
    agents: Vec<LlmAgentArg>,
) -> PyResult<Vec<PreparedAgent>> {
    let mut shared = Shared::default();
    let prepare = |agent: LlmAgentArg| agent.prepare(py, &calls.executors, pulse, &mut shared);
    agents.into_iter().map(prepare).collect()
}
