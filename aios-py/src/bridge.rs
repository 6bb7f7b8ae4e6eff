//! The way from aios's threads into a Python event loop.
//!
//! Nobody who uses it takes the interpreter's lock: jobs are queued, and a byte in a socket pair
//! wakes the loop, which runs them on its own thread. So a busy interpreter delays Python only.

use std::{
    collections::VecDeque,
    fmt,
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aios_agents::agent::{Beat, Pulse};
use pyo3::prelude::*;

/// Jobs that are done in one turn of the loop.
const TURN: usize = 256;

/// Calls of a blocked loop that are named.
const FRAMES: usize = 16;

/// Something to do on the loop's thread.
pub(crate) type Job = Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>;

/// Jobs for one loop. As many wait as there are tasks and calls under way, which their givers bound.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// The sending end.
pub(crate) struct Bridge {
    queue: Mutex<Queue>,
    /// Whether the loop knows that there are jobs: a byte is in the socket, or it does jobs now.
    signalled: AtomicBool,
    waker: UnixStream,
}

impl Bridge {
    /// Has a job done on the loop's thread. It is dropped if the bridge is closed.
    pub(crate) fn push(&self, job: Job) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            drop(queue);
            return drop(job);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.signal();
    }

    /// At most so many jobs, the oldest.
    fn take(&self, limit: usize) -> Vec<Job> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.jobs.len().min(limit);
        queue.jobs.drain(..count).collect()
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).jobs.is_empty()
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // A full socket is a signal too; a broken one belongs to a loop that is gone.
            let _ = (&self.waker).write(&[1]);
        }
    }
}

/// The loop as the host of its agents watches it.
pub(crate) struct LoopPulse {
    bridge: Arc<Bridge>,
    thread: u64,
}

impl Pulse for LoopPulse {
    fn probe(&self, beat: Beat) {
        self.bridge.push(Box::new(move |_| {
            beat.beat();
            Ok(())
        }));
    }

    fn stack(&self) -> Option<String> {
        Python::try_attach(|py| stack(py, self.thread).ok())?
    }
}

impl fmt::Debug for LoopPulse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoopPulse").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// What a Python thread does, in one line, from the inside out.
fn stack(py: Python<'_>, thread: u64) -> PyResult<String> {
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let mut frame = frames.get_item(thread)?;
    let mut calls = Vec::new();
    while !frame.is_none() && calls.len() < FRAMES {
        let code = frame.getattr("f_code")?;
        let (name, file) = (code.getattr("co_name")?, code.getattr("co_filename")?);
        calls.push(format!("{name} ({file}:{})", frame.getattr("f_lineno")?));
        frame = frame.getattr("f_back")?;
    }
    Ok(calls.join(" < "))
}

/// The end of a turn, however it ends: what is left has to wait until the loop has seen to everything
/// else.
struct Rest<'a>(&'a Bridge);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.signalled.store(false, Ordering::Release);
        // Looked at after that: whoever gave a job before relied on the turn.
        if !self.0.is_empty() {
            self.0.signal();
        }
    }
}

/// The receiving end, which a loop reads.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct LoopBridge {
    pub(crate) bridge: Arc<Bridge>,
    reader: UnixStream,
    pub(crate) event_loop: Py<PyAny>,
    /// Python's name of the loop's thread, on which this is made.
    thread: u64,
}

impl LoopBridge {
    pub(crate) fn pulse(&self) -> Arc<LoopPulse> {
        Arc::new(LoopPulse { bridge: Arc::clone(&self.bridge), thread: self.thread })
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
        let bridge = Bridge { queue: Mutex::default(), signalled: AtomicBool::new(false), waker };
        Ok(Self { bridge: Arc::new(bridge), reader, event_loop, thread })
    }

    /// The file descriptor to watch.
    fn fileno(&self) -> i32 {
        self.reader.as_raw_fd()
    }

    /// The file descriptor that wakes the loop by a byte.
    fn wakeup_fileno(&self) -> i32 {
        self.bridge.waker.as_raw_fd()
    }

    /// Does the jobs that wait. Called by the loop.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 16];
        match (&self.reader).read(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        // Jobs that are given meanwhile, often by these jobs, are done at once and need no byte.
        self.bridge.signalled.store(true, Ordering::Release);
        let _rest = Rest(&self.bridge);
        let mut left = TURN;
        while left > 0 {
            let jobs = self.bridge.take(left);
            if jobs.is_empty() {
                break;
            }
            left -= jobs.len();
            for job in jobs {
                if let Err(error) = job(py) {
                    error.write_unraisable(py, Some(self.event_loop.bind(py)));
                }
            }
        }
        Ok(())
    }

    /// Drops what waits and takes no more.
    fn close(&self) {
        let mut queue = self.bridge.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
    }
}
