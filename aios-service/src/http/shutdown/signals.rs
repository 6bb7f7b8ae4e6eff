//! Signals that ask the process to end.
//!
//! Their handlers stay for the rest of the process, even when nothing waits for the signals any more. So a
//! task waits for them from the beginning of a start. It runs on a thread of its own, because code of the
//! program may block every thread of its runtime:
//!
//! ```text
//! start ── succeeded ──► the first signal begins the shutdown; the task ends with its last clone.
//!   │                    The process exits later if it still runs
//!   ├── a signal ──────► the start fails with `Interrupted`
//!   └── failed or cancelled ──► a signal ends the process, unless something else waits for it
//! ```

use std::{
    io::{self, Write},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use aios_core::clock::{Clock, SystemClock};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    task::AbortHandle,
};

use super::{Shutdown, State};

/// Exit status of a process that a signal ends, without the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

/// Exit status of a process that did not end in time after a signal: `EX_TEMPFAIL`.
const NOT_ENDED: i32 = 75;

/// How long it may take to say so.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread on which the tasks here run, once it has started.
static THREAD: Mutex<Option<Handle>> = Mutex::new(None);

/// When the process exits at the latest, by the elapsed time of the system clock.
static EXIT_AT: Mutex<Duration> = Mutex::new(Duration::ZERO);

/// How many starts and shutdowns of this process wait for signals. Signals are for the whole process, so
/// what a failed start leaves has to know of the others.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The task that the last failed start has left. It replaces that of the one before.
static LEFT: Mutex<Option<AbortHandle>> = Mutex::new(None);

/// A start whose signals are handled. If it is dropped because the start fails or is cancelled, the
/// signals end the process as they do without handlers, also one that came during the start.
#[derive(Debug)]
pub(crate) struct Starting {
    ended: oneshot::Sender<Ended>,
    /// The first signal that came during the start.
    signal: watch::Receiver<Option<i32>>,
    task: AbortHandle,
}

/// How a start has ended, unless it failed or was cancelled.
#[derive(Debug)]
enum Ended {
    Succeeded,
    /// The program knows of the signal.
    Interrupted,
}

/// The task that waits for signals. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Attendant(AbortHandle);

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts a start or a shutdown that waits for signals.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Starting {
    /// Registers the handlers at once, so that no signal is missed.
    pub(super) fn begin(shutdown: &Shutdown) -> io::Result<Self> {
        let thread = signal_thread()?;
        let signals = {
            let _entered = thread.enter();
            Signals::listen()?
        };
        let (ended, end) = oneshot::channel();
        let (sender, signal) = watch::channel(None);
        let state = Arc::downgrade(&shutdown.state);
        let task = thread.spawn(attend(signals, Waiting::begin(), end, sender, state));
        Ok(Self { ended, signal, task: task.abort_handle() })
    }

    /// Completes when a signal asks the process to end, with its number. Cancel safe.
    pub(crate) async fn interrupted(&mut self) -> i32 {
        match self.signal.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The task has ended.
            _ => std::future::pending().await,
        }
    }

    /// From now on the signals begin the shutdown, as does one that came during the start.
    pub(crate) fn succeeded(self, shutdown: &Shutdown) {
        let _ = shutdown.state.attendant.set(Attendant(self.task));
        let _ = self.ended.send(Ended::Succeeded);
    }

    /// The start ends because of a signal. Later ones end the process.
    pub(crate) fn was_interrupted(self) {
        let _ = self.ended.send(Ended::Interrupted);
    }
}

/// Waits for signals during a start and after it.
async fn attend(
    mut signals: Signals,
    waiting: Waiting,
    mut end: oneshot::Receiver<Ended>,
    first: watch::Sender<Option<i32>>,
    shutdown: Weak<State>,
) {
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut end => break ended,
            signal = signals.next() => {
                first.send_if_modified(|first| first.replace(signal).is_none());
            }
        }
    };
    let signal = *first.borrow();
    match ended {
        Ok(Ended::Succeeded) => {
            if signal.is_none() {
                signals.next().await;
            }
            if let Some(shutdown) = shutdown.upgrade() {
                if let Some(limit) = *shutdown.exit_after.lock() {
                    // Not a part of this task, which ends with the shutdown.
                    tokio::spawn(exit_after(limit));
                }
                shutdown.begin();
            }
            // Later signals have no effect while the process shuts down.
            std::future::pending().await
        }
        Ok(Ended::Interrupted) => leave(signals, waiting, None),
        Err(_) => leave(signals, waiting, signal),
    }
}

/// The thread that waits for signals. It stays for the rest of the process, as the handlers do.
fn signal_thread() -> io::Result<Handle> {
    let mut started = THREAD.lock();
    if let Some(thread) = &*started {
        return Ok(thread.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let wait = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name("aios-signals".to_owned()).spawn(wait)?;
    Ok(started.insert(handle).clone())
}

/// Ends the process if it still runs after the limit, and no other limit is later.
async fn exit_after(limit: Duration) {
    let at = SystemClock.elapsed().saturating_add(limit);
    {
        let mut last = EXIT_AT.lock();
        *last = at.max(*last);
    }
    SystemClock.sleep(limit).await;
    if *EXIT_AT.lock() > at {
        return;
    }
    let report = || {
        let _ = writeln!(
            io::stderr(),
            "aios: exiting with status {NOT_ENDED} because the process did not stop in time"
        );
    };
    // Blocked code may hold the stream.
    tokio::select! {
        biased;
        _ = tokio::task::spawn_blocking(report) => {}
        () = SystemClock.sleep(REPORT_TIMEOUT) => {}
    }
    std::process::exit(NOT_ENDED);
}

/// Leaves a task that ends the process at a signal: the default effect cannot be restored.
fn leave(signals: Signals, waiting: Waiting, signal: Option<i32>) {
    drop(waiting);
    let task = tokio::spawn(exit_at_signal(signals, signal)).abort_handle();
    if let Some(before) = LEFT.lock().replace(task) {
        before.abort();
    }
}

/// Ends the process at a signal that nothing else waits for.
async fn exit_at_signal(mut signals: Signals, mut signal: Option<i32>) {
    loop {
        let number = match signal.take() {
            Some(signal) => signal,
            None => signals.next().await,
        };
        if WAITING.load(Ordering::SeqCst) == 0 {
            std::process::exit(ENDED_BY_SIGNAL + number);
        }
    }
}

/// The signals that ask the process to end.
#[cfg(unix)]
struct Signals {
    terminated: tokio::signal::unix::Signal,
    interrupted: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Registers the handlers.
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let terminated = signal(SignalKind::terminate())?;
        Ok(Self { terminated, interrupted: signal(SignalKind::interrupt())? })
    }

    /// The number of the next signal. Cancel safe.
    async fn next(&mut self) -> i32 {
        use tokio::signal::unix::SignalKind;

        tokio::select! {
            biased;
            _ = self.terminated.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupted.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// The signals that ask the process to end.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// The number of the next signal. Cancel safe.
    async fn next(&mut self) -> i32 {
        /// The number of SIGINT.
        const INTERRUPT: i32 = 2;

        match tokio::signal::ctrl_c().await {
            Ok(()) => INTERRUPT,
            Err(_) => std::future::pending().await,
        }
    }
}
