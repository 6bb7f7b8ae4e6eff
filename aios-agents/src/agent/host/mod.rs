//! Runs agents in this process.
//!
//! One subscription per type receives the tasks for any agent of the type; one mailbox per agent
//! receives the tasks for that agent alone. Each task runs in a spawned future, in a slot of its
//! type.
//!
//! | modules | contents |
//! |---|---|
//! | `builder`, `options` | start a host |
//! | `consumer`, `slot` | take tasks from the broker while slots are free |
//! | `task` | the life of a task: received, recognised, run, cancelled, answered |
//! | `hosted`, `create`, `reconcile` | the agents of one type: created by factories, or as resources |
//! | `announcement`, `presence`, `missing` | tell which agents are running, and notice those that vanish |
//! | `place` | where code of agents runs; `task/watchdog.rs` notices code that blocks it |
//!
//! The tasks of a host, and what they own:
//!
//! | task | number | owns |
//! |---|---|---|
//! | consumer | one per type, one per agent | a subscription, and the deliveries that wait for a slot |
//! | attempt | one per task that runs | a slot, a delivery, the entry in the cache |
//! | listener (`task/cancel.rs`) | one | the subscription to cancellations and answers about attempts |
//! | presence | one | the announcement interval, and the suspects of `missing` |
//! | reconciler | one, if a type has resources | the agents that are resources |
//! | watchdog | one thread | the probes of the places |
//!
//! All of them share `Shared` and one `HostedType` per type. When the process dies, the broker
//! delivers its tasks to others, and the announcement of its agents stops.

mod announcement;
mod builder;
mod consumer;
mod create;
mod hosted;
mod missing;
mod options;
mod place;
mod presence;
mod reconcile;
mod slot;
mod task;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use aios_core::{
    agent::Name,
    broker::Broker,
    catalog::agent::TypeRegistered,
    clock::Clock,
    failure::Failure,
    store::{AgentStatus, Store},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::task::FIRST_BEAT;
pub use self::{
    builder::AgentHostBuilder,
    options::HostOptions,
    place::{Beat, Pulse},
};
use self::{
    hosted::HostedType,
    place::{Place, RuntimePulse},
    reconcile::Reconciler,
    task::{AttemptCache, HeldAssignments, NewMailboxes, Questions, Watchdog},
};
use super::{AgentDefinition, AgentError, AgentSet, managed};
use crate::{failing::Failing, measure::Waits, output::Hub, task::JoinSet};

/// How long abandoned tasks may take to be handed back, and how long subscriptions may take
/// to end. Only code that blocks its thread takes longer.
const ABANDON_GRACE: Duration = Duration::from_secs(1);
/// The minimum time for announcing that agents have stopped.
const STOP_ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// The parts of a process that a host works with.
struct Parts {
    broker: Arc<dyn Broker>,
    /// Source of all events of the host.
    clock: Arc<dyn Clock>,
    /// The store in which agents are recorded, if the process has one.
    store: Option<Arc<dyn Store>>,
    source: Arc<str>,
}

/// State shared by all parts of a host.
struct Shared {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn Store>>,
    /// Output streams of tasks; `None` without a store.
    outputs: Option<Hub>,
    source: Arc<str>,
    options: HostOptions,
    attempt_cache: AttemptCache,
    /// How long attempts wait until they begin.
    waits: Waits,
    /// Questions to engines that have no answer yet.
    questions: Questions,
    /// Assignments that wait here for a slot.
    held: HeldAssignments,
    /// Where answers go whose engine has changed.
    new_mailboxes: NewMailboxes,
    /// The first permanent failure, and the wake-up of those that wait for it.
    failing: Failing,
    /// Notified when an agent that is a resource runs or has failed.
    agents_changed: Notify,
    /// Actions that the host can no longer perform.
    impaired: Mutex<BTreeSet<String>>,
}

impl Shared {
    /// Creates the hub of output streams if there is a store to write them to.
    fn new(parts: Parts, options: HostOptions) -> Self {
        let Parts { broker, clock, store, source } = parts;
        let outputs = store
            .as_ref()
            .map(|store| Hub::new(Arc::clone(store), Arc::clone(&clock), Arc::clone(&source)));
        Self {
            broker,
            clock,
            store,
            outputs,
            source,
            options,
            attempt_cache: AttemptCache::default(),
            waits: Waits::default(),
            failing: Failing::default(),
            agents_changed: Notify::new(),
            impaired: Mutex::default(),
            questions: Questions::default(),
            held: HeldAssignments::default(),
            new_mailboxes: NewMailboxes::default(),
        }
    }
}

impl Shared {
    /// Records that the host can no longer do something, because store or broker refuse it
    /// permanently. [`AgentHost::failure`] returns the first such failure.
    fn fail(&self, what: &str, error: &AgentError) {
        let failure = Failure::from_error(error.code(), error);
        let message = format!("failed to {what}: {}", failure.message);
        let mut impaired = self.impaired.lock();
        // Once per action, however often it fails.
        if impaired.insert(what.to_owned()) {
            tracing::error!(error = message, code = failure.code, "the agent host is impaired");
        }
        drop(impaired);
        self.failing.fail(Failure::new(failure.code, message));
    }
}

/// Runs agents: receives their tasks from a broker and publishes their answers.
///
/// A [`Runtime`](crate::Runtime) starts one for its agents. [`builder`](Self::builder) is for
/// programs without a runtime.
///
/// A task is done at least once. A repeated dispatch of the same attempt is recognised if it
/// reaches the same process. The host never retries a failed task; the caller or its engine does.
/// Before it begins an attempt of a workflow's task that was redelivered, or is older than its
/// timeout, the host asks the engine whether the attempt is still open.
///
/// Code that holds the [slot](aios_core::agent::TaskContext::slot) of its task beyond the end of
/// its attempt is overdue: the host logs it, takes fewer tasks while it runs, and counts it in the
/// gauge `aios_agent_tasks_overdue`, by `agent_type`.
///
/// Code that blocks the thread or event loop it runs on is detected within
/// [`blocked_after`](HostOptions::blocked_after). Until it resumes, its agents take no tasks and
/// send no heartbeats, so that other processes take over their tasks. Tasks that have not begun are
/// released to the broker, the log names what is blocked, and `aios_agents_blocked_total` counts
/// it, by `agent_type`.
///
/// A subscription that the broker refuses permanently is not retried: its agents take no more tasks
/// from it, an error is logged, and [`failed`](Self::failed) returns the reason.
///
/// Dropping the host abandons running tasks, and other hosts get them.
/// [`shutdown`](Self::shutdown) lets them end first.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::{agent::{AgentHost, AgentSet, TaskClient}, prelude::*};
/// use aios_core::clock::SystemClock;
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = aios_broker::connect("memory://").await?;
/// let host = AgentHost::builder(AgentSet::new().agent("upper", Upper))
///     .broker(broker.clone())
///     .start()
///     .await?;
///
/// let client = TaskClient::new(broker, Arc::new(SystemClock), "shop").await?;
/// let answer = client.task("upper", "hello").await.map_err(|error| error.failure.to_string())?;
/// assert_eq!(answer.decode::<String>()?, "HELLO");
/// host.shutdown(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
pub struct AgentHost {
    /// Shared by all tasks of the host.
    shared: Arc<Shared>,
    /// One per agent type, in the order of their names.
    types: Vec<Arc<HostedType>>,
    /// The subscriptions of types and agents. Ended first at a shutdown.
    consumers: JoinSet<()>,
    /// The listener, the presence loop and the answers of the runtime to the watchdog. Ended last,
    /// because running tasks need them.
    helpers: JoinSet<()>,
    /// The subscriptions of agents that are resources.
    reconciler: Reconciler,
    /// Stops its thread when it is dropped. `None` if it is disabled, or in a simulation.
    _watchdog: Option<Watchdog>,
}

impl AgentHost {
    /// Returns a builder of a host of these agents.
    pub fn builder(agents: AgentSet) -> AgentHostBuilder {
        AgentHostBuilder::new(agents)
    }

    /// Starts everything in this order: records the agents, records the types, listens for
    /// cancellations, and only then takes tasks. A task is thus never running before it can be
    /// cancelled. If a step fails, dropping `host` ends what has begun.
    async fn start(
        parts: Parts,
        agents: AgentSet,
        options: HostOptions,
    ) -> Result<Self, AgentError> {
        options.validate()?;
        let shared = Arc::new(Shared::new(parts, options));
        let (pulse, answer) = RuntimePulse::new();
        let runtime = Place::new(Arc::new(pulse));
        let mut places = Vec::new();
        let mut types = Vec::new();
        for (agent_type, definition) in agents.build()? {
            let place = place_of(&definition, &runtime, &mut places);
            types.push(HostedType::new(&shared, agent_type, definition, place)?);
        }
        let consumers = JoinSet::new();
        let mut helpers = JoinSet::new();
        // Last, because the others were added while the types were made.
        places.push(runtime);
        // Before the agents take tasks, so that the first blocked one is noticed.
        let watchdog = watch(&shared, &types, places)?;
        if watchdog.is_some() {
            helpers.spawn(answer);
        }
        let reconciler = Reconciler::default();
        let mut host = Self { shared, types, consumers, helpers, reconciler, _watchdog: watchdog };
        // The rows must exist before a status of the agents is announced.
        host.announce_registered().await?;
        host.register_types().await?;
        host.helpers.spawn(task::cancel::listen(&host.shared, &host.types).await?);
        for hosted in &host.types {
            hosted.start(&mut host.consumers).await?;
        }
        host.reconciler = Reconciler::start(&host.shared, &host.types);
        host.helpers.spawn(presence::run(Arc::clone(&host.shared), host.types.clone()));
        Ok(host)
    }

    /// Records and publishes which agents the code registers.
    async fn announce_registered(&self) -> Result<(), AgentError> {
        let announcements = self.types.iter().map(|hosted| hosted.registered());
        let announcements = announcements.collect::<Result<Vec<_>, _>>()?;
        self.shared.announce(announcements.concat()).await
    }

    /// Records the types whose agents are resources.
    async fn register_types(&self) -> Result<(), AgentError> {
        let Some(store) = &self.shared.store else { return Ok(()) };
        let types = self.registered_types()?;
        let managed = types.into_iter().filter(|(_, it)| it.config_schema.is_some()).collect();
        let Shared { clock, source, .. } = &*self.shared;
        managed::register(&**store, &**clock, source, managed).await.map_err(managed::unmanaged)
    }

    /// The types of this host, with their schemas.
    pub(crate) fn registered_types(&self) -> Result<Vec<(Name, TypeRegistered)>, AgentError> {
        let types = self.types.iter();
        types.map(|it| Ok((it.agent_type.clone(), it.definition.registered()?))).collect()
    }

    /// Stops the host: accepts no more tasks, releases those whose code has not begun, and waits
    /// until the others are answered.
    ///
    /// # Errors
    ///
    /// [`AgentError::ShutdownTimeout`] if tasks were still running after `deadline`. They were
    /// abandoned, and other hosts get them: the broker delivers them again, and those whose delivery was
    /// acknowledged early are published again. [`AgentError::Impaired`] if part of the host
    /// had failed before; see [`failed`](Self::failed). The host has stopped in both cases.
    ///
    /// # Cancel safety
    ///
    /// A cancelled shutdown abandons running tasks.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), AgentError> {
        let until = self.shared.clock.elapsed().saturating_add(deadline);
        // No new deliveries from here on.
        self.stop_consumers().await;
        // Tasks that wait for an engine's answer or for an event loop have not begun, and are
        // released.
        self.shared.attempt_cache.withdraw(None);
        let rest = until.saturating_sub(self.shared.clock.elapsed());
        let drained = self.drained_within(rest).await;
        let tasks = self.shared.attempt_cache.abandon();
        // Abandoned attempts get a moment to hand back their tasks.
        if !drained {
            self.drained_within(ABANDON_GRACE).await;
        }
        self.helpers.shutdown().await;
        self.announce_stop(until).await;
        if !drained {
            return Err(AgentError::ShutdownTimeout { tasks });
        }
        self.failure().map_or(Ok(()), |failure| Err(AgentError::Impaired { failure }))
    }

    /// Ends the subscriptions: first those of resources, then all others. Factories run in the same
    /// tasks, and one that blocks its thread is not waited for.
    async fn stop_consumers(&mut self) {
        let Self { shared, reconciler, consumers, .. } = self;
        let stopping = async {
            reconciler.stop().await;
            consumers.shutdown().await;
        };
        tokio::select! {
            biased;
            () = stopping => return,
            () = shared.clock.sleep(ABANDON_GRACE) => {}
        }
        tracing::warn!(
            "the creation of agents has not stopped within {ABANDON_GRACE:?}, probably because a factory \
             blocks its thread; the host stops without it"
        );
        // Dropping it stops its agents.
        self.reconciler = Reconciler::default();
        self.consumers.abort_all();
    }

    /// The first permanent failure of the host, if any: it can no longer take the tasks of a
    /// subscription, receive cancellations, or announce its agents, because store or broker refuse.
    /// The rest continues to work.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failing.failure()
    }

    /// Completes when part of the host fails permanently; see [`failure`](Self::failure).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn failed(&self) -> Failure {
        self.shared.failing.failed().await
    }

    /// The types of agents whose code blocks the thread or event loop it runs on at the moment; see
    /// [`HostOptions::blocked_after`].
    #[must_use]
    pub fn blocked_types(&self) -> Vec<Name> {
        let blocked = self.types.iter().filter(|hosted| hosted.place.is_blocked());
        blocked.map(|hosted| hosted.agent_type.clone()).collect()
    }

    /// Announces that the agents have stopped. Gives up when the time is over, so that an
    /// unreachable broker does not delay the shutdown.
    async fn announce_stop(&self, until: Duration) {
        // At least a second, even if the tasks have used up the deadline.
        let rest = until.saturating_sub(self.shared.clock.elapsed()).max(STOP_ANNOUNCEMENT);
        let stopped = self.status_changed(AgentStatus::Stopped);
        tokio::select! {
            biased;
            () = self.shared.announce_or_warn(stopped) => {}
            () = self.shared.clock.sleep(rest) => {
                tracing::warn!("timed out announcing that the agents have stopped");
            }
        }
    }

    /// Returns whether all tasks ended in time.
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

    /// The announcements of a status for all agents of the host.
    fn status_changed(&self, status: AgentStatus) -> Vec<announcement::Announcement> {
        self.types.iter().flat_map(|hosted| hosted.status_of_ready(status)).collect()
    }
}

/// The place where agents run. Agents that share a pulse share a place.
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

/// Starts the watchdog, if the options enable it.
fn watch(
    shared: &Arc<Shared>,
    types: &[Arc<HostedType>],
    places: Vec<Arc<Place>>,
) -> Result<Option<Watchdog>, AgentError> {
    // The thread of the watchdog would not be under the control of a simulation.
    let Some(limit) = shared.options.blocked_after.filter(|_| !is_simulated()) else {
        return Ok(None);
    };
    let watched = places.into_iter().filter_map(|place| {
        let here = types.iter().filter(|hosted| Arc::ptr_eq(&hosted.place, &place));
        let here: Vec<_> = here.map(|hosted| Arc::clone(&hosted.type_name)).collect();
        (!here.is_empty()).then_some((place, here))
    });
    Watchdog::start(shared, watched.collect(), limit).map(Some).map_err(|error| {
        AgentError::InvalidConfiguration {
            reason: format!("failed to start the watchdog thread: {error}"),
        }
    })
}

/// Whether a simulation runs on this thread. Other threads would make it non-deterministic.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return aios_core::simulation::current().is_some();
    #[cfg(not(feature = "simulation"))]
    false
}

impl Drop for AgentHost {
    fn drop(&mut self) {
        self.shared.attempt_cache.abandon();
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
