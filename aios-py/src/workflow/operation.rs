use std::{
    collections::BTreeMap,
    ffi::CString,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use aios_agents::workflow::{OperationCall, StepCall, WorkflowError};
use aios_core::event::Payload;
use futures_util::task::AtomicWaker;
use pyo3::{
    exceptions::{PyRuntimeWarning, PyStopIteration},
    prelude::*,
    sync::PyOnceLock,
};

use crate::{fault::Fault, json};

type Outcome = Result<Payload, WorkflowError>;

/// An operation that has no outcome yet.
pub(super) enum Call {
    Operation(OperationCall),
    Step(StepCall<'static, Payload>),
}

impl Call {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        match self {
            Self::Operation(call) => Future::poll(Pin::new(call), context),
            Self::Step(call) => Future::poll(Pin::new(call), context),
        }
    }

    fn advance(&mut self, context: &Context<'_>) {
        match self {
            Self::Operation(call) => call.advance(context),
            Self::Step(call) => call.advance(context),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Operation(call) => call.number(),
            Self::Step(call) => call.number(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Operation(call) => call.is_ready(),
            Self::Step(call) => call.is_ready(),
        }
    }
}

/// The operations of one run that have no outcome yet. They live here and not in their Python
/// objects, so that the garbage collector decides nothing: an object that is gone gives its
/// operation up only while the coroutine runs, when no collection does.
#[derive(Default)]
pub(crate) struct Operations {
    state: Mutex<State>,
    bell: Arc<Bell>,
    /// Whether the coroutine runs.
    driven: AtomicBool,
    /// Whether it has raised an exception.
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    last: u64,
    calls: BTreeMap<u64, Kept>,
}

struct Kept {
    call: Call,
    /// What it is polled with; made when it is first polled.
    waker: Option<Waker>,
}

/// Which operations were woken, and whom to wake then.
#[derive(Default)]
struct Bell {
    woken: Mutex<Vec<u64>>,
    run: AtomicWaker,
}

/// Wakes one operation.
struct Ring {
    key: u64,
    bell: Arc<Bell>,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        lock(&self.bell.woken).push(self.key);
        self.bell.run.wake();
    }
}

impl Operations {
    pub(super) fn add(&self, call: Call) -> u64 {
        let mut state = lock(&self.state);
        state.last += 1;
        let key = state.last;
        state.calls.insert(key, Kept { call, waker: None });
        key
    }

    /// Says whom to wake from now on.
    pub(super) fn register(&self, waker: &Waker) {
        self.bell.run.register(waker);
    }

    /// Says whether the coroutine runs; otherwise nothing can be awaited.
    pub(super) fn set_driven(&self, driven: bool) {
        self.driven.store(driven, Ordering::Release);
    }

    /// Says that the coroutine has raised an exception, and leaves behind what it holds.
    pub(super) fn set_failed(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Lets those go on that were woken, without the interpreter; returns those that have an
    /// outcome, so that the coroutine can go on.
    pub(super) fn go_on(&self) -> Vec<u64> {
        let woken = std::mem::take(&mut *lock(&self.bell.woken));
        woken.into_iter().filter(|key| self.advance(*key)).collect()
    }

    fn advance(&self, key: u64) -> bool {
        // Not locked meanwhile: the call may wake others.
        let Some(mut kept) = lock(&self.state).calls.remove(&key) else { return false };
        if let Some(waker) = &kept.waker {
            kept.call.advance(&Context::from_waker(waker));
        }
        let is_ready = kept.call.is_ready();
        lock(&self.state).calls.insert(key, kept);
        is_ready
    }

    /// `None` if the operation is unknown or the coroutine does not run.
    fn poll(&self, key: u64) -> Option<Poll<Outcome>> {
        if !self.driven.load(Ordering::Acquire) {
            return None;
        }
        let mut kept = lock(&self.state).calls.remove(&key)?;
        let ring = || Waker::from(Arc::new(Ring { key, bell: Arc::clone(&self.bell) }));
        let waker = kept.waker.get_or_insert_with(ring).clone();
        let polled = kept.call.poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            lock(&self.state).calls.insert(key, kept);
        }
        Some(polled)
    }

    fn remove(&self, key: u64) {
        let removed = lock(&self.state).calls.remove(&key);
        drop(removed);
    }

    /// Gives up what is not over, in the order in which it was asked for.
    pub(super) fn clear(&self) {
        let calls = std::mem::take(&mut lock(&self.state).calls);
        calls.into_values().for_each(drop);
    }
}

/// What the driver of a coroutine returns while the coroutine waits.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Pending;

impl Pending {
    /// The only one.
    pub(crate) fn instance(py: Python<'_>) -> PyResult<&Py<Self>> {
        static INSTANCE: PyOnceLock<Py<Pending>> = PyOnceLock::new();
        INSTANCE.get_or_try_init(py, || Py::new(py, Self))
    }
}

/// An operation of a workflow: awaitable, by the run that asked for it.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Operation {
    operations: Arc<Operations>,
    key: u64,
    /// What it is, and its number in the run, for errors.
    name: Arc<str>,
    number: u64,
    awaited: AtomicBool,
    /// Makes the result what the workflow asked for.
    decode: Option<Py<PyAny>>,
    /// Kept as data: an exception would hold on to the frames that it went through, and they to
    /// this.
    ended: Mutex<Option<Result<Payload, Fault>>>,
}

impl Operation {
    pub(super) fn new(
        operations: &Arc<Operations>,
        call: Call,
        name: Arc<str>,
        decode: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            number: call.number(),
            key: operations.add(call),
            operations: Arc::clone(operations),
            name,
            awaited: AtomicBool::new(false),
            decode,
            ended: Mutex::default(),
        }
    }

    fn value(&self, py: Python<'_>, ended: Result<Payload, Fault>) -> PyResult<Py<PyAny>> {
        let payload = ended.map_err(|fault| {
            let name = match self.number {
                // Refused before it had one.
                0 => self.name.to_string(),
                number => format!("{} (operation {number})", self.name),
            };
            fault.about(name).into_error(py)
        })?;
        let value = json::read(py, payload.as_str())?;
        match &self.decode {
            Some(decode) => decode.call1(py, (value,)),
            None => Ok(value.unbind()),
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<Result<Payload, Fault>>> {
        lock(&self.ended)
    }
}

#[pymethods]
impl Operation {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this.get().awaited.store(true, Ordering::Relaxed);
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(this: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        this.get().go_on(this)
    }

    /// As `__next__`; the key of an operation that has an outcome says nothing here.
    fn send(this: &Bound<'_, Self>, _key: Option<u64>) -> PyResult<Py<Self>> {
        this.get().go_on(this)
    }

    /// What tells it from the other operations of the run.
    #[getter]
    fn key(&self) -> u64 {
        self.key
    }

    /// Gives the operation up: a timer is forgotten, a task is cancelled.
    fn close(&self) {
        self.awaited.store(true, Ordering::Relaxed);
        self.operations.remove(self.key);
    }
}

impl Operation {
    /// Takes the outcome, or yields the operation itself.
    fn go_on(&self, this: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        let py = this.py();
        let before = self.ended().clone();
        let ended = match before {
            Some(ended) => ended,
            None => match self.operations.poll(self.key).ok_or_else(|| misplaced(py))? {
                Poll::Pending => return Ok(this.clone().unbind()),
                Poll::Ready(outcome) => {
                    let ended = outcome.map_err(Fault::from);
                    self.ended().insert(ended).clone()
                }
            },
        };
        Err(self
            .value(py, ended)
            .map_or_else(|error| error, |value| PyStopIteration::new_err((value,))))
    }
}

/// An operation that nothing refers to is given up, but only by the coroutine itself.
impl Drop for Operation {
    fn drop(&mut self) {
        if !self.operations.driven.load(Ordering::Acquire) {
            return;
        }
        self.operations.remove(self.key);
        if !*self.awaited.get_mut() && !self.operations.failed.load(Ordering::Acquire) {
            Python::attach(|py| warn_forgotten(py, &self.name));
        }
    }
}

/// Warns where the workflow runs, as Python does of a coroutine.
fn warn_forgotten(py: Python<'_>, name: &str) {
    let text = format!("{name} of a workflow was never awaited, and so never began");
    let category = py.get_type::<PyRuntimeWarning>();
    let warned = CString::new(text)
        .map_err(PyErr::from)
        .and_then(|text| PyErr::warn(py, category.as_any(), &text, 1));
    if let Err(error) = warned {
        error.write_unraisable(py, None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn misplaced(py: Python<'_>) -> PyErr {
    let message = "an operation can only be awaited by the workflow run that asked for it, and not \
                   after it was given up";
    Fault::new("workflow_code", "WORKFLOW_CODE", message).into_error(py)
}
