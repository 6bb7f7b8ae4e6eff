//! Workflows written in Python: the engine drives the coroutine itself.
//!
//! `asyncio` takes no part. A workflow is a Python coroutine, and a [`CoroutineFuture`] sends
//! values into it as an event loop would, with the engine in its place: an `await` in the code
//! yields an operation of the engine, and the coroutine continues when the journal has its outcome.
//! So the order in which code continues is the order of the journal, and the same in a replay.
//!
//! | module | contents |
//! |---|---|
//! | `context` | the methods of `aios.WorkflowContext`, each of which makes an operation |
//! | `operation` | the operations that have no outcome yet, and the object that code awaits |
//! | `coroutine` | the coroutine as a Rust future |
//! | `scope` | the fields of log lines of the run |
//!
//! # A poll
//!
//! 1. Outcomes wake operations, and with them the run. The
//!    [`LoopExecutor`](crate::python::LoopExecutor) polls the future on the thread of the event
//!    loop; in tests with virtual time, a native thread does.
//! 2. The woken operations are advanced without the interpreter. If none of them has an outcome,
//!    the poll ends here.
//! 3. For each operation that has an outcome, the interpreter is attached, and the driver resumes
//!    the coroutine with the number of that operation, until it awaits something that has none.
//! 4. The run ends when the coroutine returns or raises.
//!
//! `KeyboardInterrupt`, and a `SystemExit` that a signal handler raises while the code executes, do not end
//! the run. They leave the loop, as those of a task of `asyncio` do, and the run has not ended when the
//! process does. A `SystemExit` of the code itself is a failure like others: if it ended the process, the
//! run would end each process that loads it.
//!
//! # Who owns an operation
//!
//! A Python object may be freed at any time by the garbage collector, on any thread, and two
//! replays may differ in that. Cancelling an operation is an action of the workflow, though, and
//! must happen at the same place in each replay. So the objects own nothing: the operations are in
//! [`Operations`], by number, and an object that is dropped cancels its operation only on the
//! thread and at the time at which the coroutine itself runs.

mod context;
mod coroutine;
mod operation;
mod scope;

use std::sync::Arc;

use aios_agents::workflow::{Workflow, WorkflowContext, WorkflowError};
use aios_core::{BoxFuture, agent::Name, catalog::codes, event::Payload, failure::Failure};
use pyo3::prelude::*;

pub(crate) use self::{
    context::{NativeStepContext, NativeWorkflowContext},
    operation::{Operation, Pending},
    scope::RunScope,
};
use self::{coroutine::CoroutineFuture, operation::Operations};
use crate::python::PythonExecutors;

/// A workflow whose code is a Python coroutine function.
pub(crate) struct PyWorkflow {
    /// The name under which runs are started.
    pub(crate) name: Name,
    /// The version of the code.
    pub(crate) version: u32,
    /// See [`Workflow::looks_ahead`].
    pub(crate) looks_ahead: bool,
    /// `begin(context, input)` creates the coroutine; `None` if this process does not execute runs.
    pub(crate) begin: Option<Py<PyAny>>,
    /// Where steps are executed; `None` if this process does not execute runs.
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
        let bridge = native.bridge();
        let Some(begin) = &self.begin else {
            let failure = Failure::new(codes::NO_EVENT_LOOP, "this client can't execute runs");
            return Box::pin(std::future::ready(Err(WorkflowError::failed(failure))));
        };
        let begin = Python::attach(|py| begin.clone_ref(py));
        Box::pin(CoroutineFuture::new(begin, native.into_argument(), input, operations, bridge))
    }

    /// The waker that [`Operations`] keeps.
    fn kept_wakers(&self) -> usize {
        1
    }
}
