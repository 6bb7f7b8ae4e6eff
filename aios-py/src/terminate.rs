//! Ends a process that is asked to stop, whatever its Python code does.
//!
//! Python's own handlers of signals run between two steps of the main thread. A thread of Rust reads
//! the descriptor that the interpreter writes each signal to, for which it takes no lock.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::parent_id},
    },
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::{
    bridge::{Bridge, LoopBridge},
    core::Core,
    opened::Closing,
    workflow::seconds,
};

/// The exit status of a process whose code had to be ended. It is that of a temporary failure.
const UNFINISHED: i32 = 75;

/// How long everything else may take, after the tasks: handing over, and closing.
const MARGIN: Duration = Duration::from_secs(3);

/// How often the thread looks whether the parent is there.
const PARENT_CHECK: Duration = Duration::from_secs(1);

/// A byte that is no signal: stop now.
const NOW: u8 = 0;

/// Stops the runtime of a process on a signal, and ends the process at the deadline.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Terminator {
    shared: Arc<Shared>,
    /// The end that the interpreter writes signals to.
    waker: UnixStream,
}

struct Shared {
    bridge: Arc<Bridge>,
    /// Called on the loop when the process is to stop.
    stop: Py<PyAny>,
    deadline: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be closed, once it is open, and the threads on which that is done.
    opened: Option<(Closing, Handle)>,
    is_over: bool,
    /// Why closing did not go as it should.
    error: Option<String>,
}

#[pymethods]
impl Terminator {
    /// Stops by these signals, or when the process `parent` is gone: `stop` is called on the loop of
    /// `bridge`, and the process ends when it has not called `done` some seconds after `deadline`.
    #[new]
    #[pyo3(signature = (bridge, stop, deadline, signals, parent))]
    fn new(
        py: Python<'_>,
        bridge: &LoopBridge,
        stop: Py<PyAny>,
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
            deadline: seconds(py, deadline)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let watching = Arc::clone(&shared);
        let watch = move || {
            if watching.is_asked_to_stop(&reader, &signals, parent) {
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

    /// What is to be closed is open.
    fn attach(&self, core: &Core) {
        self.shared.state().opened = Some(core.closing());
        self.shared.changed.notify_all();
    }

    /// Stops now, as if a signal had come.
    fn stop(&self) {
        // A full socket has signals that say the same.
        let _ = (&self.waker).write(&[NOW]);
    }

    /// It has stopped; the process goes on.
    fn done(&self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a signal, or for the death of the parent; false if it is over before.
    fn is_asked_to_stop(
        &self,
        mut reader: &UnixStream,
        signals: &[u8],
        parent: Option<u32>,
    ) -> bool {
        let mut byte = [0];
        loop {
            let read = reader.read(&mut byte);
            if self.state().is_over {
                return false;
            }
            match read {
                Ok(1) if byte == [NOW] || signals.contains(&byte[0]) => return true,
                // A signal that Python handles: its loop has to wake up for that.
                Ok(1) => self.bridge.push(Box::new(|_| Ok(()))),
                Ok(_) => return false,
                Err(error) if is_pause(error.kind()) => {
                    if parent.is_some_and(|parent| parent != parent_id()) {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Closes what is open beside Python, and ends the process if that does not end by itself.
    fn terminate(self: &Arc<Self>) {
        let asked = Arc::clone(self);
        self.bridge.push(Box::new(move |py| asked.stop.call0(py).map(drop)));
        let state = self.state();
        let late = self.changed.wait_timeout_while(state, self.deadline + MARGIN, |it| {
            self.close_when_open(it);
            !it.is_over
        });
        let (state, _) = late.unwrap_or_else(PoisonError::into_inner);
        if !state.is_over {
            exit(state.error.as_deref());
        }
    }

    fn close_when_open(self: &Arc<Self>, state: &mut State) {
        let Some((closing, tokio)) = state.opened.take() else { return };
        let (shared, deadline) = (Arc::clone(self), self.deadline);
        tokio.spawn(async move {
            if let Err(fault) = closing.close_unheard(deadline).await {
                shared.state().error = Some(fault.message().to_owned());
            }
        });
    }
}

/// Whether a read ended because nothing came for a while.
fn is_pause(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Ends the process at once: no handler at exit may wait for the code that does not end.
fn exit(error: Option<&str>) -> ! {
    let why = error.unwrap_or("Python code does not give back control");
    // Not by `logging`, which needs the interpreter.
    let _ = writeln!(
        std::io::stderr(),
        "aios: the process ends with status {UNFINISHED}, because it did not stop in time: {why}"
    );
    signal_hook::low_level::exit(UNFINISHED)
}

impl fmt::Debug for Terminator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Terminator").finish_non_exhaustive()
    }
}
