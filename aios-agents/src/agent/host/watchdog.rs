//! Finds out that the code of agents blocks what runs it, on a thread that nothing of theirs blocks.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc::channel},
    thread,
    time::Duration,
};

use metrics::counter;
use tracing::{Dispatch, dispatcher};

use super::{
    Shared,
    place::{Answer, Place, Probe},
};

/// How often a place is looked at within the time after which it counts as blocked.
const LOOKS: u32 = 4;

/// How long the log waits for the stack of what is blocked.
const STACK_PATIENCE: Duration = Duration::from_secs(1);

/// How many tasks the log names.
const NAMED: usize = 10;

/// Watches until it is dropped.
pub(super) struct Watchdog(Arc<Stopped>);

#[derive(Default)]
struct Stopped {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Watchdog {
    /// Watches the places of the agent types, which run there.
    pub(super) fn start(
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
        // The log goes where that of the host goes.
        let log = dispatcher::get_default(Dispatch::clone);
        let watch = move || dispatcher::with_default(&log, || watch.run());
        thread::Builder::new().name("aios-watchdog".to_owned()).spawn(watch)?;
        Ok(Self(stopped))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

struct Watch {
    shared: Arc<Shared>,
    watched: Vec<Watched>,
    stopped: Arc<Stopped>,
    limit: Duration,
}

/// One place, and what is known of it.
struct Watched {
    place: Arc<Place>,
    agent_types: Vec<Arc<str>>,
    probe: Option<Probe>,
    /// How many checks found no answer since the probe was sent.
    missed: u32,
}

impl Watched {
    fn new(place: Arc<Place>, agent_types: Vec<Arc<str>>) -> Self {
        Self { place, agent_types, probe: None, missed: 0 }
    }

    /// Looks once, and says if that changes whether the place is blocked. Time is counted in looks, so
    /// that a process that was frozen is not taken for one that is blocked.
    fn look(&mut self) -> Option<bool> {
        let answer = self.probe.as_ref().map_or(Answer::Beaten, Probe::answer);
        match answer {
            Answer::Gone => None,
            Answer::Beaten => {
                self.missed = 0;
                self.probe = Some(Probe::send(&*self.place.pulse));
                self.place.is_blocked().then_some(false)
            }
            Answer::Waiting => {
                self.missed += 1;
                (self.missed >= LOOKS && !self.place.is_blocked()).then_some(true)
            }
        }
    }
}

impl Watch {
    fn run(mut self) {
        while self.sleep() {
            for watched in &mut self.watched {
                match watched.look() {
                    Some(true) => blocked(&self.shared, watched, self.limit),
                    Some(false) => freed(watched),
                    None => {}
                }
            }
        }
    }

    /// Sleeps until the next look; false if there is none.
    fn sleep(&self) -> bool {
        let stopped = self.stopped.is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.stopped.changed.wait_timeout_while(stopped, self.limit / LOOKS, |it| !*it);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Nothing is taken, nothing is said to be alive, and what has not begun goes back to the broker.
fn blocked(shared: &Shared, watched: &Watched, limit: Duration) {
    watched.place.set_blocked(true);
    let mut released = 0;
    let mut tasks = Vec::new();
    for agent_type in &watched.agent_types {
        released += shared.ledger.withdraw(Some(agent_type));
        tasks.extend(shared.ledger.begun(Some(agent_type)));
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
        "what runs the code of agents is blocked, for {limit:?} at least; they take no tasks and send \
         no heartbeats until it resumes"
    );
}

fn freed(watched: &Watched) {
    watched.place.set_blocked(false);
    tracing::warn!(
        agent_types = watched.agent_types.join(", "),
        "what runs the code of agents has resumed; they take tasks again"
    );
}

/// What the place does, if that can be had in time: whatever blocks it may hold what the stack needs.
fn stack(place: &Arc<Place>) -> Option<String> {
    let (sender, receiver) = channel();
    let asked = Arc::clone(place);
    let ask = move || drop(sender.send(asked.pulse.stack()));
    thread::Builder::new().name("aios-stack".to_owned()).spawn(ask).ok()?;
    receiver.recv_timeout(STACK_PATIENCE).unwrap_or_default()
}
