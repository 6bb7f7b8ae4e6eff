//! The queue of plain Python functions, and the threads that call them.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex};
use pyo3::{prelude::*, types::PyTuple};

/// Prepares a function and its arguments for the call, with the interpreter attached. `None` if the
/// call is obsolete.
pub(super) type PrepareCall =
    Box<dyn FnOnce(Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> + Send>;

/// Calls that wait for a thread. Bounded by the number of tasks and steps in progress.
#[derive(Default)]
pub(crate) struct CallQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: VecDeque<PrepareCall>,
    closed: bool,
    threads: usize,
    idle: usize,
}

impl CallQueue {
    pub(super) fn push(&self, call: PrepareCall) {
        let mut state = self.state.lock();
        if !state.closed {
            state.calls.push_back(call);
            self.changed.notify_one();
        }
    }

    fn pop(&self) -> Option<PrepareCall> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(call) = state.calls.pop_front() {
                return Some(call);
            }
            state.idle += 1;
            self.changed.wait(&mut state);
            state.idle -= 1;
        }
    }

    /// Reserves the next thread if every thread is busy and there are fewer than `limit`.
    fn reserve_thread(&self, limit: usize) -> Option<usize> {
        let mut state = self.state.lock();
        let grows = !state.closed && state.idle <= state.calls.len() && state.threads < limit;
        grows.then(|| {
            state.threads += 1;
            state.threads
        })
    }

    /// Undoes a reservation, because the thread could not be started.
    fn release_thread(&self) {
        let mut state = self.state.lock();
        state.threads = state.threads.saturating_sub(1);
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        drop(calls);
        self.changed.notify_all();
    }
}

/// A pool of Python threads. `aios._threads` starts the threads.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct ThreadPool {
    pub(crate) queue: Arc<CallQueue>,
}

#[pymethods]
impl ThreadPool {
    #[new]
    fn new() -> Self {
        Self { queue: Arc::default() }
    }

    /// The number of the thread to start, or `None` if a thread is idle or there are `limit`.
    fn reserve_thread(&self, limit: usize) -> Option<usize> {
        self.queue.reserve_thread(limit)
    }

    /// Undoes `reserve_thread`, because the thread could not be started.
    fn release_thread(&self) {
        self.queue.release_thread();
    }

    /// Ends the threads. Queued functions are not called.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.queue.close());
    }

    /// Waits for the next function, and returns it with its arguments. `None` once the pool is closed.
    fn next(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        loop {
            let prepare = py.detach(|| self.queue.pop())?;
            if let Some(call) = prepare(py) {
                return Some(call);
            }
        }
    }
}
