//! Runs jobs on the thread of a Python event loop.
//!
//! Native threads submit jobs without the interpreter's lock: a job is queued, and a byte in a
//! socket pair wakes the loop, which runs the jobs on its own thread. A busy interpreter delays
//! only Python.
//!
//! # How the loop is woken
//!
//! The loop watches one end of the socket pair as a reader (`loop.add_reader`), and calls
//! [`LoopBridge::run_jobs`] when there is a byte. A byte per job would cost a system call per job,
//! so a flag, `signalled`, tells whether the loop knows already that there is work:
//!
//! 1. A thread that submits a job queues it, and then sets the flag. Only the thread that finds the
//!    flag unset writes a byte.
//! 2. `run_jobs` reads the bytes, sets the flag itself, and runs jobs. Jobs that are submitted
//!    while it runs are queued without a byte; it takes them in the same turn.
//! 3. At the end of the turn it unsets the flag, and then looks at the queue again. A job that was
//!    submitted before the flag was unset did not write a byte, so it is signalled here.
//!
//! The order in the third step matters: if the queue were looked at first, a job that comes between
//! the look and the store would have neither a byte nor a turn, and would wait until the next job.
//!
//! A turn runs at most [`JOBS_PER_TURN`] jobs. After that, the loop serves its timers and its other
//! sockets before it comes back; otherwise a busy runtime could keep the code of the application
//! from running.
//!
//! # The end
//!
//! `close` drops the queued jobs and all later ones. A job owns what it would have answered, so
//! dropping it tells the other side: the receiver of a dropped [`Reply`](super::Reply) sees that
//! its function will not run.

use std::{
    collections::VecDeque,
    fmt,
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aios_agents::agent::{Beat, Pulse};
use parking_lot::Mutex;
use pyo3::{
    exceptions::{PyKeyboardInterrupt, PySystemExit},
    prelude::*,
    sync::PyOnceLock,
};

/// Maximum number of jobs per iteration of the loop.
const JOBS_PER_TURN: usize = 256;

/// Maximum number of stack frames in the report of a blocked loop.
const MAX_FRAMES: usize = 16;

/// A job for the loop's thread.
pub(crate) type Job = Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>;

/// Jobs of one loop. Bounded by the number of tasks and calls in progress.
///
/// There is no limit of its own: a job belongs to a task, a call or a run, and those have limits.
#[derive(Default)]
struct JobQueue {
    /// The jobs, oldest first.
    jobs: VecDeque<Job>,
    /// Whether further jobs are dropped.
    closed: bool,
}

/// Submits jobs to a loop. Shared by the native threads; [`LoopBridge`] runs the jobs.
pub(crate) struct Bridge {
    /// The lock is held only to add or take jobs, never while one runs or is dropped.
    queue: Mutex<JobQueue>,
    /// Whether the loop will see new jobs: a byte is in the socket, or the loop is running jobs.
    signalled: AtomicBool,
    /// Whether a job was submitted since a native thread asked last.
    handed_over: AtomicBool,
    /// The end of the socket pair to which the byte is written.
    waker: UnixStream,
    /// Python's identifier of the loop's thread.
    thread: u64,
}

impl Bridge {
    /// Python's identifier of the loop's thread.
    pub(super) fn thread(&self) -> u64 {
        self.thread
    }

    /// Submits a job. It is dropped if the bridge is closed.
    ///
    /// Does not need the interpreter's lock, and does not wait for the loop. A job that is dropped
    /// here is dropped outside the lock of the queue, because its drop may submit another job.
    pub(crate) fn push(&self, job: Job) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return drop(job);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.handed_over.store(true, Ordering::Relaxed);
        self.signal();
    }

    /// Raises an exception out of the loop, before it runs other jobs.
    pub(crate) fn raise(&self, error: PyErr) {
        self.put_back([Box::new(move |_: Python<'_>| Err(error)) as Job]);
        self.signal();
    }

    /// Puts jobs before all others. They are dropped if the bridge is closed.
    fn put_back(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut jobs: VecDeque<Job> = jobs.into_iter().collect();
        let mut queue = self.queue.lock();
        if !queue.closed {
            jobs.append(&mut queue.jobs);
            std::mem::swap(&mut queue.jobs, &mut jobs);
        }
        // What is left is dropped outside the lock.
        drop(queue);
    }

    /// Whether a job was submitted since the last call of this.
    pub(super) fn take_handed_over(&self) -> bool {
        self.handed_over.swap(false, Ordering::Relaxed)
    }

    /// Takes at most `limit` jobs, oldest first.
    fn take(&self, limit: usize) -> Vec<Job> {
        let mut queue = self.queue.lock();
        let count = queue.jobs.len().min(limit);
        queue.jobs.drain(..count).collect()
    }

    /// Whether no job waits.
    fn is_empty(&self) -> bool {
        self.queue.lock().jobs.is_empty()
    }

    /// Makes sure that the loop will look at the queue.
    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // A full socket wakes the loop too; a broken one belongs to a closed loop.
            let _ = (&self.waker).write(&[1]);
        }
    }
}

/// How the host of agents detects that their loop is blocked.
///
/// The host asks for a beat now and then. It is a job like every other, so it comes late exactly if
/// the loop is late. Once the loop has been blocked for too long, the host asks for the stack of
/// its thread, to say in a warning which code blocks it.
pub(crate) struct LoopPulse {
    bridge: Arc<Bridge>,
}

impl Pulse for LoopPulse {
    fn probe(&self, beat: Beat) {
        self.bridge.push(Box::new(move |_| {
            beat.beat();
            Ok(())
        }));
    }

    /// Waits for the interpreter's lock, which code that blocks the loop usually releases: the
    /// interpreter switches threads every few milliseconds, and blocking calls release it. `None`
    /// if the interpreter is not running.
    fn stack(&self) -> Option<String> {
        Python::try_attach(|py| stack(py, self.bridge.thread).ok())?
    }
}

impl fmt::Debug for LoopPulse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LoopPulse")
            .field("thread", &self.bridge.thread)
            .finish_non_exhaustive()
    }
}

/// The stack of a Python thread in one line, innermost call first, at most [`MAX_FRAMES`] calls.
/// Uses `sys._current_frames`, which lists the stacks by thread and does not stop the thread.
fn stack(py: Python<'_>, thread: u64) -> PyResult<String> {
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let mut frame = frames.get_item(thread)?;
    let mut calls = Vec::new();
    while !frame.is_none() && calls.len() < MAX_FRAMES {
        let code = frame.getattr("f_code")?;
        let name = code.getattr("co_name")?;
        let file = code.getattr("co_filename")?;
        calls.push(format!("{name} ({file}:{})", frame.getattr("f_lineno")?));
        frame = frame.getattr("f_back")?;
    }
    Ok(calls.join(" < "))
}

/// Whether an exception ends the process, and is not the outcome of the code in which it was raised: a
/// `KeyboardInterrupt`, or a `SystemExit` of a signal handler, which the interpreter may call in the
/// middle of any code on the main thread. A `SystemExit` of the code itself is a failure of it.
pub(crate) fn ends_process(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py)
        || error.is_instance_of::<PySystemExit>(py) && is_raised_by_handler(py, error)
}

/// Calls `aios._signals.is_raised_by_handler`. An exception that can't be examined counts as one of a
/// handler: the run is then loaded again, which loses nothing.
fn is_raised_by_handler(py: Python<'_>, error: &PyErr) -> bool {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = FUNCTION.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._signals")?.getattr("is_raised_by_handler")?.unbind())
    });
    let answer =
        function.and_then(|it| it.bind(py).call1((error.traceback(py),))?.extract::<bool>());
    answer.unwrap_or(true)
}

/// Ends an iteration, even on a panic: the remaining jobs wait until the loop has run its other
/// callbacks.
struct TurnEnd<'a>(&'a Bridge);

impl Drop for TurnEnd<'_> {
    fn drop(&mut self) {
        self.0.signalled.store(false, Ordering::Release);
        // Checked after the store: a job submitted before it did not write a byte.
        if !self.0.is_empty() {
            self.0.signal();
        }
    }
}

/// Runs the jobs; attached to an event loop as a reader.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct LoopBridge {
    pub(crate) bridge: Arc<Bridge>,
    /// The end of the socket pair that the loop watches.
    reader: UnixStream,
    pub(crate) event_loop: Py<PyAny>,
}

impl LoopBridge {
    /// The pulse of the loop, for the host of agents.
    pub(crate) fn pulse(&self) -> Arc<LoopPulse> {
        Arc::new(LoopPulse { bridge: Arc::clone(&self.bridge) })
    }
}

#[pymethods]
impl LoopBridge {
    #[new]
    fn new(py: Python<'_>, event_loop: Py<PyAny>) -> PyResult<Self> {
        let thread = py.import("threading")?.call_method0("get_ident")?.extract()?;
        let (reader, waker) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let bridge = Bridge {
            queue: Mutex::default(),
            signalled: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            waker,
            thread,
        };
        Ok(Self { bridge: Arc::new(bridge), reader, event_loop })
    }

    /// The file descriptor that the loop watches.
    fn fileno(&self) -> i32 {
        self.reader.as_raw_fd()
    }

    /// The file descriptor to which a byte is written to wake the loop.
    fn wakeup_fileno(&self) -> i32 {
        self.bridge.waker.as_raw_fd()
    }

    /// Runs queued jobs. Called by the loop.
    ///
    /// An exception that ends the process leaves the loop, as it does when the callback of another
    /// library raises it. Jobs that follow stay in the queue.
    fn run_jobs(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 16];
        match (&self.reader).read(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        // Jobs submitted meanwhile, often by these jobs, run in this iteration and need no byte.
        self.bridge.signalled.store(true, Ordering::Release);
        let _end = TurnEnd(&self.bridge);
        let mut left = JOBS_PER_TURN;
        while left > 0 {
            let jobs = self.bridge.take(left);
            if jobs.is_empty() {
                break;
            }
            left -= jobs.len();
            let mut jobs = jobs.into_iter();
            while let Some(job) = jobs.next() {
                match job(py) {
                    Ok(()) => {}
                    Err(error) if ends_process(py, &error) => {
                        self.bridge.put_back(jobs);
                        return Err(error);
                    }
                    Err(error) => error.write_unraisable(py, Some(self.event_loop.bind(py))),
                }
            }
        }
        Ok(())
    }

    /// Drops the queued jobs, and all later ones.
    fn close(&self) {
        let mut queue = self.bridge.queue.lock();
        queue.closed = true;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
    }
}
