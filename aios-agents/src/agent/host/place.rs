//! The places where agent code runs, and whether they are blocked.
//!
//! A place is one thread of control that several agents share: the tokio runtime, or an event loop
//! of another language. The watchdog sends a probe into the place and looks later whether it was
//! answered. Probe and beat share one atomic:
//!
//! ```text
//! WAITING ──beat()──► BEATEN
//!    └────drop──────► GONE
//! ```
//!
//! The watchdog is the only writer of `is_blocked`. Consumers wait for its changes, supervisors
//! read it when they wake up.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use aios_core::catalog::codes;
use tokio::sync::{Notify, mpsc};

use crate::panic::panic_failure;

/// A probe of the thread or event loop that runs agent code: the runtime, or an event loop of
/// another language.
///
/// The host probes it regularly. While a probe is unanswered for too long, the host takes no tasks
/// for the agents that run there, and sends no heartbeats for their running tasks.
///
/// # Examples
///
/// A thread that runs agent code, and answers probes between two pieces of work:
///
/// ```
/// use std::sync::mpsc::{Sender, channel};
///
/// use aios_agents::agent::{Beat, Pulse};
///
/// enum Job {
///     Work(Box<dyn FnOnce() + Send>),
///     Probe(Beat),
/// }
///
/// #[derive(Debug)]
/// struct Worker(Sender<Job>);
///
/// impl Pulse for Worker {
///     fn probe(&self, beat: Beat) {
///         // If the thread has ended, the beat is dropped: the place no longer exists.
///         let _ = self.0.send(Job::Probe(beat));
///     }
///
///     fn stack(&self) -> Option<String> {
///         None
///     }
/// }
///
/// let (sender, jobs) = channel();
/// std::thread::spawn(move || {
///     for job in jobs {
///         match job {
///             Job::Work(work) => work(),
///             Job::Probe(beat) => beat.beat(),
///         }
///     }
/// });
/// // For `AgentDefinition::with_pulse`, with agents whose code sends its work to the thread.
/// let pulse = std::sync::Arc::new(Worker(sender));
/// # drop(pulse);
/// ```
pub trait Pulse: fmt::Debug + Send + Sync + 'static {
    /// Schedules a call of [`Beat::beat`] in the place where agent code runs. Dropping the beat
    /// means that the place no longer exists.
    ///
    /// Called on a dedicated thread. Must not block.
    fn probe(&self, beat: Beat);

    /// Returns the current stack of the place for the log, if available. May block.
    fn stack(&self) -> Option<String>;
}

/// The place has not answered yet.
const WAITING: u8 = 0;
/// Code ran in the place: it is not blocked.
const BEATEN: u8 = 1;
/// The beat was dropped: the place no longer exists, so it can't be blocked either.
const GONE: u8 = 2;

/// A probe to be answered.
#[must_use = "dropping it means that the place no longer exists"]
pub struct Beat(Arc<AtomicU8>);

impl Beat {
    /// Answers the probe.
    pub fn beat(self) {
        self.0.store(BEATEN, Ordering::Release);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        // Only if the probe was not answered.
        let _ = self.0.compare_exchange(WAITING, GONE, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl fmt::Debug for Beat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Beat").finish()
    }
}

/// The state of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Waiting,
    Beaten,
    Gone,
}

/// A probe that was sent.
///
/// The other half of a `Beat`.
#[derive(Debug)]
pub(super) struct Probe(Arc<AtomicU8>);

impl Probe {
    /// Sends a probe into a place. Its answer is read later, without waiting. A pulse that panics counts
    /// as a place that no longer exists.
    pub(super) fn send(pulse: &dyn Pulse) -> Self {
        let state = Arc::new(AtomicU8::new(WAITING));
        let beat = Beat(Arc::clone(&state));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pulse.probe(beat))) {
            let failure = panic_failure(codes::AGENT_PANICKED, &*panic);
            tracing::error!(
                ?pulse,
                error = failure.message,
                "the probe of the thread or event loop of agents panicked; it is no longer watched"
            );
            state.store(GONE, Ordering::Release);
        }
        Self(state)
    }

    /// The answer so far.
    pub(super) fn answer(&self) -> Answer {
        match self.0.load(Ordering::Acquire) {
            WAITING => Answer::Waiting,
            BEATEN => Answer::Beaten,
            _ => Answer::Gone,
        }
    }
}

/// The place where the code of some agent types runs.
#[derive(Debug)]
pub(super) struct Place {
    /// How the place is asked.
    pub(super) pulse: Arc<dyn Pulse>,
    /// Set by the watchdog.
    is_blocked: AtomicBool,
    /// Notified at each change of `is_blocked`.
    changed: Notify,
}

impl Place {
    /// A place that counts as free until the watchdog finds otherwise.
    pub(super) fn new(pulse: Arc<dyn Pulse>) -> Arc<Self> {
        Arc::new(Self { pulse, is_blocked: AtomicBool::new(false), changed: Notify::new() })
    }

    /// Whether the place was blocked at the last check.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    /// Changes the state, and wakes all that wait for it.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Completes when the place is blocked.
    pub(super) async fn blocked(&self) {
        self.until(true).await;
    }

    /// Completes when the place is not blocked.
    pub(super) async fn free(&self) {
        self.until(false).await;
    }

    /// Completes when the state is the given one.
    async fn until(&self, is_blocked: bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the state is read, so that a change in between wakes it.
            changed.as_mut().enable();
            if self.is_blocked() == is_blocked {
                return;
            }
            changed.await;
        }
    }
}

/// The runtime on which the host was started, where agents in Rust run.
///
/// The other half is a task on the runtime. The channel has no limit, but at most one probe waits:
/// the watchdog sends the next one only after an answer.
#[derive(Debug)]
pub(super) struct RuntimePulse(mpsc::UnboundedSender<Beat>);

impl RuntimePulse {
    /// Returns the pulse, and the future that answers it on the runtime.
    pub(super) fn new() -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut probes) = mpsc::unbounded_channel::<Beat>();
        let answer = async move {
            while let Some(probe) = probes.recv().await {
                probe.beat();
            }
        };
        (Self(sender), answer)
    }
}

impl Pulse for RuntimePulse {
    fn probe(&self, beat: Beat) {
        // Fails only if the runtime has shut down.
        let _ = self.0.send(beat);
    }

    /// A stack of tasks in Rust is not available.
    fn stack(&self) -> Option<String> {
        None
    }
}
