//! The engine: advances the runs of the shards that it owns.

mod activity;
mod answers;
mod cancel;
mod child;
mod clock;
mod dead_letters;
mod discover;
mod dispatch;
mod driver;
mod executor;
mod failing;
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
    hosting::Hosting, live::Live, ownership::Ownership, parking::Parking, slots::Readers,
    timers::Timers,
};
pub(crate) use self::{
    live::{Message, Starting},
    log::{Range, read_range},
    registry::Registry,
    waiters::{Ended, Waiter, Waiters},
};
use crate::{
    counted::CountedStore, failing::Failing, options::check_span, task::JoinSet,
    workflow::journal::Journals,
};

/// Runs that may be loading or bursting at once because of timers and recovery.
const ACTIVATIONS: usize = 512;
/// Tasks that may wait for the broker.
const DISPATCHES: usize = 1024;

/// How often, and with what pauses, is looked whether anything still moves before an engine stops.
const SETTLE_LOOKS: u32 = 40;
const SETTLE_PAUSE: Duration = Duration::from_millis(25);

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How long a lease lives; the time that the death of an engine costs. At least 100 ms, and
    /// better some seconds: a pause of the process for longer costs it its runs.
    pub lease_time: Duration,
    /// Runs whose timer is due within this time stay in memory.
    pub eviction_delay: Duration,
    /// How long to wait after a store or broker failed, at first and at most.
    pub backoff: (Duration, Duration),
    /// How often a run that waits for a child looks whether it missed the child's end.
    pub child_poll_interval: Duration,
    /// How long an agent that sent a heartbeat for a task may be silent before the task is given
    /// to another.
    pub heartbeat_timeout: Duration,
    /// How long after a task's timeout the engine waits for the agent's own report, before it
    /// counts the attempt as failed.
    pub task_grace: Duration,
    /// What becomes of an answer that does not name the assignment of its task.
    pub anonymous_answers: AnonymousAnswers,
    /// How soon the engine looks for a task that no agent begins among the dead letters of its
    /// agents. The pause doubles from look to look, up to 5 minutes.
    pub dead_letter_check: Duration,
    /// After how long without a sign of an agent that begins it a task counts as unclaimed: the log, the
    /// run's status and the metric `aios_tasks_unclaimed` say so.
    pub unclaimed_after: Duration,
    /// How long after it was given, or last heard of, a task that no agent has begun is given again, if
    /// its message seems to be lost: the broker has no tasks in its queue, or agents of its type began
    /// later ones, and no process says within a second and [`task_grace`](Self::task_grace) that it has
    /// taken it. The pause doubles from time to time, up to an hour. A process recognises the repetition
    /// of what it has.
    ///
    /// After the connection to the broker was lost and is back, or when a queue is gone, a task that seems
    /// to be lost is given again without this pause.
    ///
    /// Agents that were not made with aios and send no heartbeats may get such a task again while they
    /// work on it, unless this is `None`.
    pub redispatch_after: Option<Duration>,
    /// Whether lifecycle events of the log are published to the broker.
    pub relay: bool,
    /// How long the relay tries to publish an event that the broker rejects, for example because a
    /// group is full, before the event counts as refused. Nothing is published behind it meanwhile.
    pub relay_patience: Duration,
    /// What becomes of an event that the broker refuses for good.
    pub refused_events: RefusedEvents,
    /// Who polls the runs; the threads of the runtime if `None`.
    pub executor: Option<Arc<dyn RunExecutor>>,
}

/// What becomes of an answer that comes from the right agent type, and does not name the event that
/// assigned the task as its cause. Agents that are made with aios always name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnonymousAnswers {
    /// It is accepted, unless an agent that names the assignment is heard of within
    /// [`task_grace`](EngineOptions::task_grace). Agents that were not made with aios can answer.
    #[default]
    AcceptAfterGrace,
    /// It becomes a dead letter.
    Refuse,
}

/// What becomes of an event of the log that the broker refuses for good, because it is too large or was
/// rejected for as long as [`relay_patience`](EngineOptions::relay_patience), or that can't be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedEvents {
    /// It is logged as an error, counted as `aios_relay_skipped_total` and not published. It stays in
    /// the log.
    #[default]
    Skip,
    /// The engine stops. The next relay begins with this event.
    Stop,
}

impl EngineOptions {
    /// Refuses what would spin, never happen, or not fit together.
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

/// What an engine could not do.
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

/// What the parts of an engine share.
pub(crate) struct Engine {
    pub(crate) journals: Journals,
    pub(crate) waiters: Waiters,
    broker: Arc<dyn Broker>,
    store: Arc<CountedStore>,
    /// Identity of the store, part of the names of mailboxes.
    store_id: StoreId,
    clock: Arc<dyn Clock>,
    /// The same clock, which is told the time of the store.
    store_clock: Arc<StoreClock>,
    options: EngineOptions,
    owner: OwnerId,
    hosting: Hosting,
    ownership: Ownership,
    readers: Readers,
    recorders: Recorders,
    /// Held while the log is relayed.
    relaying: tokio::sync::Mutex<()>,
    live: Live,
    timers: Timers,
    parking: Parking,
    reads: mpsc::Sender<reads::Read>,
    activity: Activity,
    dispatches: mpsc::Sender<Dispatch>,
    /// The types of the agents in this process.
    agent_types: Vec<Box<str>>,
    activations: Arc<Semaphore>,
    /// Answers that came.
    heard: AtomicU64,
    /// Whether everything is given to other engines.
    leaving: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    failing: Failing,
    /// Whether the store did not answer when it was asked last.
    store_is_down: AtomicBool,
}

/// An engine that runs.
#[derive(Debug)]
pub(crate) struct RunningEngine {
    pub(crate) engine: Arc<Engine>,
    tasks: JoinSet<()>,
}

impl Engine {
    /// Takes the shards that are free, and lets their runs go on.
    ///
    /// # Errors
    ///
    /// What store and broker report; nothing runs then.
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
            live: Live::default(),
            timers: Timers::default(),
            parking: Parking::default(),
            reads,
            activity: Activity::default(),
            dispatches,
            agent_types,
            activations: Arc::new(Semaphore::new(ACTIVATIONS)),
            heard: AtomicU64::new(0),
            leaving: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            failing: Failing::default(),
            store_is_down: AtomicBool::new(false),
        });
        let position = discover::begin(&engine).await?;
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
        spawn("look for news", Box::pin(discover::run(Arc::clone(&engine), position)));
        if engine.options.relay {
            spawn("relay the log", Box::pin(relay::run(Arc::clone(&engine))));
        }
        tasks.spawn(failing::halt_on_failure(Arc::clone(&engine)));
        Ok(RunningEngine { engine, tasks })
    }

    /// Completes when the engine is told to stop.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this engine, so waiting can't fail.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Says that the store does not answer, once until it does.
    fn store_failed(&self, error: &StoreError) {
        if !self.store_is_down.swap(true, Ordering::AcqRel) {
            let failure = Failure::from_error(error.code(), error);
            warn!(error = failure.message, code = failure.code, "the store failed; trying again");
        }
    }

    /// Says that the store answers again, if it did not.
    fn store_answered(&self) {
        if self.store_is_down.load(Ordering::Acquire)
            && self.store_is_down.swap(false, Ordering::AcqRel)
        {
            info!("the store is back");
        }
    }

    /// A failure that a run has in this engine: it would have it again here, so the run stands still
    /// until it is resumed, cancelled, or another engine has it.
    fn own_failure(&self, failure: Failure) -> Failure {
        failure.with_details(json!({ "engine": self.owner.as_str() }))
    }

    /// Whether a failure is of this engine.
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
    /// Stops advancing runs, after those that run a step were given time, and hands the shards over as
    /// soon as nothing of them runs. What was recorded goes on elsewhere or after the next start.
    pub(crate) async fn leave(&self, grace: Duration) {
        self.engine.leave(grace).await;
    }

    /// Stops everything. Whoever gives the engine's runs time lets it [`leave`](Self::leave) first.
    /// Returns why it had stopped by itself, if it had.
    pub(crate) async fn stop(mut self) -> Option<Failure> {
        let failure = self.engine.failure();
        if failure.is_none() {
            self.settle().await;
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
    /// Lets answers be recorded that agents have just given: a broker in memory would lose them,
    /// and the tasks would be done again. Ends when nothing has moved for a moment.
    async fn settle(&self) {
        let engine = &self.engine;
        let mut before = None;
        for _ in 0..SETTLE_LOOKS {
            let count = engine.store.count();
            let now = (engine.heard.load(Ordering::Acquire), count.begun);
            if before == Some(now) && !count.is_moving && engine.recorders.is_idle() {
                return;
            }
            before = Some(now);
            engine.clock.sleep(SETTLE_PAUSE).await;
        }
    }
}

/// What was recorded goes on after the next start.
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
