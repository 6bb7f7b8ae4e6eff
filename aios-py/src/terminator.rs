//! Ends a process that received a stop signal, whatever its Python code does.
//!
//! Python's signal handlers run between two bytecode instructions of the main thread, which may be
//! blocked. A native thread therefore reads the descriptor to which the interpreter writes every
//! signal, without the interpreter's lock.
//!
//! # The thread
//!
//! The interpreter's own C handler of a signal writes its number to the descriptor of
//! `signal.set_wakeup_fd`, which is one end of a socket pair here. The thread reads the other end,
//! with a timeout of a second, after which it checks that the parent process is alive. A worker
//! whose parent has died has no one to stop it, so that counts as a stop signal.
//!
//! A socket pair can have one reader, so the event loop no longer learns of signals from the
//! descriptor. For every other signal the thread pushes an empty job: the loop wakes up, and the
//! interpreter runs its handler.
//!
//! # A stop
//!
//! 1. A job calls `stop` on the event loop, which ends the application in the usual way if the loop
//!    runs.
//! 2. The session is closed on the native threads, whether or not the loop runs: its servers accept
//!    connections for their delay, tasks get the deadline, then leases are released, and other processes
//!    take the shards over at once. If the client is not open yet, this happens when it is.
//! 3. If Python does not call `done` within the delay, the deadline and [`MARGIN`], the process exits
//!    with [`EXIT_STATUS`]. Exit handlers are skipped: they need the interpreter, which the blocked code
//!    may hold.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::parent_id},
    },
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::{
    client::NativeClient,
    convert::seconds,
    python::{Bridge, LoopBridge},
    session::SessionCloser,
};

/// The exit status of a process whose code did not end in time: `EX_TEMPFAIL`.
const EXIT_STATUS: i32 = 75;

/// How long the rest of the shutdown may take after the tasks: releasing leases, and closing.
const MARGIN: Duration = Duration::from_secs(3);

/// How often the thread checks that the parent is alive.
const PARENT_CHECK: Duration = Duration::from_secs(1);

/// A byte that is not a signal number: stop now.
const STOP_NOW: u8 = 0;

/// Stops the runtime of a process on a signal, and ends the process after the deadline.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Terminator {
    /// Shared with the thread.
    shared: Arc<Shared>,
    /// The end to which the interpreter writes signal numbers.
    waker: UnixStream,
}

/// Shared by the object in Python, the thread, and the task that closes the session.
struct Shared {
    /// The event loop that is woken and told to stop.
    bridge: Arc<Bridge>,
    /// Called on the event loop when the process should stop.
    stop: Py<PyAny>,
    /// How long servers may accept connections after the signal.
    accept_delay: Duration,
    /// How long running tasks may take to end after that.
    deadline: Duration,
    /// Locked for moments only; waiting for `changed` releases it.
    state: Mutex<State>,
    /// Notified when the client is attached, and at the end.
    changed: Condvar,
}

/// How far the process is.
#[derive(Default)]
struct State {
    /// The closer of the session once it is open, and the threads on which to run it.
    session: Option<(SessionCloser, Handle)>,
    /// Whether the runtime has stopped, so that the process may continue.
    is_done: bool,
    /// Why closing the session failed.
    error: Option<String>,
}

#[pymethods]
impl Terminator {
    /// Waits for one of the signals, or for the end of the process `parent`. Then `stop` is called on
    /// the loop of `bridge`, and the process ends unless it calls `done` within `accept_delay`,
    /// `deadline` and some seconds.
    #[new]
    #[pyo3(signature = (bridge, stop, accept_delay, deadline, signals, parent))]
    fn new(
        py: Python<'_>,
        bridge: &LoopBridge,
        stop: Py<PyAny>,
        accept_delay: f64,
        deadline: f64,
        signals: Vec<u8>,
        parent: Option<u32>,
    ) -> PyResult<Self> {
        let (reader, waker) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        reader.set_read_timeout(Some(PARENT_CHECK))?;
        let shared = Arc::new(Shared {
            bridge: Arc::clone(&bridge.bridge),
            stop,
            accept_delay: seconds(py, "accept_delay", accept_delay)?,
            deadline: seconds(py, "shutdown_timeout", deadline)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let watching = Arc::clone(&shared);
        let watch = move || {
            if watching.wait_for_stop(&reader, &signals, parent) {
                watching.terminate();
            }
        };
        thread::Builder::new().name("aios-signals".to_owned()).spawn(watch)?;
        Ok(Self { shared, waker })
    }

    /// The descriptor for `signal.set_wakeup_fd`.
    fn wakeup_fileno(&self) -> i32 {
        self.waker.as_raw_fd()
    }

    /// Sets the client to close.
    fn attach(&self, client: &NativeClient) {
        self.shared.state.lock().session = Some(client.closer());
        self.shared.changed.notify_all();
    }

    /// Stops the process as if it had received a signal.
    fn stop(&self) {
        // A full socket already contains signals.
        let _ = (&self.waker).write(&[STOP_NOW]);
    }

    /// The runtime has stopped; the process continues.
    fn done(&self) {
        self.shared.state.lock().is_done = true;
        self.shared.changed.notify_all();
        self.stop();
    }
}

impl Shared {
    /// Waits for a signal or the end of the parent. Returns false if the runtime stopped before.
    fn wait_for_stop(&self, mut reader: &UnixStream, signals: &[u8], parent: Option<u32>) -> bool {
        let mut byte = [0];
        loop {
            let read = reader.read(&mut byte);
            if self.state.lock().is_done {
                return false;
            }
            match read {
                Ok(1) if byte == [STOP_NOW] || signals.contains(&byte[0]) => return true,
                // Another signal, which Python handles once its loop wakes up.
                Ok(1) => self.bridge.push(Box::new(|_| Ok(()))),
                Ok(_) => return false,
                Err(error) if is_timeout(error.kind()) => {
                    if parent.is_some_and(|parent| parent != parent_id()) {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Closes the session independently of Python, and ends the process if it does not stop in time.
    fn terminate(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.bridge.push(Box::new(move |py| shared.stop.call0(py).map(drop)));
        let mut state = self.state.lock();
        let is_running = |state: &mut State| {
            self.close_when_open(state);
            !state.is_done
        };
        let limit = self.accept_delay.saturating_add(self.deadline).saturating_add(MARGIN);
        self.changed.wait_while_for(&mut state, is_running, limit);
        if !state.is_done {
            exit(state.error.as_deref());
        }
    }

    /// Begins to close the session if it is known. Called again when the client is attached.
    fn close_when_open(self: &Arc<Self>, state: &mut State) {
        let Some((closer, tokio)) = state.session.take() else { return };
        let shared = Arc::clone(self);
        let deadline = self.deadline;
        tokio.spawn(async move {
            if let Err(error) = closer.close_in_background(deadline).await {
                shared.state.lock().error = Some(error.message().to_owned());
            }
        });
    }
}

/// Whether a read timed out or was interrupted.
fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Ends the process immediately, without exit handlers, which could wait for the blocked code.
fn exit(error: Option<&str>) -> ! {
    let why = error.unwrap_or("Python code did not return control");
    // `logging` would need the interpreter.
    let _ = writeln!(
        std::io::stderr(),
        "aios: exiting with status {EXIT_STATUS} because the process did not stop in time: {why}"
    );
    signal_hook::low_level::exit(EXIT_STATUS)
}

impl fmt::Debug for Terminator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Terminator").finish_non_exhaustive()
    }
}
