//! A Python coroutine as a Rust future.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aios_agents::workflow::{WorkflowError, block, interrupt};
use aios_core::{catalog::codes, event::Payload, failure::Failure};
use pyo3::{
    exceptions::{PyBaseException, PyRuntimeError, PyStopIteration},
    prelude::*,
    sync::PyOnceLock,
};

use super::{Operations, Pending};
use crate::{
    convert::{
        errors::{invalid_output, stop_as_error, task_error},
        json,
    },
    python::{Bridge, ends_process},
};

/// A Python coroutine as a future. A poll advances it once for every operation that got an outcome:
/// `Driver.advance` in `_workflows/driver.py` sends the outcome into the coroutine, and a `gather` or `race` that
/// waits for it resumes in `_Group.__await__` in `_workflows/combinators.py`.
///
/// Polls are synchronous, as the engine requires: outcomes are sent one at a time, and the code runs
/// in between. Polls usually happen on the loop's thread, which holds the interpreter's lock; other
/// threads, which tests use, may wait for the lock and are marked as blocking.
pub(super) struct CoroutineFuture {
    /// How far the coroutine is.
    state: State,
    /// The operations that it waits for.
    operations: Arc<Operations>,
    /// Where exceptions that end the process are raised; `None` if there is no loop.
    bridge: Option<Arc<Bridge>>,
}

/// How far a coroutine is. It is created by the first poll, because creating it needs the
/// interpreter.
enum State {
    New {
        begin: Py<PyAny>,
        native: MakeNative,
        input: Payload,
    },
    /// `aios._workflows.driver.Driver` around the coroutine.
    Running(Py<PyAny>),
    /// It has ended, or could not be created.
    Done,
}

/// Creates the native context that the coroutine gets.
pub(super) type MakeNative = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// The result of the coroutine as JSON, or why the run fails.
type Outcome = Result<Payload, WorkflowError>;

impl CoroutineFuture {
    pub(super) fn new(
        begin: Py<PyAny>,
        native: MakeNative,
        input: Payload,
        operations: Arc<Operations>,
        bridge: Option<Arc<Bridge>>,
    ) -> Self {
        Self { state: State::New { begin, native, input }, operations, bridge }
    }

    /// Advances the coroutine: `key` is the operation that got an outcome, `None` starts it.
    fn advance(&mut self, py: Python<'_>, key: Option<u64>) -> Poll<Outcome> {
        let advanced = match self.driver(py) {
            Ok(driver) => driver.call_method1("advance", (key,)),
            // Only a coroutine that has begun can return.
            Err(error) => Err(stop_as_error(py, error)),
        };
        let error = match advanced {
            Ok(yielded) if yielded.is_instance_of::<Pending>() => return Poll::Pending,
            Ok(_) => return Poll::Ready(Ok(Payload::null())),
            Err(error) => error,
        };
        self.state = State::Done;
        let outcome = if error.is_instance_of::<PyStopIteration>(py) {
            return_value(py, &error)
        } else {
            self.operations.set_failed();
            raised_error(py, error)
        };
        Poll::Ready(outcome.unwrap_or_else(|error| self.leave(error)))
    }

    /// Raises an exception that ends the process out of the loop, and leaves the code without an outcome.
    ///
    /// The run continues after the next start, so nothing that the code did while the exception passed
    /// through it may be recorded, such as cancelled operations.
    fn leave(&self, error: PyErr) -> ! {
        if let Some(bridge) = &self.bridge {
            bridge.raise(error);
        }
        interrupt()
    }

    /// The driver. The first call creates it, and the coroutine with it.
    fn driver<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static DRIVER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let State::Running(driver) = &self.state {
            return Ok(driver.bind(py).clone());
        }
        let make = DRIVER.get_or_try_init(py, || {
            PyResult::Ok(py.import("aios._workflows.driver")?.getattr("Driver")?.unbind())
        })?;
        match std::mem::replace(&mut self.state, State::Done) {
            State::New { begin, native, input } => {
                let input = json::read(py, input.as_str())?;
                let driver = make.bind(py).call1((begin, native(py)?, input))?;
                self.state = State::Running(driver.clone().unbind());
                Ok(driver)
            }
            State::Running(driver) => Ok(driver.into_bound(py)),
            // The engine does not poll a future that has ended.
            State::Done => Err(PyRuntimeError::new_err("the coroutine has ended")),
        }
    }
}

/// The return value of the coroutine.
///
/// # Errors
///
/// An exception that ends the process.
fn return_value(py: Python<'_>, stop: &PyErr) -> PyResult<Outcome> {
    let value = stop.value(py).getattr("value");
    match value.and_then(|value| json::write(&value)) {
        Err(error) if ends_process(py, &error) => Err(error),
        written => Ok(written.map_err(|it| WorkflowError::failed(invalid_output(py, &it)))),
    }
}

/// The exception of the coroutine. Unsupported code blocks the run, as a panic does.
///
/// # Errors
///
/// An exception that ends the process.
fn raised_error(py: Python<'_>, error: PyErr) -> PyResult<Outcome> {
    if ends_process(py, &error) {
        return Err(error);
    }
    let value = error.value(py);
    if let Some(input) = continuation_input(value) {
        let error = match json::write(&input) {
            Ok(input) => WorkflowError::continue_as_new(&input),
            Err(error) if ends_process(py, &error) => return Err(error),
            Err(error) => {
                WorkflowError::failed(task_error(py, &error, codes::INVALID_DATA).failure)
            }
        };
        return Ok(Err(error));
    }
    if is_interrupted(py, &error)? {
        // The code had just returned, after it had computed for too long.
        let message: String = py.import("aios._workflows.isolation")?.getattr("BUSY")?.extract()?;
        block(Failure::new(WorkflowError::BUSY, message));
    }
    let failure = task_error(py, &error, WorkflowError::FAILED).failure;
    if failure.code == WorkflowError::BUSY {
        block(failure);
    }
    if failure.code == codes::WORKFLOW_CODE {
        // Unwinds without a panic message: the engine records it as the reason why the run is blocked.
        resume_unwind(Box::new(failure.message));
    }
    Ok(Err(WorkflowError::failed(failure)))
}

/// Whether the watchdog has interrupted the code.
fn is_interrupted(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let class = py.import("aios._workflows.watchdog")?.getattr("Interrupted")?;
    Ok(error.is_instance(py, &class))
}

/// The input of the run as which this one continues, if the exception says that it does.
fn continuation_input<'py>(value: &Bound<'py, PyBaseException>) -> Option<Bound<'py, PyAny>> {
    static FIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let find = FIND.get_or_try_init(py, || {
        let module = py.import("aios._workflows.definition")?;
        PyResult::Ok(module.getattr("continuation_of")?.unbind())
    });
    let found = find.ok()?.bind(py).call1((value,)).ok()?;
    found.getattr("_continue_as_new").ok()
}

/// The interpreter is attached for each outcome and not for all of them, and `running` is set only
/// for that time: dropping an operation elsewhere, while the interpreter frees objects, then does
/// not count as an action of the code.
impl Future for CoroutineFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        this.operations.register(context.waker());
        let keys = match this.state {
            State::Running(_) => this.operations.poll_ready().into_iter().map(Some).collect(),
            _ => vec![None],
        };
        let mut polled = Poll::Pending;
        for key in keys {
            this.operations.set_running(true);
            polled = tokio::task::block_in_place(|| Python::attach(|py| this.advance(py, key)));
            this.operations.set_running(false);
            if polled.is_ready() {
                break;
            }
        }
        polled
    }
}

/// Cancels the operations in order, and closes the coroutine at its current `await`.
impl Drop for CoroutineFuture {
    fn drop(&mut self) {
        self.operations.clear();
        if let State::Running(driver) = std::mem::replace(&mut self.state, State::Done) {
            self.operations.set_closing(true);
            let closed = Python::try_attach(|py| driver.call_method0(py, "close").map(drop));
            // Code that can't be closed continues when the coroutine is freed.
            self.operations.set_closing(!matches!(closed, Some(Ok(()))));
            if let Some(Err(error)) = closed {
                let ends = Python::try_attach(|py| ends_process(py, &error)).unwrap_or_default();
                match &self.bridge {
                    Some(bridge) if ends => bridge.raise(error),
                    _ => tracing::warn!(%error, "failed to close the coroutine of a workflow"),
                }
            }
        }
    }
}
