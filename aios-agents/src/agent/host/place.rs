//! Where the code of agents runs, and whether it is blocked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

/// What runs the code of agents: the runtime, or an event loop of another language.
///
/// The host asks it for a sign of life again and again. While none comes, the host takes no tasks for
/// the agents whose code runs there, and sends no heartbeats for those they do.
pub trait Pulse: fmt::Debug + Send + Sync + 'static {
    /// Has [`Beat::beat`] called where the code of agents runs, once that gets to it. Dropping the beat
    /// says that nothing runs there any more.
    ///
    /// Called on a thread of its own, and must not wait.
    fn probe(&self, beat: Beat);

    /// What the place does at the moment, for the log: its stack, if that can be had. It may wait.
    fn stack(&self) -> Option<String>;
}

const WAITING: u8 = 0;
const BEATEN: u8 = 1;
const GONE: u8 = 2;

/// A sign of life that is asked for.
#[must_use = "dropping it says that nothing runs any more"]
pub struct Beat(Arc<AtomicU8>);

impl Beat {
    /// Here it is.
    pub fn beat(self) {
        self.0.store(BEATEN, Ordering::Release);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        // Only if there was none.
        let _ = self.0.compare_exchange(WAITING, GONE, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl fmt::Debug for Beat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Beat").finish()
    }
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Waiting,
    Beaten,
    Gone,
}

/// A probe that is under way.
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

/// Where the code of some agent types runs.
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

    /// Completes while it is blocked.
    pub(super) async fn blocked(&self) {
        self.until(true).await;
    }

    /// Completes while it is not.
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

/// The runtime on which the host was started: agents in Rust run there.
#[derive(Debug)]
pub(super) struct RuntimePulse(mpsc::UnboundedSender<Beat>);

impl RuntimePulse {
    /// The pulse, and what has to run on the runtime.
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
        // Dropped by a runtime that is gone.
        let _ = self.0.send(beat);
    }

    fn stack(&self) -> Option<String> {
        None
    }
}
