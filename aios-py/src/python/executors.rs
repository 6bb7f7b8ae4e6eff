//! Calls of Python functions from Rust: async functions on the event loop, plain functions in threads.

use std::sync::Arc;

use aios_core::{
    agent::{TaskError, TaskQueued, TaskSlot},
    event::Payload,
    failure::Failure,
};
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyTuple};
use tokio::sync::oneshot;

use super::{Bridge, CallQueue};
use crate::convert::{
    errors::{invalid_output, task_error},
    json,
};

/// Failure code of an attempt whose event loop or interpreter stopped.
const INTERRUPTED: &str = "INTERRUPTED";

/// The event loop and the threads that execute Python functions.
#[derive(Clone)]
pub(crate) struct PythonExecutors {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) event_loop: Arc<Py<PyAny>>,
    pub(crate) threads: Arc<CallQueue>,
}

/// A Python function that takes a [`Reply`] and arguments. On the event loop it returns an `asyncio`
/// task that does the work; in a thread it does the work itself.
#[derive(Debug)]
pub(crate) struct PyFunction {
    pub(crate) code: Py<PyAny>,
    pub(crate) is_async: bool,
    /// Names the function in errors.
    pub(crate) name: Arc<str>,
}

type Outcome = Result<Payload, TaskError>;

/// Builds the arguments of a call, with the interpreter attached.
pub(crate) type MakeArguments =
    Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> + Send>;

impl PythonExecutors {
    /// Calls `function(reply, *arguments)` and waits for the outcome that it passes to the reply.
    ///
    /// Dropping the future cancels an async function; a plain function runs to completion, and its
    /// result is discarded.
    pub(crate) async fn run(
        &self,
        function: Arc<PyFunction>,
        code: &'static str,
        arguments: MakeArguments,
    ) -> Outcome {
        self.run_for(TaskHooks::default(), function, code, arguments).await
    }

    /// Same as [`run`](Self::run), for a task: tells the host when the function starts, and holds the
    /// slot until the function ends, which may be after this future was dropped.
    pub(crate) async fn run_for(
        &self,
        hooks: TaskHooks,
        function: Arc<PyFunction>,
        code: &'static str,
        arguments: MakeArguments,
    ) -> Outcome {
        let (sender, receiver) = oneshot::channel();
        let call = Call { function, code, arguments, sender, hooks };
        let _guard = match call.function.is_async {
            true => Some(self.on_loop(call)),
            false => {
                self.threads.push(Box::new(move |py| call.prepare(py)));
                None
            }
        };
        let interrupted =
            Failure::new(INTERRUPTED, "the event loop or the interpreter has stopped");
        receiver.await.unwrap_or_else(|_| Err(TaskError::retryable(interrupted)))
    }

    fn on_loop(&self, call: Call) -> CoroutineGuard {
        let state = Arc::new(Mutex::new(CoroutineState::Waiting));
        let guard = CoroutineGuard { state: Arc::clone(&state), bridge: Arc::clone(&self.bridge) };
        self.bridge.push(Box::new(move |py| call.start_task(py, &state)));
        guard
    }
}

/// How a call reports to the host of its task.
#[derive(Default)]
pub(crate) struct TaskHooks {
    pub(crate) slot: TaskSlot,
    pub(crate) queued: TaskQueued,
}

/// A call that has not started.
struct Call {
    function: Arc<PyFunction>,
    code: &'static str,
    arguments: MakeArguments,
    sender: oneshot::Sender<Outcome>,
    hooks: TaskHooks,
}

impl Call {
    /// The function and its arguments. `None` if the call was cancelled, or if the arguments can't be
    /// built, which is the outcome then.
    fn prepare(self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        if self.sender.is_closed() || !self.hooks.queued.begin() {
            return None;
        }
        let receiver = Mutex::new(Some((self.sender, self.hooks.slot)));
        let function = Arc::clone(&self.function);
        let reply = Bound::new(py, Reply { receiver, code: self.code, function }).ok()?;
        let arguments = (self.arguments)(py).and_then(|mut arguments| {
            arguments.insert(0, reply.clone().into_any());
            PyTuple::new(py, arguments)
        });
        match arguments {
            Ok(arguments) => Some((self.function.code.clone_ref(py), arguments.unbind())),
            Err(error) => {
                reply.get().send(Err(task_error(py, &error, self.code)));
                None
            }
        }
    }

    fn start_task(self, py: Python<'_>, state: &Mutex<CoroutineState>) -> PyResult<()> {
        let Some((function, arguments)) = self.prepare(py) else { return Ok(()) };
        let task = function.call1(py, arguments.bind(py))?;
        let running = CoroutineState::Running(task.clone_ref(py));
        let before = std::mem::replace(&mut *state.lock(), running);
        if matches!(before, CoroutineState::Cancelled) {
            task.call_method0(py, "cancel")?;
        }
        Ok(())
    }
}

enum CoroutineState {
    Waiting,
    /// The `asyncio` task.
    Running(Py<PyAny>),
    Cancelled,
}

/// Cancels a coroutine when it is dropped.
struct CoroutineGuard {
    state: Arc<Mutex<CoroutineState>>,
    bridge: Arc<Bridge>,
}

impl Drop for CoroutineGuard {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.state.lock(), CoroutineState::Cancelled);
        if let CoroutineState::Running(task) = state {
            // Has no effect on a finished task.
            self.bridge.push(Box::new(move |py| task.call_method0(py, "cancel").map(drop)));
        }
    }
}

/// Receives the outcome of a Python function.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Reply {
    receiver: Mutex<Option<(oneshot::Sender<Outcome>, TaskSlot)>>,
    code: &'static str,
    function: Arc<PyFunction>,
}

impl Reply {
    fn send(&self, outcome: Outcome) {
        let receiver = self.receiver.lock().take();
        if let Some((sender, slot)) = receiver {
            drop(slot);
            // Fails if the attempt was cancelled.
            let _ = sender.send(outcome);
        }
    }
}

#[pymethods]
impl Reply {
    /// The function returned a value.
    fn succeed(&self, value: &Bound<'_, PyAny>) {
        let written = json::write_as(value, || format!("the result of {}", self.function.name));
        self.send(written.map_err(|error| TaskError::terminal(invalid_output(value.py(), &error))));
    }

    /// The function raised an exception.
    fn fail(&self, error: &Bound<'_, PyAny>) {
        let error_value = PyErr::from_value(error.clone());
        self.send(Err(task_error(error.py(), &error_value, self.code)));
    }
}
