//! The queue of plain Python functions, and the threads that call them.
//!
//! The threads are Python threads: `aios._threads` starts them, and each calls [`ThreadPool::next`]
//! in a loop. `next` releases the interpreter's lock while it waits, so idle threads cost the
//! interpreter nothing. A native thread that queues a call needs only the lock of the queue.
//!
//! Threads are started on demand, and by each other: the first is started with the pool, and a
//! thread that got a call starts another one if no idle thread would be left for the next call, up
//! to a limit. So a native thread never has to start a Python thread. `reserve_thread` counts the
//! new thread before it exists, so that two threads do not both start the last one; the reservation
//! is undone if the system refuses a thread.
//!
//! A thread that got a call prepares it with the interpreter attached, outside the lock of the
//! queue. A call that nothing waits for any more prepares to nothing, and the thread takes the
//! next.
//!
//! A function can't be stopped. If nothing waits for it any more, because its attempt timed out or was
//! cancelled, it still occupies its thread. The host of agents knows that of its tasks; for all other
//! functions a [`ThreadCall`] reports it, because the calls that wait for a thread would otherwise wait
//! for an unknown reason.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex};
use pyo3::{prelude::*, types::PyTuple};
use tracing::{info, warn};

/// Prepares a function and its arguments for the call, with the interpreter attached. `None` if the
/// call is obsolete.
pub(super) type PrepareCall =
    Box<dyn FnOnce(Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> + Send>;

/// Calls that wait for a thread. Bounded by the number of tasks and steps in progress.
#[derive(Default)]
pub(crate) struct CallQueue {
    /// Never held while a call is prepared or dropped: both may need the interpreter.
    state: Mutex<State>,
    /// Notified of a new call, and of the end.
    changed: Condvar,
}

/// The state of a queue. `idle` counts the threads that wait in `pop`, `threads` those that were
/// reserved.
#[derive(Default)]
struct State {
    /// The calls, oldest first.
    calls: VecDeque<PrepareCall>,
    /// Whether the threads end. Further calls are dropped.
    closed: bool,
    /// The number of threads that run or are about to start.
    threads: usize,
    /// How many threads wait for a call.
    idle: usize,
    /// How many threads there may be.
    limit: usize,
    /// How many threads run a function for which nothing waits.
    occupied: usize,
}

impl CallQueue {
    /// Queues a call, and wakes a thread. The call is dropped if the queue is closed.
    pub(super) fn push(&self, call: PrepareCall) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.calls.push_back(call);
        self.changed.notify_one();
        let (occupied, waits) = (state.occupied, state.calls.len());
        let is_first_to_wait = waits == 1 && occupied > 0 && occupied >= state.limit;
        drop(state);
        if is_first_to_wait {
            warn!(
                occupied,
                "a plain function waits for a thread: all of them run functions whose attempts have \
                 ended"
            );
        }
    }

    /// A function runs although nothing waits for it.
    fn occupy(&self, function: &str) {
        let mut state = self.state.lock();
        state.occupied += 1;
        let (occupied, threads, waiting) = (state.occupied, state.limit, state.calls.len());
        let is_closed = state.closed;
        drop(state);
        if !is_closed {
            warn!(
                function,
                occupied,
                threads,
                waiting,
                "a plain function is still running after its attempt ended, and keeps its thread busy"
            );
        }
    }

    /// Such a function has ended.
    fn vacate(&self, function: &str) {
        let mut state = self.state.lock();
        state.occupied = state.occupied.saturating_sub(1);
        let occupied = state.occupied;
        drop(state);
        info!(function, occupied, "a plain function whose attempt had ended has returned");
    }

    /// Waits for the next call; `None` once the queue is closed. Must not be called with the
    /// interpreter attached, because it blocks.
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

    /// Reserves the next thread unless there are idle ones for more than the calls that wait, or
    /// there are `limit` threads.
    fn reserve_thread(&self, limit: usize) -> Option<usize> {
        let mut state = self.state.lock();
        state.limit = limit;
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

    /// Ends the threads once they have finished their calls, and drops the calls that wait. They
    /// are dropped outside the lock: the drop of a call reports to the host of its task.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        drop(calls);
        self.changed.notify_all();
    }
}

/// How far a function is that is called in a thread.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Waiting,
    Running,
    /// It has returned.
    Ended,
    /// Nothing waits for it.
    Abandoned,
}

/// A function that waits for a thread or runs in one.
pub(crate) struct ThreadCall {
    queue: Arc<CallQueue>,
    /// Names the function.
    name: Arc<str>,
    /// Locked before the state of the queue.
    progress: Mutex<Progress>,
}

impl ThreadCall {
    pub(super) fn new(queue: &Arc<CallQueue>, name: Arc<str>) -> Arc<Self> {
        let progress = Mutex::new(Progress::Waiting);
        Arc::new(Self { queue: Arc::clone(queue), name, progress })
    }

    /// A thread begins the function. Returns whether anything waits for it.
    pub(super) fn begin(&self) -> bool {
        self.advance(Progress::Running) != Progress::Abandoned
    }

    /// The function has ended.
    pub(super) fn end(&self) {
        self.advance(Progress::Ended);
    }

    /// Sets the progress, and returns the one before. The queue counts the function under the same lock:
    /// it may end while it is abandoned.
    fn advance(&self, next: Progress) -> Progress {
        let mut progress = self.progress.lock();
        let before = std::mem::replace(&mut *progress, next);
        match (before, next) {
            (Progress::Running, Progress::Abandoned) => self.queue.occupy(&self.name),
            (Progress::Abandoned, Progress::Ended) => self.queue.vacate(&self.name),
            _ => {}
        }
        before
    }
}

/// Reports a function that still runs when nothing waits for it any more.
pub(super) struct ThreadGuard(pub(super) Arc<ThreadCall>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.0.advance(Progress::Abandoned);
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
