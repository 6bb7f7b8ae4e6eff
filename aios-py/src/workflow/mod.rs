//! Workflows that are written in Python: the engine drives the coroutine itself.

mod context;
mod drive;
mod operation;

use std::sync::Arc;

use aios_agents::workflow::{Workflow, WorkflowContext, WorkflowError};
use aios_core::{BoxFuture, agent::Segment, event::Payload};
use pyo3::prelude::*;

pub(crate) use self::{
    context::{RunCore, seconds},
    operation::{Operation, Pending},
};
use self::{drive::Drive, operation::Operations};
use crate::places::Places;

/// A workflow whose code is a Python coroutine function.
pub(crate) struct PyWorkflow {
    pub(crate) name: Segment,
    pub(crate) version: u32,
    /// `begin(run, input)` makes the coroutine.
    pub(crate) begin: Py<PyAny>,
    pub(crate) places: Option<Arc<Places>>,
}

impl Workflow for PyWorkflow {
    fn name(&self) -> &Segment {
        &self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn run(
        &self,
        context: WorkflowContext,
        input: Payload,
    ) -> BoxFuture<'static, Result<Payload, WorkflowError>> {
        let operations = Arc::new(Operations::default());
        let run = RunCore::new(context, Arc::clone(&operations), self.places.clone());
        let begin = Python::attach(|py| self.begin.clone_ref(py));
        Box::pin(Drive::new(begin, run, input, operations))
    }

    /// The one of its [`Operations`].
    fn kept_wakers(&self) -> usize {
        1
    }
}
