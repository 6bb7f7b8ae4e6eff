//! The engine: advances the runs of the shards that it owns.

mod activity;
mod answers;
mod cancel;
mod child;
mod clock;
mod dead_letters;
mod dispatch;
mod driver;
mod executor;
mod failing;
mod foreign_appends;
mod hosting;
mod inbox;
mod leases;
mod leave;
mod live;
mod log;
mod mailbox;
mod members;
mod notes;
mod ownership;
mod parking;
mod questions;
mod reads;
mod recover;
mod registry;
mod relay;
mod slots;
mod suspicion;
mod timers;
mod waiters;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_core::{
    BoxFuture,
    broker::{Broker, BrokerError},
    clock::Clock,
    failure::Failure,
    store::{EventStoreExt, OwnerId, StoreError, StoreId},
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};

use tracing::{info, warn};

pub use self::executor::RunExecutor;
use self::{
    activity::Activity, answers::Recorders, clock::StoreClock, dispatch::Dispatch,
    hosting::Hosting, live::ActiveRuns, ownership::Ownership, parking::Parking, slots::Readers,
    timers::Timers,
};
pub(crate) use self::{
    live::{Message, Starting},
    log::{Range, is_unreadable, read_range},
    registry::Registry,
    waiters::{RunOutcome, Waiter, Waiters},
};
use crate::{
    counting_store::CountingStore, failing::Failing, options::check_span, task::JoinSet,
    workflow::journal::Journals,
};

/// Runs that may be loading or bursting at once because of timers and recovery.
const ACTIVATIONS: usize = 512;
/// Tasks that may wait for the broker.
const DISPATCHES: usize = 1024;

/// How often, and at which interval, the engine checks for in-flight work before it stops.
const QUIESCE_CHECKS: u32 = 40;
const QUIESCE_INTERVAL: Duration = Duration::from_millis(25);

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Lifetime of a lease: how long it takes to replace an engine that died. At least 100 ms; use
    /// some seconds, because an engine whose process is paused for longer loses its runs.
    pub lease_time: Duration,
    /// A run whose next timer is due within this time stays in memory.
    pub eviction_delay: Duration,
    /// Pause after an error of the store or broker: the first one, and the longest.
    pub backoff: (Duration, Duration),
    /// How often a run that waits for a child checks whether it missed the child's end.
    pub child_poll_interval: Duration,
    /// How long an agent that has begun a task may go without a heartbeat before the task is
    /// assigned to another agent.
    pub heartbeat_timeout: Duration,
    /// How long after a task's timeout the engine waits for the agent's own report before it counts
    /// the attempt as failed.
    pub task_grace: Duration,
    /// How to treat an answer that does not name the assignment of its task.
    pub anonymous_answers: AnonymousAnswers,
    /// How soon the engine looks for an unclaimed task among the dead letters of its agents. The
    /// interval doubles after each check, up to 5 minutes.
    pub dead_letter_check: Duration,
    /// How long a task may wait for an agent to begin it before it counts as unclaimed: the log,
    /// the run's status and the metric `aios_tasks_unclaimed` report it.
    pub unclaimed_after: Duration,
    /// How long after its last dispatch or report an unclaimed task is dispatched again if its
    /// message seems to be lost: the broker has no tasks in its queue, or agents of its type began
    /// later ones, and no process reports within a second plus [`task_grace`](Self::task_grace)
    /// that it has taken the task. The pause doubles each time, up to an hour. A process recognises
    /// a repeated message of a task that it has.
    ///
    /// When the broker is connected again after a lost connection, or when a queue is gone, a task
    /// that seems to be lost is dispatched again without this pause.
    ///
    /// An engine that takes a run over does the same for the tasks that its predecessor dispatched.
    ///
    /// Agents that are not built with aios and send no heartbeats may receive such a task again
    /// while they work on it, unless this is `None`. If it is `None`, an engine that takes a run over
    /// dispatches all of its open tasks again, because the predecessor may not have dispatched them.
    pub redispatch_after: Option<Duration>,
    /// Whether lifecycle events of the log are published to the broker.
    pub relay: bool,
    /// How long the relay retries an event that the broker rejects, for example because a group is
    /// full, before the event counts as refused. No later event is published in that time.
    pub relay_patience: Duration,
    /// How to treat an event that the broker refuses permanently.
    pub refused_events: RefusedEvents,
    /// Polls the runs; the threads of the runtime do so if `None`.
    pub executor: Option<Arc<dyn RunExecutor>>,
}

/// How the engine treats an answer that comes from the right agent type but does not name the event
/// that assigned the task as its cause. Agents that are built with aios always name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnonymousAnswers {
    /// It is accepted, unless an agent that names the assignment is heard of within
    /// [`task_grace`](EngineOptions::task_grace). This lets agents answer that are not built with
    /// aios.
    #[default]
    AcceptAfterGrace,
    /// It becomes a dead letter.
    Refuse,
}

/// How the relay treats an event of the log that can't be read, or that the broker refuses
/// permanently because it is too large or was rejected for as long as
/// [`relay_patience`](EngineOptions::relay_patience).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedEvents {
    /// It is logged as an error, counted in `aios_relay_skipped_total` and not published. It stays
    /// in the log.
    #[default]
    Skip,
    /// The engine stops. The next relay begins with this event.
    Stop,
}

impl EngineOptions {
    /// Rejects options that would spin, never take effect, or contradict each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let moment = Duration::from_millis(1);
        let (first, most) = self.backoff;
        check_span("lease_time", self.lease_time, Duration::from_millis(100))?;
        check_span("eviction_delay", self.eviction_delay, Duration::ZERO)?;
        check_span("backoff.0", first, moment)?;
        check_span("backoff.1", most, moment)?;
        check_span("child_poll_interval", self.child_poll_interval, moment)?;
        check_span("heartbeat_timeout", self.heartbeat_timeout, moment)?;
        check_span("task_grace", self.task_grace, Duration::ZERO)?;
        check_span("dead_letter_check", self.dead_letter_check, moment)?;
        check_span("unclaimed_after", self.unclaimed_after, moment)?;
        if let Some(after) = self.redispatch_after {
            check_span("redispatch_after", after, moment)?;
        }
        check_span("relay_patience", self.relay_patience, Duration::ZERO)?;
        if first > most {
            return Err(format!("backoff begins with {first:?}, above its maximum of {most:?}"));
        }
        Ok(())
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lease_time: Duration::from_secs(10),
            eviction_delay: Duration::from_secs(1),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            child_poll_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(30),
            task_grace: Duration::from_secs(2),
            dead_letter_check: Duration::from_secs(5),
            unclaimed_after: Duration::from_secs(30),
            redispatch_after: Some(Duration::from_secs(60)),
            anonymous_answers: AnonymousAnswers::default(),
            relay: true,
            relay_patience: Duration::from_secs(300),
            refused_events: RefusedEvents::default(),
            executor: None,
        }
    }
}

/// Errors that stop or delay an engine.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the broker failed")]
    Broker(#[from] BrokerError),
}

impl EngineError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Broker(error) => error.is_retryable(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
        }
    }
}

/// State shared by the parts of an engine.
pub(crate) struct Engine {
    pub(crate) journals: Journals,
    pub(crate) waiters: Waiters,
    broker: Arc<dyn Broker>,
    store: Arc<CountingStore>,
    /// Identity of the store, part of the names of mailboxes.
    store_id: StoreId,
    clock: Arc<dyn Clock>,
    /// The same clock, to record the time of the store.
    store_clock: Arc<StoreClock>,
    options: EngineOptions,
    owner: OwnerId,
    hosting: Hosting,
    ownership: Ownership,
    readers: Readers,
    recorders: Recorders,
    /// Locked while the log is relayed.
    relaying: tokio::sync::Mutex<()>,
    live: ActiveRuns,
    timers: Timers,
    parking: Parking,
    reads: mpsc::Sender<reads::Read>,
    activity: Activity,
    dispatches: mpsc::Sender<Dispatch>,
    /// The types of the agents in this process.
    agent_types: Vec<Box<str>>,
    activations: Arc<Semaphore>,
    /// Number of answers received.
    answers_received: AtomicU64,
    /// Whether the engine is handing all its shards to other engines.
    leaving: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    failing: Failing,
    /// Whether the last call of the store failed.
    store_is_down: AtomicBool,
}

/// A running engine.
#[derive(Debug)]
pub(crate) struct RunningEngine {
    pub(crate) engine: Arc<Engine>,
    tasks: JoinSet<()>,
}

impl Engine {
    /// Acquires the free shards and resumes their runs.
    ///
    /// # Errors
    ///
    /// Errors of the store and the broker. Nothing is left running in that case.
    pub(crate) async fn start(
        journals: Journals,
        broker: Arc<dyn Broker>,
        agent_types: Vec<Box<str>>,
        options: EngineOptions,
    ) -> Result<RunningEngine, EngineError> {
        let (dispatches, queue) = mpsc::channel(DISPATCHES);
        let (reads, asked) = mpsc::channel(reads::QUEUE);
        let store_clock = Arc::new(StoreClock::new(Arc::clone(&journals.clock)));
        let clock: Arc<dyn Clock> = Arc::<StoreClock>::clone(&store_clock);
        let journals = Journals { clock: Arc::clone(&clock), ..journals };
        let ownership = Ownership::new(Arc::clone(&clock));
        let hosting = Hosting::new(&journals.registry);
        let engine = Arc::new(Self {
            store_id: journals.store.id().await?,
            store: Arc::clone(&journals.store),
            clock,
            store_clock,
            journals,
            waiters: Waiters::default(),
            broker,
            options,
            owner: hosting.engine.clone(),
            hosting,
            ownership,
            readers: Readers::default(),
            recorders: Recorders::default(),
            relaying: tokio::sync::Mutex::default(),
            live: ActiveRuns::default(),
            timers: Timers::default(),
            parking: Parking::default(),
            reads,
            activity: Activity::default(),
            dispatches,
            agent_types,
            activations: Arc::new(Semaphore::new(ACTIVATIONS)),
            answers_received: AtomicU64::new(0),
            leaving: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            failing: Failing::default(),
            store_is_down: AtomicBool::new(false),
        });
        let position = foreign_appends::start_position(&engine).await?;
        let mut tasks = JoinSet::new();
        slots::join(&engine).await?;
        leases::balance_now(&engine).await?;
        let mut spawn = |what: &'static str, part: BoxFuture<'static, ()>| {
            tasks.spawn(failing::guard(Arc::clone(&engine), what, part));
        };
        spawn("publish tasks", Box::pin(dispatch::run(Arc::clone(&engine), queue)));
        spawn("read journals", Box::pin(reads::run(Arc::clone(&engine), asked)));
        spawn("note waiting runs", Box::pin(parking::note(Arc::clone(&engine))));
        spawn("look for due runs", Box::pin(parking::look_ahead(Arc::clone(&engine))));
        spawn("wake runs", Box::pin(timers::run(Arc::clone(&engine))));
        spawn("look for dead letters", Box::pin(dead_letters::run(Arc::clone(&engine))));
        spawn("watch the broker", suspicion::watch(&engine).await);
        spawn("watch leases", Box::pin(leases::watch(Arc::clone(&engine))));
        spawn("keep shards", Box::pin(leases::run(Arc::clone(&engine))));
        spawn("scan the log", Box::pin(foreign_appends::run(Arc::clone(&engine), position)));
        if engine.options.relay {
            spawn("relay the log", Box::pin(relay::run(Arc::clone(&engine))));
        }
        tasks.spawn(failing::halt_on_failure(Arc::clone(&engine)));
        Ok(RunningEngine { engine, tasks })
    }

    /// Completes when the engine is stopped.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this engine, so waiting can't fail.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Logs that the store failed, once until it answers again.
    fn store_failed(&self, error: &StoreError) {
        if !self.store_is_down.swap(true, Ordering::AcqRel) {
            let failure = Failure::from_error(error.code(), error);
            warn!(error = failure.message, code = failure.code, "the store failed; trying again");
        }
    }

    /// Logs that the store answers again, if it had failed.
    fn store_answered(&self) {
        if self.store_is_down.load(Ordering::Acquire)
            && self.store_is_down.swap(false, Ordering::AcqRel)
        {
            info!("the store is back");
        }
    }

    /// Marks a failure as one of this engine. The run would fail here in the same way, so it stays
    /// blocked until it is resumed, cancelled, or owned by another engine.
    fn own_failure(&self, failure: Failure) -> Failure {
        failure.with_details(json!({ "engine": self.owner.as_str() }))
    }

    /// Whether a failure was marked by [`own_failure`](Self::own_failure) of this engine.
    fn is_own_failure(&self, failure: &Failure) -> bool {
        let engine = failure.details.get("engine").and_then(serde_json::Value::as_str);
        engine == Some(self.owner.as_str())
    }

    /// Whether a run is in memory.
    pub(crate) fn holds(&self, run_id: &str) -> bool {
        self.live.contains(run_id)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl RunningEngine {
    /// Stops advancing runs once their current steps have ended or `grace` is over, and hands each
    /// shard over as soon as none of its runs is active. The runs resume on another engine or after
    /// the next start.
    pub(crate) async fn leave(&self, grace: Duration) {
        self.engine.leave(grace).await;
    }

    /// Stops everything; call [`leave`](Self::leave) first to let current steps end. Returns the
    /// failure if the engine had already stopped because of one.
    pub(crate) async fn stop(mut self) -> Option<Failure> {
        let failure = self.engine.failure();
        if failure.is_none() {
            self.quiesce().await;
        }
        self.engine.stopping.send_replace(true);
        self.engine.readers.stop();
        self.engine.live.stop().await;
        self.engine.recorders.stop().await;
        self.tasks.shutdown().await;
        parking::note_rest(&self.engine).await;
        self.engine.store.unwatch();
        self.engine.release_leases().await;
        failure
    }
}

impl RunningEngine {
    /// Waits until the answers that agents have just sent are recorded: a broker in memory would
    /// lose them, and the tasks would be performed again. Returns once there was no progress for a
    /// moment.
    async fn quiesce(&self) {
        let engine = &self.engine;
        let mut before = None;
        for _ in 0..QUIESCE_CHECKS {
            let count = engine.store.count();
            let now = (engine.answers_received.load(Ordering::Acquire), count.begun);
            if before == Some(now) && !count.is_appending && engine.recorders.is_idle() {
                return;
            }
            before = Some(now);
            engine.clock.sleep(QUIESCE_INTERVAL).await;
        }
    }
}

/// Runs resume from their journals after the next start.
impl Drop for RunningEngine {
    fn drop(&mut self) {
        self.engine.stopping.send_replace(true);
        drop(self.engine.live.take());
        drop(self.engine.ownership.take());
        self.engine.readers.stop();
        drop(self.engine.recorders.take());
        self.engine.store.unwatch();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("owner", &self.owner).finish_non_exhaustive()
    }
}
