//! Detects agent code that blocks the thread or event loop it runs on, from a dedicated thread.
//!
//! A dedicated thread looks at each place four times within `blocked_after`. It runs no agent code
//! and takes no lock that agent code may hold. It counts checks and reads no clock: in a process
//! that was suspended as a whole, no check happens either, so it is not mistaken for a blocked
//! place. A place is blocked after four checks without an answer to the same probe, and free again
//! at the first answer.
//!
//! The stack of a blocked place is read on yet another thread, with a time limit, because that may
//! need a lock that the blocked code holds. That thread may remain until the code lets go.

use std::{
    io,
    sync::{Arc, mpsc::channel},
    thread,
    time::Duration,
};

use metrics::counter;
use parking_lot::{Condvar, Mutex};
use tracing::{Dispatch, dispatcher};

use crate::agent::host::{
    Shared,
    place::{Answer, Place, Probe},
};

/// How often a place is checked within the time after which it counts as blocked.
const CHECKS: u32 = 4;

/// How long to wait for the stack of a blocked place.
const STACK_PATIENCE: Duration = Duration::from_secs(1);

/// How many tasks a log line lists.
const NAMED: usize = 10;

/// Watches places until it is dropped.
///
/// Dropping it stops the thread without waiting for it.
pub(crate) struct Watchdog(Arc<Stopped>);

/// Tells the thread to end.
#[derive(Default)]
struct Stopped {
    /// Guarded by the lock that the condition variable needs.
    is_stopped: Mutex<bool>,
    /// Notified once, when the watchdog is dropped.
    changed: Condvar,
}

impl Watchdog {
    /// Starts to watch places, each with the agent types that run there.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        places: Vec<(Arc<Place>, Vec<Arc<str>>)>,
        limit: Duration,
    ) -> io::Result<Self> {
        let stopped = Arc::new(Stopped::default());
        let watch = Watch {
            shared: Arc::clone(shared),
            watched: places.into_iter().map(|(place, types)| Watched::new(place, types)).collect(),
            stopped: Arc::clone(&stopped),
            limit,
        };
        // Log to the subscriber of the host.
        let log = dispatcher::get_default(Dispatch::clone);
        let watch = move || dispatcher::with_default(&log, || watch.run());
        thread::Builder::new().name("aios-watchdog".to_owned()).spawn(watch)?;
        Ok(Self(stopped))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.is_stopped.lock() = true;
        self.0.changed.notify_all();
    }
}

/// The state of the thread.
struct Watch {
    /// To return tasks that have not begun, and to name those that have.
    shared: Arc<Shared>,
    watched: Vec<Watched>,
    stopped: Arc<Stopped>,
    /// The time after which a place counts as blocked.
    limit: Duration,
}

/// A watched place.
struct Watched {
    /// The place that is probed.
    place: Arc<Place>,
    /// The types whose code runs there, for log and metric.
    agent_types: Vec<Arc<str>>,
    /// The latest probe; `None` before the first check.
    probe: Option<Probe>,
    /// How many checks found the probe unanswered.
    missed: u32,
}

impl Watched {
    /// A place that was not probed yet.
    fn new(place: Arc<Place>, agent_types: Vec<Arc<str>>) -> Self {
        Self { place, agent_types, probe: None, missed: 0 }
    }

    /// Checks once. Returns the new state if the place became blocked or free. Time is counted in
    /// checks, so that a suspended process does not count as blocked.
    fn check(&mut self) -> Option<bool> {
        // Without a probe, the place counts as answered, and gets its first one.
        let answer = self.probe.as_ref().map_or(Answer::Beaten, Probe::answer);
        match answer {
            // Its agents are about to be dropped with the host or the event loop.
            Answer::Gone => None,
            Answer::Beaten => {
                self.missed = 0;
                self.probe = Some(Probe::send(&*self.place.pulse));
                self.place.is_blocked().then_some(false)
            }
            Answer::Waiting => {
                self.missed += 1;
                (self.missed >= CHECKS && !self.place.is_blocked()).then_some(true)
            }
        }
    }
}

impl Watch {
    /// Checks until the watchdog is stopped.
    fn run(mut self) {
        while self.sleep() {
            for watched in &mut self.watched {
                match watched.check() {
                    Some(true) => blocked(&self.shared, watched, self.limit),
                    Some(false) => freed(watched),
                    None => {}
                }
            }
        }
    }

    /// Sleeps until the next check. Returns false once the watchdog is stopped.
    fn sleep(&self) -> bool {
        let mut stopped = self.stopped.is_stopped.lock();
        self.stopped.changed.wait_while_for(&mut stopped, |it| !*it, self.limit / CHECKS);
        !*stopped
    }
}

/// Marks a place as blocked: its agents take no tasks and send no heartbeats, and tasks that have
/// not begun are released to the broker.
fn blocked(shared: &Shared, watched: &Watched, limit: Duration) {
    watched.place.set_blocked(true);
    let mut released = 0;
    let mut tasks = Vec::new();
    for agent_type in &watched.agent_types {
        // Withdrawn first, so that the log names only tasks whose code has begun.
        released += shared.attempt_cache.withdraw(Some(agent_type));
        tasks.extend(shared.attempt_cache.begun(Some(agent_type)));
        counter!("aios_agents_blocked_total", "agent_type" => agent_type.to_string()).increment(1);
    }
    let begun = tasks.len();
    let named: Vec<_> = tasks.iter().take(NAMED).map(|task| task.as_str()).collect();
    tracing::error!(
        agent_types = watched.agent_types.join(", "),
        tasks = named.join(", "),
        begun,
        released,
        stack = stack(&watched.place).unwrap_or_default(),
        "the thread or event loop of agents has been blocked for at least {limit:?}; they take no tasks \
         and send no heartbeats until it resumes"
    );
}

/// Marks a place as free. The consumers subscribe again.
fn freed(watched: &Watched) {
    watched.place.set_blocked(false);
    tracing::warn!(
        agent_types = watched.agent_types.join(", "),
        "the thread or event loop of agents has resumed; they take tasks again"
    );
}

/// The stack of a place, if it is available in time. The blocked code may hold a lock that taking
/// the stack needs.
fn stack(place: &Arc<Place>) -> Option<String> {
    let (sender, receiver) = channel();
    let asked = Arc::clone(place);
    // If the wait is over, the receiver is gone, and the answer is dropped.
    let ask = move || drop(sender.send(asked.pulse.stack()));
    thread::Builder::new().name("aios-stack".to_owned()).spawn(ask).ok()?;
    receiver.recv_timeout(STACK_PATIENCE).unwrap_or_default()
}
