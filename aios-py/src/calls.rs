//! Calls from Python into aios: Rust futures as `asyncio` futures.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aios_agents::RunHandle;
use aios_core::event::Payload;
use pyo3::{intern, prelude::*, sync::PyOnceLock};
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    bridge::Bridge, events::Reader, executor::LoopExecutor, fault::Fault, json, places::Places,
};

/// What a call answers.
pub(crate) enum Answer {
    Nothing,
    Json(Payload),
    Made(Make),
}

/// Makes a Python object, on the loop's thread.
type Make = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

impl Answer {
    fn make(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Nothing => Ok(py.None()),
            Self::Json(payload) => Ok(json::read(py, payload.as_str())?.unbind()),
            Self::Made(make) => make(py),
        }
    }
}

/// What a call needs: threads to run on, and the loop that waits.
pub(crate) struct Calls {
    process: u32,
    closed: AtomicBool,
    tokio: Handle,
    pub(crate) places: Arc<Places>,
    waiting: Arc<Waiting>,
    /// The handles that Python holds. They live here, so that none keeps a store open that was
    /// closed.
    handles: Mutex<HashMap<u64, RunHandle>>,
    readers: Mutex<Vec<Weak<Reader>>>,
}

#[derive(Default)]
struct Waiting {
    serial: AtomicU64,
    futures: Mutex<HashMap<u64, Py<PyAny>>>,
}

impl Waiting {
    fn futures(&self) -> MutexGuard<'_, HashMap<u64, Py<PyAny>>> {
        self.futures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    pub(crate) fn new(tokio: Handle, places: Arc<Places>) -> Self {
        Self {
            process: std::process::id(),
            closed: AtomicBool::new(false),
            tokio,
            places,
            waiting: Arc::default(),
            handles: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Whether this is still the process that made it. Threads do not survive a fork.
    pub(crate) fn is_own_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// aios's threads.
    pub(crate) fn tokio(&self) -> &Handle {
        &self.tokio
    }

    /// What polls runs on the loop.
    pub(crate) fn executor(&self) -> LoopExecutor {
        LoopExecutor { bridge: Arc::clone(&self.places.bridge), tokio: self.tokio.clone() }
    }

    /// Runs a future on aios's threads; cancelling the `asyncio` future drops it.
    pub(crate) fn call<'py, F>(&self, py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: Future<Output = Result<Answer, Fault>> + Send + 'static,
    {
        if !self.is_own_process() {
            let message =
                "this was opened before the process forked; open another one in the child";
            return Err(Fault::new("runtime", "FORKED", message).into_error(py));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(closed().into_error(py));
        }
        if !self.is_own_loop(py)? {
            let message = "this was opened on another event loop, and can be used only there; open \
                           one for this loop, or use asyncio.run_coroutine_threadsafe";
            return Err(Fault::new("runtime", "WRONG_LOOP", message).into_error(py));
        }
        let waiter = self.places.event_loop.bind(py).call_method0(intern!(py, "create_future"))?;
        let key = self.waiting.serial.fetch_add(1, Ordering::Relaxed);
        self.waiting.futures().insert(key, waiter.clone().unbind());
        let (bridge, waiting) = (Arc::clone(&self.places.bridge), Arc::clone(&self.waiting));
        let running = self.tokio.spawn(answer(future, key, bridge, waiting));
        let call =
            Call { key, waiting: Arc::clone(&self.waiting), running: running.abort_handle() };
        waiter.call_method1(intern!(py, "add_done_callback"), (call,))?;
        Ok(waiter)
    }

    /// Whether the loop that runs on this thread is the one that settles the futures.
    fn is_own_loop(&self, py: Python<'_>) -> PyResult<bool> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let running = RUNNING.get_or_try_init(py, || {
            PyResult::Ok(py.import("asyncio")?.getattr("_get_running_loop")?.unbind())
        })?;
        Ok(running.bind(py).call0()?.is(&self.places.event_loop))
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<u64, RunHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a handle until it is dropped or everything is closed.
    pub(crate) fn keep(&self, handle: RunHandle) -> u64 {
        let key = self.waiting.serial.fetch_add(1, Ordering::Relaxed);
        self.handles().insert(key, handle);
        key
    }

    pub(crate) fn handle(&self, key: u64) -> Result<RunHandle, Fault> {
        self.handles().get(&key).cloned().ok_or_else(closed)
    }

    pub(crate) fn drop_handle(&self, key: u64) {
        self.handles().remove(&key);
    }

    pub(crate) fn drop_handles(&self) {
        let handles = std::mem::take(&mut *self.handles());
        drop(handles);
    }

    /// Remembers a subscription while it is there.
    pub(crate) fn keep_reader(&self, reader: &Arc<Reader>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(reader));
    }

    /// Gives back the events that Python works on, so that the broker can close.
    pub(crate) fn release_events(&self) {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.release());
    }

    /// Takes no more calls.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Ends every call that still waits. For the loop's thread.
    pub(crate) fn fail_all(&self, py: Python<'_>) -> PyResult<()> {
        let futures: Vec<_> = self.waiting.futures().drain().map(|(_, future)| future).collect();
        for future in futures {
            if !is_done(future.bind(py))? {
                settle(future.bind(py), Err(closed().into_error(py)))?;
            }
        }
        Ok(())
    }
}

/// What is told to those who come too late.
pub(crate) fn closed() -> Fault {
    Fault::new("runtime", "RUNTIME_CLOSED", "the runtime or client was closed")
}

async fn answer<F>(future: F, key: u64, bridge: Arc<Bridge>, waiting: Arc<Waiting>)
where
    F: Future<Output = Result<Answer, Fault>> + Send + 'static,
{
    let answer = future.await;
    bridge.push(Box::new(move |py| {
        let Some(waiter) = waiting.futures().remove(&key) else { return Ok(()) };
        if is_done(waiter.bind(py))? {
            return Ok(());
        }
        let made = match answer {
            Ok(answer) => answer.make(py),
            Err(fault) => Err(fault.into_error(py)),
        };
        settle(waiter.bind(py), made)
    }));
}

/// Whether nobody waits any more.
fn is_done(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    waiter.call_method0(intern!(waiter.py(), "done"))?.is_truthy()
}

/// Ends a future that is not done.
fn settle(waiter: &Bound<'_, PyAny>, made: PyResult<Py<PyAny>>) -> PyResult<()> {
    let py = waiter.py();
    match made {
        Ok(value) => waiter.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => waiter.call_method1(intern!(py, "set_exception"), (error.value(py),))?,
    };
    Ok(())
}

/// The done-callback of a call's future.
#[pyclass(frozen, module = "aios._aios")]
struct Call {
    key: u64,
    waiting: Arc<Waiting>,
    running: AbortHandle,
}

#[pymethods]
impl Call {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        self.waiting.futures().remove(&self.key);
        self.running.abort();
    }
}
