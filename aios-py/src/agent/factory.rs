//! Agents that a Python class creates from their configs.
//!
//! The objects stay in Python, in a table under a number. Rust has an [`Instance`] with that
//! number, and passes it to the function of a task, which looks the object up. So no thread of Rust
//! owns a reference to an object of the application, whose release might run arbitrary code on it:
//! the drop of the instance pushes a job that makes Python forget the number, and the object is
//! released on the event loop.
//!
//! The creation of an object may end when nothing waits for it any more, because the agent was deleted
//! or the time limit has passed. So the function that creates the object reports its number to a
//! [`Creation`], which says whether the object is still wanted.

use std::sync::Arc;

use aios_agents::agent::AgentDefinition;
use aios_core::{
    agent::{DynAgent, ResultExt, TaskError},
    event::Payload,
    failure::Failure,
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use serde_json::Value;

use super::PyAgent;
use crate::{
    convert::json,
    logging::CallScope,
    python::{MakeArguments, PyFunction, PythonExecutors},
};

/// Creates the agents of a type.
#[derive(Clone)]
pub(crate) struct PyFactory {
    /// An agent without an object.
    blank: Arc<PyAgent>,
    /// Creates an object from a config, and reports its number to a [`Creation`].
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
        let executors = Arc::clone(&self.blank.executors);
        let creating = Creating {
            made: Arc::default(),
            release: Arc::clone(&self.release),
            executors: Arc::clone(&executors),
        };
        let creation = Creation(Arc::clone(&creating.made));
        let scope = CallScope::current();
        let arguments: MakeArguments = Box::new(move |py| {
            let scope = Bound::new(py, scope)?.into_any();
            let creation = Bound::new(py, creation)?.into_any();
            Ok(vec![scope, json::read(py, config.as_str())?, creation])
        });
        executors.run(self.make, TaskError::FAILED, arguments).await?;
        let unreported = || Failure::new(TaskError::FAILED, "no object was created");
        let instance = creating.take().ok_or_else(unreported).terminal()?;
        let blank = &self.blank;
        Ok(Arc::new(PyAgent {
            function: Arc::clone(&blank.function),
            parameters_schema: blank.parameters_schema.clone(),
            output_schema: blank.output_schema.clone(),
            executors: Arc::clone(&blank.executors),
            source: Arc::clone(&blank.source),
            instance: Some(instance),
        }))
    }
}

/// State of an object that is being created.
#[derive(Default)]
enum Made {
    /// It does not exist yet.
    #[default]
    Nothing,
    /// Python keeps it under this number.
    Object(u64),
    /// Nothing waits for it.
    Unwanted,
}

/// Receives the number of an object once it is created.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Creation(Arc<Mutex<Made>>);

#[pymethods]
impl Creation {
    /// Reports the number of the object. Returns whether the object is wanted.
    fn keep(&self, key: u64) -> bool {
        let mut made = self.0.lock();
        let is_wanted = matches!(*made, Made::Nothing);
        if is_wanted {
            *made = Made::Object(key);
        }
        is_wanted
    }
}

/// Waits for an object. Dropped if nothing waits for it any more.
struct Creating {
    made: Arc<Mutex<Made>>,
    release: Arc<Py<PyAny>>,
    executors: Arc<PythonExecutors>,
}

impl Creating {
    /// Takes the object, if it was created. One that is created later is unwanted.
    fn take(&self) -> Option<Instance> {
        match std::mem::replace(&mut *self.made.lock(), Made::Unwanted) {
            Made::Object(key) => Some(Instance {
                key,
                release: Arc::clone(&self.release),
                executors: Arc::clone(&self.executors),
            }),
            Made::Nothing | Made::Unwanted => None,
        }
    }
}

/// Releases an object that was not taken.
impl Drop for Creating {
    fn drop(&mut self) {
        drop(self.take());
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
