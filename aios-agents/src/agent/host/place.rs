//! The places where agent code runs, and whether they are blocked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

/// A probe of the thread or event loop that runs agent code: the runtime, or an event loop of
/// another language.
///
/// The host probes it regularly. While a probe is unanswered for too long, the host takes no tasks
/// for the agents that run there, and sends no heartbeats for their running tasks.
pub trait Pulse: fmt::Debug + Send + Sync + 'static {
    /// Schedules a call of [`Beat::beat`] in the place where agent code runs. Dropping the beat
    /// means that the place no longer exists.
    ///
    /// Called on a dedicated thread. Must not block.
    fn probe(&self, beat: Beat);

    /// Returns the current stack of the place for the log, if available. May block.
    fn stack(&self) -> Option<String>;
}

const WAITING: u8 = 0;
const BEATEN: u8 = 1;
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
#[derive(Debug)]
pub(super) struct Probe(Arc<AtomicU8>);

impl Probe {
    pub(super) fn send(pulse: &dyn Pulse) -> Self {
        let state = Arc::new(AtomicU8::new(WAITING));
        pulse.probe(Beat(Arc::clone(&state)));
        Self(state)
    }

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
    pub(super) pulse: Arc<dyn Pulse>,
    is_blocked: AtomicBool,
    changed: Notify,
}

impl Place {
    pub(super) fn new(pulse: Arc<dyn Pulse>) -> Arc<Self> {
        Arc::new(Self { pulse, is_blocked: AtomicBool::new(false), changed: Notify::new() })
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

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

    async fn until(&self, is_blocked: bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_blocked() == is_blocked {
                return;
            }
            changed.await;
        }
    }
}

/// The runtime on which the host was started, where agents in Rust run.
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

    fn stack(&self) -> Option<String> {
        None
    }
}
