//! Arguments that Python passes: agents, workflows, retry policies and events.
//!
//! Each type is a tuple, or the Rust side of a class in a private module of the package, whose
//! attributes `FromPyObject` reads by name. Python has checked most of them before, so that errors
//! name the argument of the public function.

use std::sync::Arc;

use aios_agents::{agent::AgentDefinition, workflow::Workflow};
use aios_core::{
    agent::{DynAgent, Name},
    event::Timestamp,
    retry::RetryPolicy,
};
use pyo3::{exceptions::PyValueError, prelude::*};

use super::{errors::ErrorInfo, seconds};
use crate::{
    agent::{PyAgent, PyFactory},
    python::{LoopPulse, PyFunction, PythonExecutors, ThreadPool},
    workflow::PyWorkflow,
};

/// `aios.RetryPolicy` as a tuple: attempts, initial delay, factor, maximum delay, jitter,
/// non-retryable codes.
#[derive(FromPyObject)]
pub(crate) struct RetryArg(u32, f64, f64, f64, f64, Vec<String>);

impl RetryArg {
    /// The policy.
    pub(crate) fn into_policy(self, py: Python<'_>) -> PyResult<RetryPolicy> {
        let Self(max_attempts, initial, factor, max, jitter, non_retryable) = self;
        let initial = seconds(py, "initial_delay", initial)?;
        let max = seconds(py, "max_delay", max)?;
        let policy = RetryPolicy::new()
            .with_max_attempts(max_attempts)
            .with_delays(initial, max)
            .with_factor(factor)
            .with_jitter(jitter);
        Ok(non_retryable.into_iter().fold(policy, RetryPolicy::with_non_retryable))
    }

    /// The policy of a call: the default without an argument.
    pub(crate) fn policy_or_default(py: Python<'_>, retry: Option<Self>) -> PyResult<RetryPolicy> {
        retry.map_or_else(|| Ok(RetryPolicy::default()), |retry| retry.into_policy(py))
    }
}

/// A range of times as a tuple of microseconds since the Unix epoch: this time or later, and before
/// this one.
#[derive(Clone, Copy, FromPyObject)]
pub(crate) struct Created(Option<i64>, Option<i64>);

impl Created {
    /// The earliest time, if there is one.
    pub(crate) fn after(self) -> Option<Timestamp> {
        self.0.map(Timestamp::from_micros)
    }

    /// The time before which it was created, if there is one.
    pub(crate) fn before(self) -> Option<Timestamp> {
        self.1.map(Timestamp::from_micros)
    }
}

/// `aios._agent.BoundAgent`.
#[derive(FromPyObject)]
pub(crate) struct AgentArg {
    /// The type of the agents.
    agent_type: String,
    /// Executes a task.
    invoke: Py<PyAny>,
    /// Whether it runs on the event loop.
    is_async: bool,
    parameters_schema: String,
    output_schema: String,
    /// How many tasks run at the same time.
    concurrency: u16,
    /// The threads of a plain function.
    pool: Option<Py<ThreadPool>>,
    /// Creates the agents of the type from their configs, if there is more than one.
    factory: Option<FactoryArg>,
}

/// `aios._factory.BoundFactory`.
#[derive(FromPyObject)]
struct FactoryArg {
    config_schema: String,
    /// Creates an agent from a config, and reports its key.
    make: Py<PyAny>,
    /// Forgets the agent with a key.
    release: Py<PyAny>,
}

impl AgentArg {
    /// The definition of the agents, for the host.
    pub(crate) fn into_definition(
        self,
        executors: &Arc<PythonExecutors>,
        pulse: &Arc<LoopPulse>,
        source: &Arc<str>,
    ) -> PyResult<AgentDefinition> {
        let schema = |text: &str| {
            serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
        };
        let executors = match &self.pool {
            None => Arc::clone(executors),
            Some(pool) => {
                let threads = Arc::clone(&pool.get().queue);
                Arc::new(PythonExecutors { threads, ..PythonExecutors::clone(executors) })
            }
        };
        let name: Arc<str> = format!("agent {:?}", self.agent_type).into();
        let function = |code| PyFunction { code, is_async: self.is_async, name: Arc::clone(&name) };
        let agent = PyAgent {
            function: Arc::new(function(self.invoke)),
            parameters_schema: schema(&self.parameters_schema)?,
            output_schema: schema(&self.output_schema)?,
            executors,
            source: Arc::clone(source),
            instance: None,
        };
        let definition = match self.factory {
            None => {
                let agent: Arc<dyn DynAgent> = Arc::new(agent);
                AgentDefinition::instance(self.agent_type, agent)
            }
            Some(FactoryArg { config_schema, make, release }) => {
                let factory = PyFactory::new(agent, function(make), release);
                factory.into_definition(self.agent_type, schema(&config_schema)?)
            }
        };
        let definition = definition.with_concurrency(self.concurrency);
        // A blocked event loop does not affect plain functions, which have their own threads.
        Ok(match self.is_async {
            true => definition.with_pulse(Arc::<LoopPulse>::clone(pulse)),
            false => definition,
        })
    }
}

/// `aios._clients.connection.NativeWorkflow`.
#[derive(FromPyObject)]
pub(crate) struct WorkflowArg {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) looks_ahead: bool,
    pub(crate) begin: Py<PyAny>,
}

impl WorkflowArg {
    /// The workflow, which this process can execute.
    pub(crate) fn into_workflow(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
    ) -> PyResult<Arc<dyn Workflow>> {
        let name = Name::new(&self.name).map_err(|error| ErrorInfo::from(error).into_error(py))?;
        let executors = Some(Arc::clone(executors));
        let Self { version, looks_ahead, begin, .. } = self;
        let begin = Some(begin);
        Ok(Arc::new(PyWorkflow { name, version, looks_ahead, begin, executors }))
    }
}
