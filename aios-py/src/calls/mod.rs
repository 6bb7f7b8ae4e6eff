//! Calls from Python to Rust: Rust futures as `asyncio` futures.
//!
//! [`Calls::call`] is the way of every method that waits. It runs on the thread of the event loop:
//!
//! 1. It creates an `asyncio` future, and keeps it in a table under a number.
//! 2. It spawns the Rust future on the native threads, and returns the `asyncio` future to Python.
//! 3. When the Rust future is ready, a native thread pushes a job to the [`Bridge`]. It does not
//!    touch Python: the result is JSON text, or a closure that creates an object.
//! 4. The job takes the `asyncio` future out of the table, builds the Python value on the loop's
//!    thread, and resolves it.
//!
//! If Python cancels the `asyncio` future, its callback removes it from the table and aborts the
//! Rust task, which drops the Rust future at its next `await`.
//!
//! # Ownership
//!
//! Python decides when its objects are collected, and a reference to a run handle may live longer
//! than the client. So Python objects own no part of the store: handles and readers of output
//! streams are in tables here, the objects have their number, and closing the client empties the
//! tables. A later use finds nothing, and fails with `RUNTIME_CLOSED`.
//!
//! # Forks
//!
//! The native threads exist only in the process that created the client. In a forked child a call
//! would wait without end, so it is refused with `FORKED`. Locks that a native thread held at the
//! moment of the fork stay locked in the child; see [`Calls::is_own_process`]. The drops of the
//! Python objects check it too.

mod event_stream;
mod output_stream;
mod run_handle;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aios_agents::RunHandle;
use aios_core::{catalog::codes, event::Payload};
use parking_lot::Mutex;
use pyo3::{intern, prelude::*, sync::PyOnceLock};
use tokio::{runtime::Handle, task::AbortHandle};

pub(crate) use self::{
    event_stream::NativeEventStream,
    output_stream::{NativeOutputStream, OutputWriter},
    run_handle::NativeRunHandle,
};
use self::{event_stream::Reader, output_stream::SharedOutput};
use crate::{
    convert::{errors::ErrorInfo, json},
    python::{Bridge, LoopExecutor, PythonExecutors},
};

/// The result of a call, made on a native thread and converted on the loop's thread.
pub(crate) enum Answer {
    /// `None`.
    Nothing,
    /// A value that Python receives as `None`, `bool`, `int`, `float`, `str`, `list` or `dict`.
    Json(Payload),
    /// A value that is not JSON.
    Object(MakeObject),
}

/// Creates a Python object, on the loop's thread.
type MakeObject = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

impl Answer {
    /// The Python value. Called on the loop's thread.
    fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Nothing => Ok(py.None()),
            Self::Json(payload) => Ok(json::read(py, payload.as_str())?.unbind()),
            Self::Object(make) => make(py),
        }
    }
}

/// The calls of a client: runs them on native threads, and resolves their futures on the event loop.
pub(crate) struct Calls {
    /// The process that created the client.
    process: u32,
    /// Whether further calls are rejected.
    closed: AtomicBool,
    /// The native threads on which futures run.
    tokio: Handle,
    pub(crate) executors: Arc<PythonExecutors>,
    /// The `asyncio` futures that wait for an answer.
    pending: Arc<PendingFutures>,
    /// The handles that Python objects refer to. They are owned here, so that no object keeps a closed
    /// store open.
    handles: Mutex<HashMap<u64, RunHandle>>,
    /// The readers of output streams that Python objects refer to.
    outputs: Mutex<HashMap<u64, Arc<SharedOutput>>>,
    /// Subscriptions. Weak, because a subscription ends when Python drops its stream.
    readers: Mutex<Vec<Weak<Reader>>>,
}

/// The `asyncio` futures of calls in progress. Jobs, callbacks and the client refer to it.
#[derive(Default)]
struct PendingFutures {
    /// The last number of a future, a handle or a reader of an output stream.
    serial: AtomicU64,
    /// By number. The lock is never held while Python code runs.
    futures: Mutex<HashMap<u64, PendingFuture>>,
}

/// The `asyncio` future of a call in progress.
struct PendingFuture {
    waiter: Py<PyAny>,
    /// Called when the future is done, unless the call has ended before.
    callback: Py<DoneCallback>,
}

impl Calls {
    /// The calls of a new client of this process.
    pub(crate) fn new(tokio: Handle, executors: Arc<PythonExecutors>) -> Self {
        Self {
            process: std::process::id(),
            closed: AtomicBool::new(false),
            tokio,
            executors,
            pending: Arc::default(),
            handles: Mutex::default(),
            outputs: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Whether the process has not forked since the client was created.
    ///
    /// Threads do not survive a fork, but the locks that they held do. A forked child must therefore
    /// neither take a lock that native threads take, nor drop what might take one.
    pub(crate) fn is_own_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// The native threads.
    pub(crate) fn tokio(&self) -> &Handle {
        &self.tokio
    }

    /// Polls workflow runs on the event loop.
    pub(crate) fn run_executor(&self) -> LoopExecutor {
        LoopExecutor::new(Arc::clone(&self.executors.bridge), self.tokio.clone())
    }

    /// Runs a future on the native threads, and returns an `asyncio` future. Cancelling that drops
    /// the Rust future.
    ///
    /// Raises at once, before anything runs, if the process is a fork (`FORKED`), if the client is
    /// closed (`RUNTIME_CLOSED`), or if this thread does not run the client's loop (`WRONG_LOOP`,
    /// or `WORKFLOW_CODE` in the code of a workflow, whose run is then blocked):
    /// `asyncio` futures must be created and resolved on the thread of their loop.
    pub(crate) fn call<'py, F>(&self, py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: Future<Output = Result<Answer, ErrorInfo>> + Send + 'static,
    {
        if !self.is_own_process() {
            let message = "the client was opened before the process forked; open another one in \
                           the child";
            return Err(ErrorInfo::new("runtime", codes::FORKED, message).into_error(py));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorInfo::closed().into_error(py));
        }
        if !self.is_own_loop(py)? {
            return Err(wrong_loop(py)?);
        }
        let waiter =
            self.executors.event_loop.bind(py).call_method0(intern!(py, "create_future"))?;
        let key = self.pending.serial.fetch_add(1, Ordering::Relaxed);
        let bridge = Arc::clone(&self.executors.bridge);
        let pending = Arc::clone(&self.pending);
        let running = self.tokio.spawn(answer(future, key, bridge, pending));
        let callback = DoneCallback {
            process: self.process,
            key,
            pending: Arc::clone(&self.pending),
            running: running.abort_handle(),
        };
        let callback = Bound::new(py, callback)?;
        waiter.call_method1(intern!(py, "add_done_callback"), (&callback,))?;
        // The job that answers is run by this thread, so it finds the future.
        let future = PendingFuture { waiter: waiter.clone().unbind(), callback: callback.unbind() };
        self.pending.futures.lock().insert(key, future);
        Ok(waiter)
    }

    /// Whether this thread runs the event loop of the client.
    fn is_own_loop(&self, py: Python<'_>) -> PyResult<bool> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let running = RUNNING.get_or_try_init(py, || {
            PyResult::Ok(py.import("asyncio")?.getattr("_get_running_loop")?.unbind())
        })?;
        Ok(running.bind(py).call0()?.is(&self.executors.event_loop))
    }

    /// Owns a handle until it is dropped or the client is closed.
    fn insert_handle(&self, handle: RunHandle) -> u64 {
        let key = self.pending.serial.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(key, handle);
        key
    }

    /// The handle with this number, unless the client was closed.
    fn handle(&self, key: u64) -> Result<RunHandle, ErrorInfo> {
        self.handles.lock().get(&key).cloned().ok_or_else(ErrorInfo::closed)
    }

    /// Forgets a handle, because its Python object was collected.
    fn drop_handle(&self, key: u64) {
        self.handles.lock().remove(&key);
    }

    /// Drops the handles and the readers of output streams.
    pub(crate) fn drop_handles(&self) {
        let handles = std::mem::take(&mut *self.handles.lock());
        let outputs = std::mem::take(&mut *self.outputs.lock());
        drop((handles, outputs));
    }

    /// Tracks a subscription while it exists.
    fn track_reader(&self, reader: &Arc<Reader>) {
        let mut readers = self.readers.lock();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(reader));
    }

    /// Releases deliveries that Python has not acknowledged, so that the broker can close.
    pub(crate) fn release_deliveries(&self) {
        let readers = self.readers.lock();
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.release());
    }

    /// Rejects further calls.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Fails every pending call. Called on the loop's thread.
    pub(crate) fn fail_all(&self, py: Python<'_>) -> PyResult<()> {
        let futures: Vec<_> =
            self.pending.futures.lock().drain().map(|(_, future)| future.waiter).collect();
        for future in futures {
            if !is_done(future.bind(py))? {
                resolve(future.bind(py), Err(ErrorInfo::closed().into_error(py)))?;
            }
        }
        Ok(())
    }
}

/// The error of a call from a thread that does not run the client's loop.
fn wrong_loop(py: Python<'_>) -> PyResult<PyErr> {
    let isolation = py.import(intern!(py, "aios._workflows.isolation"))?;
    let violation = isolation.call_method0(intern!(py, "note_client"))?;
    if !violation.is_none() {
        return Ok(PyErr::from_value(violation));
    }
    let message = "the client was opened on another event loop and can only be used there; \
                   open one for this loop, or use asyncio.run_coroutine_threadsafe";
    Ok(ErrorInfo::new("runtime", codes::WRONG_LOOP, message).into_error(py))
}

/// Awaits the future of a call on a native thread, and hands the answer to the loop. The `asyncio`
/// future may have been cancelled before; then the answer is dropped.
async fn answer<F>(future: F, key: u64, bridge: Arc<Bridge>, pending: Arc<PendingFutures>)
where
    F: Future<Output = Result<Answer, ErrorInfo>> + Send + 'static,
{
    let answer = future.await;
    bridge.push(Box::new(move |py| {
        let Some(future) = pending.futures.lock().remove(&key) else { return Ok(()) };
        let waiter = future.waiter.bind(py);
        if is_done(waiter)? {
            return Ok(());
        }
        // Nothing is left to abort, and a callback would cost a place in the queue of the loop.
        waiter.call_method1(intern!(py, "remove_done_callback"), (future.callback,))?;
        let result = match answer {
            Ok(answer) => answer.into_object(py),
            Err(error) => Err(error.into_error(py)),
        };
        resolve(waiter, result)
    }));
}

/// Whether the future is already resolved or cancelled.
fn is_done(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    waiter.call_method0(intern!(waiter.py(), "done"))?.is_truthy()
}

/// Resolves a future.
fn resolve(waiter: &Bound<'_, PyAny>, result: PyResult<Py<PyAny>>) -> PyResult<()> {
    let py = waiter.py();
    match result {
        Ok(value) => waiter.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => waiter.call_method1(intern!(py, "set_exception"), (error.value(py),))?,
    };
    Ok(())
}

/// Aborts a call when its future is cancelled.
#[pyclass(frozen, module = "aios._aios")]
struct DoneCallback {
    /// The process that started the call.
    process: u32,
    /// The number of its future.
    key: u64,
    pending: Arc<PendingFutures>,
    /// The Rust task.
    running: AbortHandle,
}

#[pymethods]
impl DoneCallback {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        // In a forked child, locks of the native threads may be held forever.
        if self.process != std::process::id() {
            return;
        }
        self.pending.futures.lock().remove(&self.key);
        self.running.abort();
    }
}
