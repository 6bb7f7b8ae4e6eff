//! Calls of Python functions from Rust: async functions on the event loop, plain functions in
//! threads.
//!
//! A call is a Rust future. It hands a [`Call`] over to a queue and waits for a channel; the Python
//! side gets a [`Reply`], which sends the outcome into the channel. The native thread that polls
//! the future never needs the interpreter's lock.
//!
//! | | `async def` | `def` |
//! |---|---|---|
//! | queue | [`Bridge`]: a job on the loop's thread | [`CallQueue`]: a thread of the pool |
//! | what the job does | creates an `asyncio` task | returns the function to the Python thread, which calls it |
//! | dropping the future before the start | the call does not start | the call does not start |
//! | dropping the future later | `cancel()` of the `asyncio` task, by another job | no effect: the function runs to its end, and its result is discarded |
//! | the slot of the task | free when the host drops the future | held until the function has ended |
//!
//! A Python thread can't be stopped from outside, which is why plain functions differ in the last
//! two rows.
//!
//! The outcome is sent once. If the process or the loop ends meanwhile, there is none: the function was
//! left by an exception that ends the process, or the `Reply` was dropped. The attempt does not count
//! then, because nothing is recorded before the process ends. If it has not ended after `LEFT`, the call
//! resolves to a retryable failure with the code `INTERRUPTED`.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{TaskError, TaskQueued, TaskSlot},
    catalog::codes,
    clock::{Clock, SystemClock},
    event::Payload,
    failure::Failure,
};
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyTuple};
use tokio::sync::oneshot;

use super::{
    Bridge, CallQueue, ends_process,
    threads::{ThreadCall, ThreadGuard},
};
use crate::convert::{
    errors::{invalid_output, task_error},
    json,
};

/// How long a process or a loop may take to end after a function was left.
const LEFT: Duration = Duration::from_secs(5);

/// The event loop and the threads that execute Python functions.
#[derive(Clone)]
pub(crate) struct PythonExecutors {
    /// Runs jobs on the thread of the loop.
    pub(crate) bridge: Arc<Bridge>,
    /// The `asyncio` loop that the bridge belongs to.
    pub(crate) event_loop: Arc<Py<PyAny>>,
    /// Plain functions that wait for a thread.
    pub(crate) threads: Arc<CallQueue>,
}

/// A Python function that takes a [`Reply`] and arguments. On the event loop it returns an
/// `asyncio` task that does the work; in a thread it does the work itself.
///
/// It is not the function of the user but one of the package, which calls that, converts the
/// result, and reports it to the reply.
#[derive(Debug)]
pub(crate) struct PyFunction {
    /// The function.
    pub(crate) code: Py<PyAny>,
    /// Whether it runs on the event loop.
    pub(crate) is_async: bool,
    /// Names the function in errors.
    pub(crate) name: Arc<str>,
}

/// The result of a function as JSON, or why the attempt failed.
type Outcome = Result<Payload, TaskError>;

/// How a call has ended.
enum Ended {
    /// The call has an outcome.
    Outcome(Outcome),
    /// The call has no outcome, because the process or the loop is about to end.
    Left,
}

/// Builds the arguments of a call, with the interpreter attached. Called when the function is about
/// to start, so that the parameters of calls that wait stay JSON text.
pub(crate) type MakeArguments =
    Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> + Send>;

impl PythonExecutors {
    /// Calls `function(reply, *arguments)` and waits for the outcome that it passes to the reply.
    /// `code` is the code of the failure if the function raises an exception that has no code of
    /// its own.
    ///
    /// Dropping the future cancels an async function; a plain function runs to completion, and its
    /// result is discarded.
    pub(crate) async fn run(
        &self,
        function: Arc<PyFunction>,
        code: &'static str,
        arguments: MakeArguments,
    ) -> Outcome {
        self.run_queued(TaskQueued::default(), function, code, arguments).await
    }

    /// Same as [`run`](Self::run), and reports when the function starts.
    pub(crate) async fn run_queued(
        &self,
        queued: TaskQueued,
        function: Arc<PyFunction>,
        code: &'static str,
        arguments: MakeArguments,
    ) -> Outcome {
        let name = Arc::clone(&function.name);
        let thread = (!function.is_async).then(|| ThreadCall::new(&self.threads, name));
        let _guard = thread.clone().map(ThreadGuard);
        let hooks = TaskHooks { queued, thread, ..TaskHooks::default() };
        self.run_for(hooks, function, code, arguments).await
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
        let call = Call { function, code, arguments, sender, hooks, coroutine: None };
        let _guard = match call.function.is_async {
            true => Some(self.on_loop(call)),
            false => {
                // Signal handlers interrupt the main thread only, so nothing is lost.
                self.threads.push(Box::new(move |py| call.prepare(py).ok().flatten()));
                None
            }
        };
        if let Ok(Ended::Outcome(outcome)) = receiver.await {
            return outcome;
        }
        SystemClock.sleep(LEFT).await;
        let message =
            "the event loop or the interpreter has stopped, or the code has cancelled itself";
        Err(TaskError::retryable(Failure::new(codes::INTERRUPTED, message)))
    }

    /// Starts a call on the event loop. The guard cancels it.
    fn on_loop(&self, mut call: Call) -> CoroutineGuard {
        let state = Arc::new(Mutex::new(CoroutineState::Waiting));
        call.coroutine = Some(Arc::clone(&state));
        let guard = CoroutineGuard { state: Arc::clone(&state), bridge: Arc::clone(&self.bridge) };
        self.bridge.push(Box::new(move |py| call.start_task(py, &state)));
        guard
    }
}

/// How a call reports to the host of its task.
#[derive(Default)]
pub(crate) struct TaskHooks {
    /// Frees a place for another task of the agent when it is dropped.
    pub(crate) slot: TaskSlot,
    /// Begins the attempt when the function starts, unless the attempt has ended before.
    pub(crate) queued: TaskQueued,
    /// A plain function whose caller has no slots: this reports the thread that it occupies after the
    /// end of its attempt.
    pub(crate) thread: Option<Arc<ThreadCall>>,
}

/// A call that has not started. It waits in one of the queues; the future that waits for its
/// outcome holds only the receiver of the channel.
struct Call {
    function: Arc<PyFunction>,
    code: &'static str,
    arguments: MakeArguments,
    /// Closed once the future was dropped: the call does not have to start then.
    sender: oneshot::Sender<Ended>,
    hooks: TaskHooks,
    /// How far the coroutine is; `None` for a plain function.
    coroutine: Option<Arc<Mutex<CoroutineState>>>,
}

impl Call {
    /// The function and its arguments. `None` if the call was cancelled, or if the arguments can't be
    /// built, which is the outcome then.
    ///
    /// # Errors
    ///
    /// An exception that ends the process.
    fn prepare(self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>, Py<PyTuple>)>> {
        if self.sender.is_closed() || !self.hooks.queued.begin() {
            return Ok(None);
        }
        if self.hooks.thread.as_ref().is_some_and(|thread| !thread.begin()) {
            return Ok(None);
        }
        let receiver = Mutex::new(Some((self.sender, self.hooks)));
        let function = Arc::clone(&self.function);
        let reply = Reply { receiver, code: self.code, function, coroutine: self.coroutine };
        let reply = Bound::new(py, reply)?;
        let arguments = (self.arguments)(py).and_then(|mut arguments| {
            arguments.insert(0, reply.clone().into_any());
            PyTuple::new(py, arguments)
        });
        match arguments {
            Ok(arguments) => Ok(Some((self.function.code.clone_ref(py), arguments.unbind()))),
            Err(error) if ends_process(py, &error) => {
                reply.get().leave();
                Err(error)
            }
            Err(error) => {
                reply.get().send(Ended::Outcome(Err(task_error(py, &error, self.code))));
                Ok(None)
            }
        }
    }

    /// Creates the `asyncio` task. Called on the loop's thread.
    ///
    /// The guard may have been dropped while this ran, on a native thread: it left `Cancelled` in
    /// the state, and could not cancel a task that it did not know. So the task is cancelled here.
    fn start_task(self, py: Python<'_>, state: &Mutex<CoroutineState>) -> PyResult<()> {
        let Some((function, arguments)) = self.prepare(py)? else { return Ok(()) };
        let task = function.call1(py, arguments.bind(py))?;
        let mut state = state.lock();
        match &*state {
            CoroutineState::Waiting => *state = CoroutineState::Running(task),
            CoroutineState::Cancelled => {
                drop(state);
                task.call_method0(py, "cancel")?;
            }
            // The task has run already, as the tasks of an eager factory do.
            CoroutineState::Running(_) | CoroutineState::Replied => {}
        }
        Ok(())
    }
}

/// How far a coroutine is. Both the loop's thread and the guard exchange the state under its lock,
/// so that exactly one of them sees the task together with the cancellation.
enum CoroutineState {
    /// The job has not created the task yet.
    Waiting,
    /// The `asyncio` task.
    Running(Py<PyAny>),
    /// The outcome was sent, which is the last thing that the coroutine does.
    Replied,
    /// The guard was dropped before that.
    Cancelled,
}

/// Cancels a coroutine when it is dropped, which may happen on any thread: the cancellation is a
/// job of the loop.
struct CoroutineGuard {
    state: Arc<Mutex<CoroutineState>>,
    bridge: Arc<Bridge>,
}

impl Drop for CoroutineGuard {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.state.lock(), CoroutineState::Cancelled);
        if let CoroutineState::Running(task) = state {
            self.bridge.push(Box::new(move |py| task.call_method0(py, "cancel").map(drop)));
        }
    }
}

/// Receives the outcome of a Python function.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Reply {
    receiver: Mutex<Option<(oneshot::Sender<Ended>, TaskHooks)>>,
    code: &'static str,
    function: Arc<PyFunction>,
    /// How far the coroutine is; `None` for a plain function.
    coroutine: Option<Arc<Mutex<CoroutineState>>>,
}

impl Reply {
    /// Sends the outcome, if none was sent. The slot is freed first, so that the host which
    /// receives the outcome can start the next task at once. The coroutine is marked before that, so
    /// that the end of the call does not wake the loop to cancel a coroutine that is about to end.
    fn send(&self, ended: Ended) {
        let receiver = self.receiver.lock().take();
        if let Some((sender, TaskHooks { slot, thread, .. })) = receiver {
            if let Some(thread) = thread {
                thread.end();
            }
            if let Some(coroutine) = &self.coroutine {
                let before = std::mem::replace(&mut *coroutine.lock(), CoroutineState::Replied);
                drop(before);
            }
            drop(slot);
            // Fails if the attempt was cancelled.
            let _ = sender.send(ended);
        }
    }
}

#[pymethods]
impl Reply {
    /// The function returned a value.
    ///
    /// # Errors
    ///
    /// An exception that ends the process was raised while the value was converted. The attempt is left,
    /// as with one that the function raises.
    fn succeed(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        match json::write_as(value, || format!("the result of {}", self.function.name)) {
            Ok(written) => self.send(Ended::Outcome(Ok(written))),
            Err(error) if ends_process(py, &error) => {
                self.leave();
                return Err(error);
            }
            Err(error) => {
                let failure = TaskError::terminal(invalid_output(py, &error));
                self.send(Ended::Outcome(Err(failure)));
            }
        }
        Ok(())
    }

    /// The function raised an exception.
    fn fail(&self, error: &Bound<'_, PyAny>) {
        let error_value = PyErr::from_value(error.clone());
        self.send(Ended::Outcome(Err(task_error(error.py(), &error_value, self.code))));
    }

    /// The function was left by an exception that ends the process or the loop. The attempt has no
    /// outcome, and is repeated at the next start.
    fn leave(&self) {
        self.send(Ended::Left);
    }
}
