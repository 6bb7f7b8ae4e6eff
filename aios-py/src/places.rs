//! Where Python code of users runs: coroutines on their event loop, plain functions in a pool.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    agent::{TaskError, TaskQueued, TaskSlot},
    event::Payload,
    failure::Failure,
};
use pyo3::{prelude::*, types::PyTuple};
use tokio::sync::oneshot;

use crate::{
    bridge::Bridge,
    fault::{invalid_output, task_error},
    json,
};

/// Code of the failure of an attempt whose interpreter or loop went away.
const INTERRUPTED: &str = "INTERRUPTED";

/// Both places.
#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) event_loop: Arc<Py<PyAny>>,
    pub(crate) pool: Arc<Queue>,
}

/// A Python function that is called with a [`Reply`] and arguments: on the loop, where it returns an
/// `asyncio` task that does the work, or in the pool, where it does the work itself.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) code: Py<PyAny>,
    pub(crate) is_async: bool,
    /// What it is, for errors.
    pub(crate) name: Arc<str>,
}

type Attempt = Result<Payload, TaskError>;

/// Makes the arguments of a call, where Python runs.
pub(crate) type Arguments =
    Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> + Send>;

impl Places {
    /// Calls `function(reply, *arguments)` and waits for what it tells the reply.
    ///
    /// Dropping the future cancels a coroutine; a plain function runs to its end, unheard.
    pub(crate) async fn run(
        &self,
        function: Arc<Function>,
        code: &'static str,
        arguments: Arguments,
    ) -> Attempt {
        self.run_for(Host::default(), function, code, arguments).await
    }

    /// Like [`run`](Self::run), for the host of a task: says to it when the function begins, and holds
    /// the slot until the function has ended, which may be after this future was dropped.
    pub(crate) async fn run_for(
        &self,
        host: Host,
        function: Arc<Function>,
        code: &'static str,
        arguments: Arguments,
    ) -> Attempt {
        let (sender, receiver) = oneshot::channel();
        let call = Call { function, code, arguments, sender, host };
        let _running = match call.function.is_async {
            true => Some(self.on_loop(call)),
            false => {
                self.pool.push(Box::new(move |py| call.into_parts(py)));
                None
            }
        };
        let interrupted =
            Failure::new(INTERRUPTED, "the event loop or the interpreter has stopped");
        receiver.await.unwrap_or_else(|_| Err(TaskError::retryable(interrupted)))
    }

    fn on_loop(&self, call: Call) -> Running {
        let slot = Arc::new(Mutex::new(Slot::Waiting));
        let running = Running { slot: Arc::clone(&slot), bridge: Arc::clone(&self.bridge) };
        self.bridge.push(Box::new(move |py| call.start_task(py, &slot)));
        running
    }
}

/// What the host of a task has to do with a call.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) slot: TaskSlot,
    pub(crate) queued: TaskQueued,
}

/// A call that is about to be made.
struct Call {
    function: Arc<Function>,
    code: &'static str,
    arguments: Arguments,
    sender: oneshot::Sender<Attempt>,
    host: Host,
}

impl Call {
    /// The function and its arguments; `None` if it is not to be called any more, or the arguments can't
    /// be made, which is answered.
    fn into_parts(self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        if self.sender.is_closed() || !self.host.queued.begin() {
            return None;
        }
        let waiting = Mutex::new(Some((self.sender, self.host.slot)));
        let function = Arc::clone(&self.function);
        let reply = Bound::new(py, Reply { waiting, code: self.code, function }).ok()?;
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

    fn start_task(self, py: Python<'_>, slot: &Mutex<Slot>) -> PyResult<()> {
        let Some((function, arguments)) = self.into_parts(py) else { return Ok(()) };
        let task = function.call1(py, arguments.bind(py))?;
        let before = std::mem::replace(&mut *lock(slot), Slot::Running(task.clone_ref(py)));
        if matches!(before, Slot::Gone) {
            task.call_method0(py, "cancel")?;
        }
        Ok(())
    }
}

/// Where a coroutine stands.
enum Slot {
    Waiting,
    Running(Py<PyAny>),
    /// Nobody waits for it any more.
    Gone,
}

/// A coroutine on the loop; dropping this cancels it.
struct Running {
    slot: Arc<Mutex<Slot>>,
    bridge: Arc<Bridge>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let slot = std::mem::replace(&mut *lock(&self.slot), Slot::Gone);
        if let Slot::Running(task) = slot {
            // A task that is done takes no notice.
            let cancel = move |py: Python<'_>| task.call_method0(py, "cancel").map(drop);
            self.bridge.push(Box::new(cancel));
        }
    }
}

/// What a function tells when it has ended.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Reply {
    waiting: Mutex<Option<(oneshot::Sender<Attempt>, TaskSlot)>>,
    code: &'static str,
    function: Arc<Function>,
}

impl Reply {
    fn send(&self, attempt: Attempt) {
        let waiting = lock(&self.waiting).take();
        if let Some((sender, slot)) = waiting {
            drop(slot);
            // The attempt may have been given up.
            let _ = sender.send(attempt);
        }
    }
}

#[pymethods]
impl Reply {
    /// It returned this.
    fn done(&self, value: &Bound<'_, PyAny>) {
        let written = json::write_as(value, || format!("the result of {}", self.function.name));
        self.send(written.map_err(|error| TaskError::terminal(invalid_output(value.py(), &error))));
    }

    /// It raised this.
    fn fail(&self, error: &Bound<'_, PyAny>) {
        let error_value = PyErr::from_value(error.clone());
        self.send(Err(task_error(error.py(), &error_value, self.code)));
    }
}

type Parts = Box<dyn FnOnce(Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> + Send>;

/// Calls that wait for a thread. As many as there are tasks and steps under way.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Parts>,
    closed: bool,
    threads: usize,
    idle: usize,
}

impl Queue {
    fn push(&self, call: Parts) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.calls.push_back(call);
            self.changed.notify_one();
        }
    }

    fn pop(&self) -> Option<Parts> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(call) = state.calls.pop_front() {
                return Some(call);
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Counts another thread, if no thread waits for a call and there are fewer than `limit`.
    fn grow(&self, limit: usize) -> Option<usize> {
        let mut state = lock(&self.state);
        let grows = !state.closed && state.idle <= state.calls.len() && state.threads < limit;
        grows.then(|| {
            state.threads += 1;
            state.threads
        })
    }

    /// Counts a thread no longer, because it could not be started.
    fn shrink(&self) {
        let mut state = lock(&self.state);
        state.threads = state.threads.saturating_sub(1);
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        drop(calls);
        self.changed.notify_all();
    }
}

/// A pool of Python threads: the queue of the functions that they call.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Pool {
    pub(crate) queue: Arc<Queue>,
}

#[pymethods]
impl Pool {
    #[new]
    fn new() -> Self {
        Self { queue: Arc::default() }
    }

    /// The number of a thread that is to be started, if no thread waits and there are fewer than
    /// `limit`.
    fn grow(&self, limit: usize) -> Option<usize> {
        self.queue.grow(limit)
    }

    /// The thread that `grow` asked for could not be started.
    fn shrink(&self) {
        self.queue.shrink();
    }

    /// Ends the threads. Functions that wait for one are not called.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.queue.close());
    }

    /// The next function to call and its arguments; waits for it. `None` once the pool is closed.
    fn next(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        loop {
            let call = py.detach(|| self.queue.pop())?;
            if let Some(parts) = call(py) {
                return Some(parts);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
