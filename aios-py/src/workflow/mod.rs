//! Workflows written in Python: the engine drives the coroutine itself.

mod context;
mod coroutine;
mod operation;

use std::sync::Arc;

use aios_agents::workflow::{Workflow, WorkflowContext, WorkflowError};
use aios_core::{BoxFuture, agent::Name, event::Payload};
use pyo3::prelude::*;

pub(crate) use self::{
    context::NativeWorkflowContext,
    operation::{Operation, Pending},
};
use self::{coroutine::CoroutineFuture, operation::Operations};
use crate::python::PythonExecutors;

/// A workflow whose code is a Python coroutine function.
pub(crate) struct PyWorkflow {
    pub(crate) name: Name,
    pub(crate) version: u32,
    pub(crate) looks_ahead: bool,
    /// `begin(context, input)` creates the coroutine; `None` if this process does not execute runs.
    pub(crate) begin: Py<PyAny>,
    pub(crate) executors: Option<Arc<PythonExecutors>>,
}

impl Workflow for PyWorkflow {
    fn name(&self) -> &Name {
        &self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn looks_ahead(&self) -> bool {
        self.looks_ahead
    }

    fn run(
        &self,
        context: WorkflowContext,
        input: Payload,
    ) -> BoxFuture<'static, Result<Payload, WorkflowError>> {
        let operations = Arc::new(Operations::default());
        let native =
            NativeWorkflowContext::new(context, Arc::clone(&operations), self.executors.clone());
        let begin = Python::attach(|py| self.begin.clone_ref(py));
        Box::pin(CoroutineFuture::new(begin, native.into_argument(), input, operations))
    }

    /// The waker that [`Operations`] keeps.
    fn kept_wakers(&self) -> usize {
        1
    }
}
