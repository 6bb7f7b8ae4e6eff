//! Runs agents in this process.
//!
//! One subscription a type takes tasks for any agent of the type, one mailbox an agent takes tasks
//! for that agent alone. Each task is done in a spawned future in a slot of its type.

mod announce;
mod answer;
mod attempt;
mod cancel;
mod consumer;
mod held;
mod hosted;
mod ledger;
mod options;
mod place;
mod publish;
mod questions;
mod running;
mod slot;
mod supervise;
mod vigil;
mod watch;
mod watchdog;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_core::{
    broker::Broker,
    clock::Clock,
    failure::Failure,
    store::{AgentStatus, Store},
};

pub(crate) use self::vigil::FIRST_BEAT;
use self::{
    hosted::HostedType,
    ledger::Ledger,
    place::{Place, RuntimePulse},
    questions::Questions,
    watchdog::Watchdog,
};
pub use self::{
    options::HostOptions,
    place::{Beat, Pulse},
};
use super::{AgentDefinition, AgentError, AgentSet};
use crate::{failing::Failing, task::JoinSet};

/// How long tasks that were given up may take to give back their deliveries. Only code that blocks
/// its thread takes longer.
const ABANDON_GRACE: Duration = Duration::from_secs(1);
/// How long it may take at least to announce that agents stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all parts of a host share.
struct Shared {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn Store>>,
    source: Arc<str>,
    options: HostOptions,
    ledger: Ledger,
    questions: Questions,
    failing: Failing,
    /// What the host can't do any more.
    impaired: Mutex<BTreeSet<String>>,
}

impl Shared {
    /// Notes that the host can't do something any more, because store or broker refuse it for good.
    /// Whoever uses the host learns of the first such failure.
    fn fail(&self, what: &str, error: &AgentError) {
        let failure = Failure::from_error(error.code(), error);
        let message = format!("could not {what}: {}", failure.message);
        let mut impaired = self.impaired.lock().unwrap_or_else(PoisonError::into_inner);
        if impaired.insert(what.to_owned()) {
            tracing::error!(error = message, code = failure.code, "the agent host is impaired");
        }
        drop(impaired);
        self.failing.fail(Failure::new(failure.code, message));
    }
}

/// Runs agents: takes their tasks from a broker and publishes what they answer.
///
/// A task is done at least once. A repeated dispatch of the same attempt is recognised, as long as
/// it reaches the same process. The host never tries a failed task again; whoever gave it does.
/// Before it begins an attempt of a workflow's task that the broker delivers again, or that is older than
/// its timeout, it asks the engine whether the attempt is still to be done.
///
/// Code that holds the [slot](aios_core::agent::TaskContext::slot) of its task beyond the end of its
/// attempt is overdue: the host logs it, takes fewer tasks meanwhile, and counts it in the gauge
/// `aios_agent_tasks_overdue`, by `agent_type`.
///
/// Code that blocks what runs it, such as an event loop, is noticed within
/// [`blocked_after`](HostOptions::blocked_after): until it resumes, its agents take no tasks and send no
/// heartbeats, so that others do their tasks. Tasks that have not begun go back to the broker, the log
/// says what is blocked, and `aios_agents_blocked_total` counts it, by `agent_type`.
///
/// A subscription that the broker refuses for good is not made again: its agents take no tasks from it
/// any more, the log says so as an error, and [`failed`](Self::failed) says why.
///
/// Dropping it gives up what runs; those tasks go back to the broker. [`shutdown`](Self::shutdown)
/// lets them end first.
pub struct AgentHost {
    shared: Arc<Shared>,
    types: Vec<Arc<HostedType>>,
    consumers: JoinSet<()>,
    helpers: JoinSet<()>,
    _watchdog: Option<Watchdog>,
}

impl AgentHost {
    /// Makes the agents and begins to take their tasks.
    ///
    /// Returns when every factory was tried once and every agent that was made is subscribed. An
    /// agent whose factory failed is tried again in the background, and so is a subscription that
    /// failed for a passing reason. With a store, agents are kept in its table `agents` and watched.
    ///
    /// `source` becomes the source of the events that the host publishes.
    ///
    /// # Errors
    ///
    /// What is wrong with the definitions or options; what broker and store refuse for good.
    pub async fn start(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        store: Option<Arc<dyn Store>>,
        source: impl Into<Arc<str>>,
        agents: AgentSet,
        options: HostOptions,
    ) -> Result<Self, AgentError> {
        options.validate()?;
        let shared = Arc::new(Shared {
            broker,
            clock,
            store,
            source: source.into(),
            options,
            ledger: Ledger::default(),
            failing: Failing::default(),
            impaired: Mutex::default(),
            questions: Questions::default(),
        });
        let (pulse, answer) = RuntimePulse::new();
        let (runtime, mut places) = (Place::new(Arc::new(pulse)), Vec::new());
        let mut types = Vec::new();
        for (agent_type, definition) in agents.build()? {
            let place = place_of(&definition, &runtime, &mut places);
            types.push(HostedType::new(&shared, agent_type, definition, place)?);
        }
        let (consumers, mut helpers) = (JoinSet::new(), JoinSet::new());
        places.push(runtime);
        let watchdog = watch(&shared, &types, places)?;
        if watchdog.is_some() {
            helpers.spawn(answer);
        }
        let mut host = Self { shared, types, consumers, helpers, _watchdog: watchdog };
        host.announce_registered().await?;
        host.helpers.spawn(cancel::listen(&host.shared, &host.types).await?);
        for hosted in &host.types {
            hosted.start(&mut host.consumers).await?;
        }
        host.helpers.spawn(announce::run(Arc::clone(&host.shared), host.types.clone()));
        Ok(host)
    }

    async fn announce_registered(&self) -> Result<(), AgentError> {
        let announcements = self.types.iter().map(|hosted| hosted.registered());
        let announcements = announcements.collect::<Result<Vec<_>, _>>()?;
        self.shared.announce(announcements.concat()).await
    }

    /// Takes no more tasks, gives back those whose code has not begun, waits until the others are
    /// answered, and stops.
    ///
    /// # Errors
    ///
    /// [`AgentError::ShutdownTimeout`] if tasks still ran after `deadline`. They were given up, and
    /// the broker delivers them again. [`AgentError::Impaired`] if the host could not do everything
    /// before, as [`failed`](Self::failed) says. The host has stopped all the same.
    ///
    /// # Cancel safety
    ///
    /// A cancelled shutdown gives up what runs.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), AgentError> {
        let until = self.shared.clock.elapsed().saturating_add(deadline);
        self.consumers.shutdown().await;
        self.shared.ledger.withdraw(None);
        let drained = self.drained_within(deadline).await;
        let tasks = self.shared.ledger.abandon();
        if !drained {
            self.drained_within(ABANDON_GRACE).await;
        }
        self.helpers.shutdown().await;
        self.say_farewell(until).await;
        if !drained {
            return Err(AgentError::ShutdownTimeout { tasks });
        }
        self.failure().map_or(Ok(()), |failure| Err(AgentError::Impaired { failure }))
    }

    /// What the host can't do any more because store or broker refuse it for good, if anything: take
    /// the tasks of a subscription, hear of cancellations, or announce its agents. The rest goes on.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failing.failure()
    }

    /// Completes when the host can't do everything any more; see [`failure`](Self::failure).
    ///
    /// # Cancel safety
    ///
    /// It can be called again.
    pub async fn failed(&self) -> Failure {
        self.shared.failing.failed().await
    }

    /// Announces that the agents stop, as long as there is time: a broker that can't be reached holds
    /// nobody up.
    async fn say_farewell(&self, until: Duration) {
        let rest = until.saturating_sub(self.shared.clock.elapsed()).max(FAREWELL);
        let stopped = self.status_changed(AgentStatus::Stopped);
        tokio::select! {
            biased;
            () = self.shared.announce_or_warn(stopped) => {}
            () = self.shared.clock.sleep(rest) => {
                tracing::warn!("it could not be announced in time that the agents stop");
            }
        }
    }

    /// Whether all tasks ended in time.
    async fn drained_within(&self, time: Duration) -> bool {
        let drained = async {
            for hosted in &self.types {
                hosted.slots.drained().await;
            }
        };
        tokio::select! {
            biased;
            () = drained => true,
            () = self.shared.clock.sleep(time) => false,
        }
    }

    fn status_changed(&self, status: AgentStatus) -> Vec<announce::Announcement> {
        self.types.iter().flat_map(|hosted| hosted.status_of_ready(status)).collect()
    }
}

/// Where agents run: a place that is known already, if they have the pulse of others.
fn place_of(
    definition: &AgentDefinition,
    runtime: &Arc<Place>,
    others: &mut Vec<Arc<Place>>,
) -> Arc<Place> {
    let Some(pulse) = &definition.pulse else { return Arc::clone(runtime) };
    if let Some(known) = others.iter().find(|place| Arc::ptr_eq(&place.pulse, pulse)) {
        return Arc::clone(known);
    }
    let place = Place::new(Arc::clone(pulse));
    others.push(Arc::clone(&place));
    place
}

/// Watches where agents run, if the options say so.
fn watch(
    shared: &Arc<Shared>,
    types: &[Arc<HostedType>],
    places: Vec<Arc<Place>>,
) -> Result<Option<Watchdog>, AgentError> {
    let Some(limit) = shared.options.blocked_after.filter(|_| !is_simulated()) else {
        return Ok(None);
    };
    let watched = places.into_iter().filter_map(|place| {
        let here = types.iter().filter(|hosted| Arc::ptr_eq(&hosted.place, &place));
        let here: Vec<_> = here.map(|hosted| Arc::clone(&hosted.type_name)).collect();
        (!here.is_empty()).then_some((place, here))
    });
    Watchdog::start(shared, watched.collect(), limit).map(Some).map_err(|error| {
        AgentError::InvalidConfiguration { reason: format!("no thread for the watchdog: {error}") }
    })
}

/// Whether a simulation runs on this thread, which no thread but this may disturb.
fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return aios_core::simulation::current().is_some();
    #[cfg(not(feature = "simulation"))]
    false
}

impl Drop for AgentHost {
    fn drop(&mut self) {
        self.shared.ledger.abandon();
    }
}

impl fmt::Debug for AgentHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentHost")
            .field("source", &self.shared.source)
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}
