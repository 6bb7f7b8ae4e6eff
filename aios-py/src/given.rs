//! What Python hands over: agents, workflows, policies and events.

use std::sync::Arc;

use aios_agents::{agent::AgentDefinition, workflow::Workflow};
use aios_core::{
    agent::{DynAgent, Segment},
    event::Event,
    retry::RetryPolicy,
};
use pyo3::{exceptions::PyValueError, prelude::*};

use crate::{
    agent::PyAgent,
    bridge::LoopPulse,
    fault::Fault,
    json,
    places::{Function, Places, Pool},
    workflow::{PyWorkflow, seconds},
};

/// `aios.RetryPolicy` in one piece.
#[derive(FromPyObject)]
pub(crate) struct Retry(u32, f64, f64, f64, f64, Vec<String>);

impl Retry {
    pub(crate) fn into_policy(self, py: Python<'_>) -> PyResult<RetryPolicy> {
        let Self(max_attempts, initial, factor, max, jitter, non_retryable) = self;
        let (initial, max) = (seconds(py, initial)?, seconds(py, max)?);
        let policy = RetryPolicy::new()
            .with_max_attempts(max_attempts)
            .with_delays(initial, max)
            .with_factor(factor)
            .with_jitter(jitter);
        Ok(RetryPolicy { non_retryable, ..policy })
    }
}

/// An event of Python's making.
pub(crate) fn event_of(
    data: &Bound<'_, PyAny>,
    event_type: &str,
    source: Arc<str>,
) -> PyResult<Event> {
    let written = json::write(data)?;
    let event = event_type.parse().and_then(|event_type| Event::new(event_type, source, &written));
    event.map_err(|error| Fault::from(error).into_error(data.py()))
}

/// An agent as Python describes it.
#[derive(FromPyObject)]
pub(crate) struct AgentGiven {
    agent_type: String,
    invoke: Py<PyAny>,
    is_async: bool,
    parameters_schema: String,
    output_schema: String,
    concurrency: u16,
    /// The threads that run a plain function.
    pool: Option<Py<Pool>>,
}

/// A workflow as Python describes it.
#[derive(FromPyObject)]
pub(crate) struct WorkflowGiven {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) begin: Py<PyAny>,
}

impl WorkflowGiven {
    pub(crate) fn into_workflow(
        self,
        py: Python<'_>,
        places: &Arc<Places>,
    ) -> PyResult<Arc<dyn Workflow>> {
        let name = Segment::new(&self.name).map_err(|error| Fault::from(error).into_error(py))?;
        let places = Some(Arc::clone(places));
        Ok(Arc::new(PyWorkflow { name, version: self.version, begin: self.begin, places }))
    }
}

impl AgentGiven {
    pub(crate) fn into_definition(
        self,
        places: &Arc<Places>,
        pulse: &Arc<LoopPulse>,
        source: &Arc<str>,
    ) -> PyResult<AgentDefinition> {
        let schema = |text: &str| {
            serde_json::from_str(text).map_err(|error| PyValueError::new_err(error.to_string()))
        };
        let places = match &self.pool {
            None => Arc::clone(places),
            Some(pool) => {
                Arc::new(Places { pool: Arc::clone(&pool.get().queue), ..Places::clone(places) })
            }
        };
        let agent: Arc<dyn DynAgent> = Arc::new(PyAgent {
            function: Arc::new(Function {
                code: self.invoke,
                is_async: self.is_async,
                name: format!("agent {:?}", self.agent_type).into(),
            }),
            parameters_schema: schema(&self.parameters_schema)?,
            output_schema: schema(&self.output_schema)?,
            places,
            source: Arc::clone(source),
        });
        let definition = AgentDefinition::instance(self.agent_type, agent);
        let definition = definition.with_concurrency(self.concurrency);
        // Plain functions have threads of their own.
        Ok(match self.is_async {
            true => definition.with_pulse(Arc::<LoopPulse>::clone(pulse)),
            false => definition,
        })
    }
}
