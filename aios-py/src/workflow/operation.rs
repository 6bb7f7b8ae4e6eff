use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use aios_agents::workflow::WorkflowError;
use aios_core::{BoxFuture, event::Payload};
use pyo3::{exceptions::PyStopIteration, prelude::*, sync::PyOnceLock};

use crate::{fault::Fault, json};

type Outcome = Result<Payload, WorkflowError>;
type Call = BoxFuture<'static, Outcome>;

/// The operations of one run that have no outcome yet. They live here and not in their Python
/// objects, so that the garbage collector decides nothing.
#[derive(Default)]
pub(crate) struct Operations(Mutex<State>);

#[derive(Default)]
struct State {
    waker: Option<Waker>,
    last: u64,
    calls: BTreeMap<u64, Call>,
    /// Those of the calls that the coroutine has begun to wait for.
    begun: BTreeSet<u64>,
    /// Outcomes that the coroutine has not taken yet.
    outcomes: BTreeMap<u64, Outcome>,
}

impl Operations {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whom to wake; without it nothing can be awaited.
    pub(super) fn set_waker(&self, waker: Option<Waker>) {
        self.state().waker = waker;
    }

    pub(super) fn add(&self, call: Call) -> u64 {
        let mut state = self.state();
        state.last += 1;
        let key = state.last;
        state.calls.insert(key, call);
        key
    }

    /// Lets those go on that the coroutine waits for, without the interpreter; whether one of them
    /// has an outcome, so that the coroutine can go on.
    pub(super) fn go_on(&self, context: &mut Context<'_>) -> bool {
        let begun = self.state().begun.clone();
        for key in begun {
            let Some(call) = self.state().calls.remove(&key) else { continue };
            if let Poll::Ready(outcome) = self.advance(key, call, context) {
                self.state().outcomes.insert(key, outcome);
            }
        }
        !self.state().outcomes.is_empty()
    }

    /// `None` if the operation is unknown or nothing is being driven.
    fn poll(&self, key: u64) -> Option<Poll<Outcome>> {
        let (waker, call) = {
            let mut state = self.state();
            let waker = state.waker.clone()?;
            if let Some(outcome) = state.outcomes.remove(&key) {
                return Some(Poll::Ready(outcome));
            }
            (waker, state.calls.remove(&key)?)
        };
        Some(self.advance(key, call, &mut Context::from_waker(&waker)))
    }

    fn advance(&self, key: u64, mut call: Call, context: &mut Context<'_>) -> Poll<Outcome> {
        let polled = call.as_mut().poll(context);
        let mut state = self.state();
        if polled.is_pending() {
            state.calls.insert(key, call);
            state.begun.insert(key);
        } else {
            state.begun.remove(&key);
        }
        polled
    }

    fn remove(&self, key: u64) {
        let mut state = self.state();
        state.begun.remove(&key);
        let removed = (state.calls.remove(&key), state.outcomes.remove(&key));
        drop(state);
        drop(removed);
    }

    /// Gives up what is not over, in the order in which it was asked for.
    pub(super) fn clear(&self) {
        let calls = std::mem::take(&mut self.state().calls);
        calls.into_values().for_each(drop);
    }
}

/// What an operation yields while it waits; nothing else may be yielded to the engine.
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
    /// Makes the result what the workflow asked for.
    decode: Option<Py<PyAny>>,
    /// Kept as data: an exception would hold on to the frames that it went through, and they to
    /// this.
    ended: Mutex<Option<Result<Payload, Fault>>>,
}

impl Operation {
    pub(super) fn new(operations: &Arc<Operations>, call: Call, decode: Option<Py<PyAny>>) -> Self {
        let key = operations.add(call);
        Self { operations: Arc::clone(operations), key, decode, ended: Mutex::default() }
    }

    fn value(&self, py: Python<'_>, ended: Result<Payload, Fault>) -> PyResult<Py<PyAny>> {
        let payload = ended.map_err(|fault| fault.into_error(py))?;
        let value = json::read(py, payload.as_str())?;
        match &self.decode {
            Some(decode) => decode.call1(py, (value,)),
            None => Ok(value.unbind()),
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<Result<Payload, Fault>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Operation {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<Pending>> {
        let before = self.ended().clone();
        let ended = match before {
            Some(ended) => ended,
            None => match self.operations.poll(self.key).ok_or_else(|| misplaced(py))? {
                Poll::Pending => return Ok(Pending::instance(py)?.clone_ref(py)),
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

    /// Gives the operation up: a timer is forgotten, a task is cancelled.
    fn close(&self) {
        self.operations.remove(self.key);
    }
}

fn misplaced(py: Python<'_>) -> PyErr {
    let message = "an operation can only be awaited by the workflow run that asked for it, and not \
                   after it was given up";
    Fault::new("workflow_code", "WORKFLOW_CODE", message).into_error(py)
}
