//! The pending operations of a run, and the Python object that code awaits.
//!
//! # States of an operation
//!
//! | state | in the table | the object |
//! |---|---|---|
//! | requested | yes, without a waker | not awaited |
//! | awaited | yes, with a waker | yields itself |
//! | outcome received | no | has the outcome, and raises or returns it at every `await` |
//! | cancelled | no | has no outcome; awaiting it is an error |
//!
//! # Waking
//!
//! Each operation has a waker of its own, which notes its number in the [`WakeList`] and wakes the
//! run. The list tells a poll which operations to look at, so that a run with a thousand pending
//! operations does not look at all of them for one outcome.
//!
//! # Locks
//!
//! The table is never locked while an operation is polled, advanced or dropped: each of these may
//! wake other operations or drop them. An operation is taken out of the table for that time and put
//! back.

use std::{
    collections::BTreeMap,
    ffi::CString,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use aios_agents::workflow::{OperationCall, StepCall, WorkflowContext, WorkflowError};
use aios_core::{catalog::codes, event::Payload};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use pyo3::{
    exceptions::{PyRuntimeWarning, PyStopIteration, PyTypeError},
    prelude::*,
    sync::PyOnceLock,
};

use crate::convert::{
    errors::{ErrorInfo, stop_as_error},
    json,
};

/// The result of an operation as JSON, or its failure.
type Outcome = Result<Payload, WorkflowError>;

/// How many errors of operations code may catch outside of its run, or between two outcomes.
const MAX_REFUSALS: u32 = 1000;

/// An operation that has no outcome yet. A step is a call of its own kind, because the engine
/// executes it with a closure.
pub(super) enum Call {
    Operation(OperationCall),
    Step(StepCall<'static, Payload>),
}

impl Call {
    /// Polls the call. The first poll starts the operation.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        match self {
            Self::Operation(call) => Future::poll(Pin::new(call), context),
            Self::Step(call) => Future::poll(Pin::new(call), context),
        }
    }

    /// Makes progress that needs no code of the workflow.
    fn advance(&mut self, context: &Context<'_>) {
        match self {
            Self::Operation(call) => call.advance(context),
            Self::Step(call) => call.advance(context),
        }
    }

    /// The number of the operation in the run.
    fn number(&self) -> u64 {
        match self {
            Self::Operation(call) => call.number(),
            Self::Step(call) => call.number(),
        }
    }

    /// Whether a poll would return an outcome.
    fn is_ready(&self) -> bool {
        match self {
            Self::Operation(call) => call.is_ready(),
            Self::Step(call) => call.is_ready(),
        }
    }
}

/// The pending operations of a run. They are owned here and not by their Python objects, so that
/// garbage collection and other threads do not affect the run: dropping or closing an object cancels
/// its operation only in the coroutine itself, which runs while collection is disabled.
#[derive(Default)]
pub(crate) struct Operations {
    /// The operations by number.
    state: Mutex<State>,
    /// Shared with the wakers.
    wake_list: Arc<WakeList>,
    /// The context of the run.
    context: OnceLock<WorkflowContext>,
    /// Whether the coroutine is running.
    running: AtomicBool,
    /// Whether the coroutine has raised an exception.
    failed: AtomicBool,
    /// Whether the coroutine is being closed.
    closing: AtomicBool,
    /// How many operations were refused since the coroutine last began to run.
    refusals: AtomicU32,
    /// Whether lines that the coroutine logs are left out.
    silent: Arc<AtomicBool>,
}

/// The pending operations of a run. A `BTreeMap`, so that they are cancelled in the order in which
/// they were requested.
#[derive(Default)]
struct State {
    /// The number of the last operation.
    last: u64,
    calls: BTreeMap<u64, PendingCall>,
}

/// An operation in the table.
struct PendingCall {
    call: Call,
    /// Set when the operation is first polled.
    waker: Option<Waker>,
}

/// The woken operations, and the waker of the run.
#[derive(Default)]
struct WakeList {
    /// The numbers of woken operations, in the order of their outcomes.
    woken: Mutex<Vec<u64>>,
    /// Wakes the future of the run.
    run: AtomicWaker,
}

/// Wakes one operation and its run.
struct OperationWaker {
    key: u64,
    wake_list: Arc<WakeList>,
}

impl Wake for OperationWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_list.woken.lock().push(self.key);
        self.wake_list.run.wake();
    }
}

impl Operations {
    /// Adds an operation. Returns its number in the table.
    pub(super) fn add(&self, call: Call) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let key = state.last;
        state.calls.insert(key, PendingCall { call, waker: None });
        key
    }

    /// Sets the context of the run.
    pub(super) fn set_context(&self, context: &WorkflowContext) {
        // A run has one.
        let _ = self.context.set(context.clone());
    }

    /// Whether this thread executes the coroutine.
    fn is_current(&self) -> bool {
        let is_current = |context: &WorkflowContext| context.ensure_current().is_ok();
        self.running.load(Ordering::Acquire) && self.context.get().is_some_and(is_current)
    }

    /// Sets the waker of the run.
    pub(super) fn register(&self, waker: &Waker) {
        self.wake_list.run.register(waker);
    }

    /// Sets whether the coroutine is running; otherwise operations can't be awaited.
    pub(super) fn set_running(&self, running: bool) {
        self.set_silent(running);
        if running {
            self.refusals.store(0, Ordering::Relaxed);
        }
        self.running.store(running, Ordering::Release);
    }

    /// Records that the coroutine has raised an exception: operations that it leaves are not reported.
    pub(super) fn set_failed(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Sets whether the coroutine is being closed: operations that it requests and awaits then
    /// have no effect and no outcome, so that code which catches every exception in a loop is left.
    pub(super) fn set_closing(&self, closing: bool) {
        self.set_silent(closing);
        self.closing.store(closing, Ordering::Release);
    }

    /// Sets whether lines that the coroutine logs are left out: while it executes and has done the same
    /// before, or will do it again.
    fn set_silent(&self, executes: bool) {
        let is_replaying = || self.context.get().is_some_and(WorkflowContext::is_replaying);
        self.silent.store(executes && is_replaying(), Ordering::Release);
    }

    /// Whether lines that the coroutine logs are left out.
    pub(super) fn silent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.silent)
    }

    /// Whether the coroutine is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Counts a refused operation. Returns `true` once the code has caught more than `MAX_REFUSALS` of these
    /// errors: an `await` then yields instead of raising, to leave a loop that catches every exception.
    pub(super) fn refuse(&self) -> bool {
        self.refusals.fetch_add(1, Ordering::Relaxed) >= MAX_REFUSALS
    }

    /// Advances woken operations, without the interpreter. Returns those that have an outcome, so that
    /// the coroutine can continue.
    pub(super) fn poll_ready(&self) -> Vec<u64> {
        let woken = std::mem::take(&mut *self.wake_list.woken.lock());
        woken.into_iter().filter(|key| self.advance(*key)).collect()
    }

    /// Advances an operation. Returns whether it has an outcome.
    fn advance(&self, key: u64) -> bool {
        // Unlocked meanwhile, because the call may wake other operations.
        let Some(mut pending) = self.state.lock().calls.remove(&key) else { return false };
        if let Some(waker) = &pending.waker {
            pending.call.advance(&Context::from_waker(waker));
        }
        let is_ready = pending.call.is_ready();
        self.state.lock().calls.insert(key, pending);
        is_ready
    }

    /// Polls an operation. `None` if it is unknown or this thread does not execute the coroutine.
    fn poll(&self, key: u64) -> Option<Poll<Outcome>> {
        // A step in another thread may run in between, and an outcome that it gets would be lost.
        if !self.is_current() {
            return None;
        }
        let mut pending = self.state.lock().calls.remove(&key)?;
        let new_waker = || {
            Waker::from(Arc::new(OperationWaker { key, wake_list: Arc::clone(&self.wake_list) }))
        };
        let waker = pending.waker.get_or_insert_with(new_waker).clone();
        let polled = pending.call.poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            self.state.lock().calls.insert(key, pending);
        }
        Some(polled)
    }

    /// Cancels an operation. It is dropped outside the lock.
    fn remove(&self, key: u64) {
        let removed = self.state.lock().calls.remove(&key);
        drop(removed);
    }

    /// Cancels pending operations, in the order in which they were requested.
    pub(super) fn clear(&self) {
        let calls = std::mem::take(&mut self.state.lock().calls);
        calls.into_values().for_each(drop);
    }
}

/// Returned by `Driver.advance` while the coroutine waits.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Pending;

impl Pending {
    /// The only instance.
    pub(crate) fn instance(py: Python<'_>) -> PyResult<&Py<Self>> {
        static INSTANCE: PyOnceLock<Py<Pending>> = PyOnceLock::new();
        INSTANCE.get_or_try_init(py, || Py::new(py, Self))
    }
}

/// An operation of a workflow. Only its run can await it.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Operation {
    /// The operations of its run.
    operations: Arc<Operations>,
    key: u64,
    /// Its name and its number in the run, for errors.
    name: Arc<str>,
    number: u64,
    awaited: AtomicBool,
    /// Converts the result to the requested type.
    decode: Option<Py<PyAny>>,
    /// Kept as data: an exception would refer to the frames it passed through, and they to this object.
    outcome: Mutex<Option<Result<Payload, ErrorInfo>>>,
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
            outcome: Mutex::default(),
        }
    }

    /// An operation that is requested while the coroutine is being closed, or that can't be refused again.
    pub(super) fn of_closing(operations: &Arc<Operations>, name: Arc<str>) -> Self {
        Self {
            number: 0,
            key: 0,
            operations: Arc::clone(operations),
            name,
            awaited: AtomicBool::new(true),
            decode: None,
            outcome: Mutex::default(),
        }
    }

    /// The value of an outcome, or the exception that names the operation. Called at every `await`,
    /// so that each gets an exception of its own.
    fn value(&self, py: Python<'_>, outcome: Result<Payload, ErrorInfo>) -> PyResult<Py<PyAny>> {
        let payload = outcome.map_err(|error| {
            let name = match self.number {
                // Rejected before it got a number.
                0 => self.name.to_string(),
                number => format!("{} (operation {number})", self.name),
            };
            error.in_operation(name).into_error(py)
        })?;
        let value = json::read(py, payload.as_str())?;
        match &self.decode {
            Some(decode) => decode.call1(py, (value,)),
            None => Ok(value.unbind()),
        }
    }
}

#[pymethods]
impl Operation {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this.get().awaited.store(true, Ordering::Relaxed);
        this
    }

    /// Only `yield from operation.__await__()` iterates: a loop would never end, because an operation
    /// yields itself until it has an outcome.
    fn __iter__(this: Py<Self>) -> PyResult<Py<Self>> {
        let operation = this.get();
        if operation.awaited.load(Ordering::Relaxed) {
            return Ok(this);
        }
        let name = &operation.name;
        let text = format!("{name} has no items before it is awaited; write `await` before it");
        Err(PyTypeError::new_err(text))
    }

    fn __next__(this: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        this.get().advance(this)
    }

    /// Same as `__next__`; the key is not needed.
    fn send(this: &Bound<'_, Self>, _key: Option<u64>) -> PyResult<Py<Self>> {
        this.get().advance(this)
    }

    /// Identifies the operation within the run.
    #[getter]
    fn key(&self) -> u64 {
        self.key
    }

    /// Cancels the operation, but only in the coroutine itself.
    fn close(&self) {
        self.awaited.store(true, Ordering::Relaxed);
        if self.operations.is_current() {
            self.operations.remove(self.key);
        }
    }
}

impl Operation {
    /// Raises the outcome, or yields the operation itself.
    fn advance(&self, this: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        let py = this.py();
        let known = self.outcome.lock().clone();
        let outcome = match known {
            Some(outcome) => outcome,
            None if self.operations.is_closing() => return Ok(this.clone().unbind()),
            None => match self.operations.poll(self.key) {
                None if self.operations.refuse() => {
                    note_violation(py)?;
                    return Ok(this.clone().unbind());
                }
                None => return Err(wrong_run(py)),
                Some(Poll::Pending) => return Ok(this.clone().unbind()),
                Some(Poll::Ready(outcome)) => {
                    let outcome = outcome.map_err(ErrorInfo::from);
                    self.outcome.lock().insert(outcome).clone()
                }
            },
        };
        // Only the value may end the `await`.
        Err(match self.value(py, outcome) {
            Ok(value) => PyStopIteration::new_err((value,)),
            Err(error) => stop_as_error(py, error),
        })
    }
}

/// Cancels the operation, but only if the coroutine itself dropped it.
impl Drop for Operation {
    fn drop(&mut self) {
        if !self.operations.is_current() {
            return;
        }
        self.operations.remove(self.key);
        if !*self.awaited.get_mut() && !self.operations.failed.load(Ordering::Acquire) {
            Python::attach(|py| {
                // Code that raises an exception drops the operations that it has not awaited.
                let raised = PyErr::take(py);
                warn_never_awaited(py, &self.name);
                if let Some(raised) = raised {
                    raised.restore(py);
                }
            });
        }
    }
}

/// Warns at the current line of the workflow, as Python does for coroutines.
fn warn_never_awaited(py: Python<'_>, name: &str) {
    let text = format!("{name} of a workflow was never awaited and did not start");
    let category = py.get_type::<PyRuntimeWarning>();
    let warned = CString::new(text)
        .map_err(PyErr::from)
        .and_then(|text| PyErr::warn(py, category.as_any(), &text, 1));
    if let Err(error) = warned {
        error.write_unraisable(py, None);
    }
}

/// Blocks the run whose code catches every error, if it is executing.
fn note_violation(py: Python<'_>) -> PyResult<()> {
    py.import("aios._workflows.isolation")?.call_method0("note_endless").map(drop)
}

/// The error of an operation that is not in the table of the running coroutine.
fn wrong_run(py: Python<'_>) -> PyErr {
    let message = "an operation can only be awaited by the workflow run that created it, and not \
                   after it was cancelled";
    ErrorInfo::new("workflow_code", codes::WORKFLOW_CODE, message).into_error(py)
}
