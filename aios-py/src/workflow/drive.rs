use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aios_agents::workflow::WorkflowError;
use aios_core::event::Payload;
use pyo3::{exceptions::PyStopIteration, prelude::*, sync::PyOnceLock};

use super::{Operations, Pending, RunCore};
use crate::{
    fault::{invalid_output, task_error},
    json,
};

/// A Python coroutine as a future: a poll sends to it once, if something that it waits for is over.
///
/// The poll is synchronous, as the engine needs it: results are fed one at a time, and the code
/// runs in between. It is meant for the loop's thread, which has the interpreter; any other, as
/// tests use it, may wait for that, and is marked as blocking.
pub(super) struct Drive {
    state: State,
    operations: Arc<Operations>,
}

enum State {
    Fresh {
        begin: Py<PyAny>,
        run: RunCore,
        input: Payload,
    },
    /// `aios._driver.Driver` around the coroutine.
    Running(Py<PyAny>),
    Done,
}

type Ended = Result<Payload, WorkflowError>;

impl Drive {
    pub(super) fn new(
        begin: Py<PyAny>,
        run: RunCore,
        input: Payload,
        operations: Arc<Operations>,
    ) -> Self {
        Self { state: State::Fresh { begin, run, input }, operations }
    }

    /// Lets the coroutine go on, because of an outcome or from its beginning.
    fn advance(&mut self, py: Python<'_>, key: Option<u64>) -> Poll<Ended> {
        let advanced = self.driver(py).and_then(|driver| driver.call_method1("advance", (key,)));
        let error = match advanced {
            Ok(yielded) if yielded.is_instance_of::<Pending>() => return Poll::Pending,
            Ok(_) => return Poll::Ready(Ok(Payload::null())),
            Err(error) => error,
        };
        self.state = State::Done;
        if error.is_instance_of::<PyStopIteration>(py) {
            return Poll::Ready(returned(py, &error));
        }
        self.operations.set_failed();
        Poll::Ready(Err(raised(py, &error)))
    }

    fn driver<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static DRIVER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let State::Running(driver) = &self.state {
            return Ok(driver.bind(py).clone());
        }
        let make = DRIVER.get_or_try_init(py, || {
            PyResult::Ok(py.import("aios._driver")?.getattr("Driver")?.unbind())
        })?;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Fresh { begin, run, input } => {
                let input = json::read(py, input.as_str())?;
                let driver = make.bind(py).call1((begin, run, input))?;
                self.state = State::Running(driver.clone().unbind());
                Ok(driver)
            }
            State::Running(driver) => Ok(driver.into_bound(py)),
            State::Done => Err(PyStopIteration::new_err(())),
        }
    }
}

/// What the coroutine returned.
fn returned(py: Python<'_>, stop: &PyErr) -> Ended {
    let value = stop.value(py).getattr("value");
    let written = value.and_then(|value| json::write(&value));
    written.map_err(|error| WorkflowError::failed(invalid_output(py, &error)))
}

/// What the coroutine raised. Code that can't be a workflow blocks the run, as a panic does.
fn raised(py: Python<'_>, error: &PyErr) -> WorkflowError {
    let value = error.value(py);
    if let Ok(input) = value.getattr("_continue_as_new") {
        return match json::write(&input) {
            Ok(input) => WorkflowError::continue_as_new(&input),
            Err(error) => WorkflowError::failed(task_error(py, &error, "INVALID_DATA").failure),
        };
    }
    let failure = task_error(py, error, WorkflowError::FAILED).failure;
    if failure.code == "WORKFLOW_CODE" {
        // Unwinding without a panic's report: the engine makes it the reason of the block.
        resume_unwind(Box::new(failure.message));
    }
    WorkflowError::failed(failure)
}

impl Future for Drive {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        this.operations.register(context.waker());
        let keys = match this.state {
            State::Running(_) => this.operations.go_on().into_iter().map(Some).collect(),
            _ => vec![None],
        };
        let mut polled = Poll::Pending;
        for key in keys {
            this.operations.set_driven(true);
            let advance = || Python::attach(|py| this.advance(py, key));
            polled = tokio::task::block_in_place(advance);
            this.operations.set_driven(false);
            if polled.is_ready() {
                break;
            }
        }
        polled
    }
}

/// The operations are given up at once, in order; the coroutine is closed where it waits.
impl Drop for Drive {
    fn drop(&mut self) {
        self.operations.clear();
        if let State::Running(driver) = std::mem::replace(&mut self.state, State::Done) {
            let closed = Python::try_attach(|py| driver.call_method0(py, "close").map(drop));
            if let Some(Err(error)) = closed {
                tracing::warn!(%error, "the code of a workflow did not let itself be closed");
            }
        }
    }
}
