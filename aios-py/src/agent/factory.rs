//! Agents that a Python class creates from their configs.
//!
//! The objects stay in Python, in a table under a number. Rust has an [`Instance`] with that
//! number, and passes it to the function of a task, which looks the object up. So no thread of Rust
//! owns a reference to an object of the application, whose release might run arbitrary code on it:
//! the drop of the instance pushes a job that makes Python forget the number, and the object is
//! released on the event loop.

use std::sync::Arc;

use aios_agents::agent::AgentDefinition;
use aios_core::{
    agent::{DynAgent, ResultExt, TaskError},
    event::Payload,
};
use pyo3::prelude::*;
use serde_json::Value;

use super::PyAgent;
use crate::{
    convert::json,
    python::{MakeArguments, PyFunction, PythonExecutors},
};

/// Creates the agents of a type.
#[derive(Clone)]
pub(crate) struct PyFactory {
    /// An agent without an object.
    blank: Arc<PyAgent>,
    /// Creates an object from a config, and returns its number.
    make: Arc<PyFunction>,
    /// Forgets the object with a number.
    release: Arc<Py<PyAny>>,
}

/// An object that Python keeps until it is dropped here.
pub(crate) struct Instance {
    /// The number of the object in Python.
    pub(super) key: u64,
    release: Arc<Py<PyAny>>,
    executors: Arc<PythonExecutors>,
}

impl PyFactory {
    /// Agents like `blank`, each with an object of its own.
    pub(crate) fn new(blank: PyAgent, make: PyFunction, release: Py<PyAny>) -> Self {
        Self { blank: Arc::new(blank), make: Arc::new(make), release: Arc::new(release) }
    }

    /// The definition of the type, which creates an agent for each config.
    pub(crate) fn into_definition(
        self,
        agent_type: String,
        config_schema: Value,
    ) -> AgentDefinition {
        let schemas = (self.blank.parameters_schema.clone(), self.blank.output_schema.clone());
        AgentDefinition::managed_dyn(agent_type, config_schema, schemas, move |config| {
            let factory = self.clone();
            async move { factory.create(config).await }
        })
    }

    /// Creates the object, on the event loop or a thread as the tasks, and the agent around it.
    async fn create(self, config: Payload) -> Result<Arc<dyn DynAgent>, TaskError> {
        let arguments: MakeArguments =
            Box::new(move |py| Ok(vec![json::read(py, config.as_str())?]));
        let executors = Arc::clone(&self.blank.executors);
        let made = executors.run(self.make, TaskError::FAILED, arguments).await?;
        let key = made.decode().terminal()?;
        let release = Arc::clone(&self.release);
        let blank = &self.blank;
        Ok(Arc::new(PyAgent {
            function: Arc::clone(&blank.function),
            parameters_schema: blank.parameters_schema.clone(),
            output_schema: blank.output_schema.clone(),
            executors: Arc::clone(&blank.executors),
            source: Arc::clone(&blank.source),
            instance: Some(Instance { key, release, executors }),
        }))
    }
}

/// Lets Python forget the object, on the event loop.
impl Drop for Instance {
    fn drop(&mut self) {
        let key = self.key;
        let release = Arc::clone(&self.release);
        self.executors.bridge.push(Box::new(move |py| release.call1(py, (key,)).map(drop)));
    }
}
