//! The engine: advances the runs of the shards that it owns.
//!
//! | modules | contents |
//! |---|---|
//! | `running`, `options`, `background`, `failing`, `error` | start, tasks, stop and permanent failures of an engine |
//! | `ownership` | own a share of the shards, renew it, hand it over |
//! | `recovery` | find the runs of a shard, park those that wait, load those that continue |
//! | `runs` | the runs in memory, their inboxes and timers, and what other processes append to them |
//! | `driver` | advance one run: journal, effects, attempts, deadlines |
//! | `executor` | poll runs on a thread of another language |
//! | `tasks` | publish tasks, and notice those that got lost |
//! | `answers` | receive answers, and questions of agents about attempts |
//! | `children` | start child runs, learn of their ends, cancel them |
//! | `hosting` | runs that move to an engine that has their code |
//! | `log` | read ranges of the log |
//! | `relay` | publish events of the log to the broker |
//!
//! # Who owns what
//!
//! The following tasks run as long as the engine. They share `Engine` and communicate through it.
//!
//! | task | waits for | does |
//! |---|---|---|
//! | publish tasks | the queue of the dispatcher | publishes to agents |
//! | read journals | the queue of reads | reads many at once |
//! | wake runs | the earliest timer | sends `TimerDue` |
//! | scan the log | the head of the log | wakes runs that others appended to |
//! | keep shards | a third of the lease time, released leases | renews, takes and hands over leases |
//! | watch leases | the end of the leases by the engine's own clock | ends all runs |
//! | note waiting runs, look for due runs | runs that leave memory, an interval | writes notes, reads those that fall due |
//! | look for dead letters, watch the broker | intervals, the connection | notices tasks that are lost |
//! | relay the log | the lease of the relay, the head of the log | publishes to the broker |
//! | watch runs | an interval | notices code that blocks |
//!
//! In addition, there is a task for each run in memory (`runs/live.rs`), for each mailbox that is read
//! (`ownership/slots.rs`), and for work that ends on its own (`background`). A panic in one of the tasks of
//! the list stops the engine.
//!
//! # Locks
//!
//! Synchronous locks guard single structures and are never held across an await. Those that nest are
//! taken in this order: `Parking`, `ActiveRuns`, then `Ownership`, an `Inbox` or `Timers`. The asynchronous
//! locks are `Ownership::changing` and `Engine::relaying`.

mod answers;
mod background;
mod children;
mod driver;
mod error;
mod executor;
mod failing;
mod hosting;
mod log;
mod options;
mod ownership;
mod recovery;
mod relay;
mod running;
mod runs;
mod tasks;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use aios_core::{
    BoxFuture,
    broker::Broker,
    clock::Clock,
    failure::Failure,
    store::{EventStoreExt, OwnerId, Shard, StoreError, StoreId},
};
use serde_json::json;
use tokio::sync::{Semaphore, futures::Notified, mpsc, watch};
use tracing::{info, warn};

use self::{
    background::BackgroundTasks,
    hosting::Hosting,
    ownership::{Ownership, Readers, StoreClock},
    recovery::{Parking, Recovering},
    runs::{ActiveRuns, BlockingRuns, Timers},
    tasks::{Activity, Audibility, Dispatch},
};
pub(crate) use self::{
    error::EngineError,
    log::{Range, is_unreadable, read_range},
    running::RunningEngine,
    runs::{Message, RunOutcome, Starting, Waiter, Waiters},
};
pub use self::{
    executor::RunExecutor,
    options::{AnonymousAnswers, EngineOptions, RefusedEvents},
};
use super::journal::Journals;
use crate::{
    agent::is_simulated, counting_store::CountingStore, failing::Failing, measure::Durations,
    task::JoinSet,
};

/// Limit of the runs that timers and recovery load at once; a run counts until it first waits.
const ACTIVATIONS: usize = 512;
/// Tasks that may wait for the broker.
const DISPATCHES: usize = 1024;

/// Tasks to publish, and journals to read.
type Queues = (mpsc::Receiver<Dispatch>, mpsc::Receiver<recovery::reads::Read>);

/// State shared by the parts of an engine.
pub(crate) struct Engine {
    /// Reads and appends without a fence.
    pub(crate) journals: Journals,
    /// Callers of this process that wait for runs to end.
    pub(crate) waiters: Waiters,
    /// Transports tasks, answers and what is relayed.
    broker: Arc<dyn Broker>,
    /// The same store as in `journals`.
    store: Arc<CountingStore>,
    /// Identity of the store, part of the names of mailboxes.
    store_id: StoreId,
    /// Follows the clock of the store; all deadlines use it.
    clock: Arc<dyn Clock>,
    /// The same clock, to record the time of the store.
    store_clock: Arc<StoreClock>,
    /// Checked when the runtime was built.
    options: EngineOptions,
    /// Polls the runs; the threads of the runtime do so if `None`.
    executor: Option<Arc<dyn RunExecutor>>,
    /// The name under which this engine holds its leases. New at each start.
    owner: OwnerId,
    /// Its workflows as others see them, and runs without code.
    hosting: Hosting,
    /// Its leases, as far as it knows.
    ownership: Ownership,
    /// The tasks that read mailboxes.
    readers: Readers,
    /// The tasks that record answers, at most as many as the mailboxes deliver unsettled.
    recorders: BackgroundTasks,
    /// The other tasks that end on their own.
    background: BackgroundTasks,
    /// Locked while the log is relayed.
    relaying: tokio::sync::Mutex<()>,
    /// The runs in memory.
    live: ActiveRuns,
    /// Runs whose code does not return.
    blocking: BlockingRuns,
    /// Wake-up times.
    timers: Timers,
    /// Notes of waiting runs that must be written.
    parking: Parking,
    /// The shards whose runs are being discovered.
    recovering: Recovering,
    /// Journals to be read.
    reads: mpsc::Sender<recovery::reads::Read>,
    /// How far the queues of agents have moved.
    activity: Activity,
    /// Since when agents can be heard.
    audibility: Audibility,
    /// Events for agents.
    dispatches: mpsc::Sender<Dispatch>,
    /// The types of the agents in this process.
    agent_types: Vec<Box<str>>,
    /// Limits how many runs are loaded at once, if they were not started by a caller.
    activations: Arc<Semaphore>,
    /// Number of answers received.
    answers_received: AtomicU64,
    /// Whether the engine is handing all its shards to other engines.
    leaving: watch::Sender<bool>,
    /// Whether all tasks must end.
    stopping: watch::Sender<bool>,
    /// The failure that stopped the engine, once there is one.
    failing: Failing,
    /// Reports how long operations took.
    durations: Durations,
    /// Whether the last call of the store failed.
    store_is_down: AtomicBool,
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
        executor: Option<Arc<dyn RunExecutor>>,
    ) -> Result<RunningEngine, EngineError> {
        let store_id = journals.store.id().await?;
        let (engine, queues) =
            Self::new(store_id, journals, broker, agent_types, options, executor);
        // Before the shards are acquired: what is appended after this position is scanned, and recovery
        // finds what came before.
        let position = runs::foreign_appends::start_position(&engine).await?;
        // Ends what has begun, if this future is dropped.
        let mut running = RunningEngine { engine, tasks: JoinSet::new() };
        if let Err(error) = Self::join(&running.engine).await {
            running.engine.halt().await;
            return Err(error);
        }
        running.tasks = Self::spawn_parts(&running.engine, queues, position).await;
        Ok(running)
    }

    /// An engine without runs and tasks, and the queues that its tasks serve.
    fn new(
        store_id: StoreId,
        journals: Journals,
        broker: Arc<dyn Broker>,
        agent_types: Vec<Box<str>>,
        options: EngineOptions,
        executor: Option<Arc<dyn RunExecutor>>,
    ) -> (Arc<Self>, Queues) {
        let (dispatches, dispatch_queue) = mpsc::channel(DISPATCHES);
        let (reads, read_queue) = mpsc::channel(recovery::reads::QUEUE);
        let store_clock = Arc::new(StoreClock::new(Arc::clone(&journals.clock)));
        let clock: Arc<dyn Clock> = Arc::<StoreClock>::clone(&store_clock);
        let journals = Journals { clock: Arc::clone(&clock), ..journals };
        let ownership = Ownership::new(Arc::clone(&clock));
        let hosting = Hosting::new(&journals.registry);
        let engine = Arc::new(Self {
            store_id,
            store: Arc::clone(&journals.store),
            clock,
            store_clock,
            journals,
            waiters: Waiters::default(),
            broker,
            options,
            executor,
            owner: hosting.engine.clone(),
            hosting,
            ownership,
            readers: Readers::default(),
            recorders: BackgroundTasks::default(),
            background: BackgroundTasks::default(),
            relaying: tokio::sync::Mutex::default(),
            live: ActiveRuns::default(),
            blocking: BlockingRuns::default(),
            timers: Timers::default(),
            parking: Parking::default(),
            recovering: Recovering::default(),
            reads,
            activity: Activity::default(),
            audibility: Audibility::default(),
            dispatches,
            agent_types,
            activations: Arc::new(Semaphore::new(ACTIVATIONS)),
            answers_received: AtomicU64::new(0),
            leaving: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            failing: Failing::default(),
            durations: Durations::default(),
            store_is_down: AtomicBool::new(false),
        });
        (engine, (dispatch_queue, read_queue))
    }

    /// Becomes a member of the engines, and acquires its share of the free shards.
    async fn join(engine: &Arc<Self>) -> Result<(), EngineError> {
        ownership::slots::join(engine).await?;
        ownership::leases::balance_now(engine).await
    }

    /// Spawns the tasks of an engine.
    async fn spawn_parts(
        engine: &Arc<Self>,
        (dispatches, reads): Queues,
        position: u64,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let mut spawn = |what: &'static str, part: BoxFuture<'static, ()>| {
            tasks.spawn(failing::guard(Arc::clone(engine), what, part));
        };
        spawn("publish tasks", Box::pin(tasks::dispatch::run(Arc::clone(engine), dispatches)));
        spawn("read journals", Box::pin(recovery::reads::run(Arc::clone(engine), reads)));
        spawn("note waiting runs", Box::pin(recovery::parking::note(Arc::clone(engine))));
        spawn("look for due runs", Box::pin(recovery::parking::look_ahead(Arc::clone(engine))));
        spawn("wake runs", Box::pin(runs::timers::run(Arc::clone(engine))));
        spawn("look for dead letters", Box::pin(tasks::dead_letters::run(Arc::clone(engine))));
        spawn("watch the broker", tasks::suspicion::watch(engine).await);
        spawn("watch leases", Box::pin(ownership::leases::watch(Arc::clone(engine))));
        spawn("keep shards", Box::pin(ownership::leases::run(Arc::clone(engine))));
        spawn("scan the log", Box::pin(runs::foreign_appends::run(Arc::clone(engine), position)));
        if let Some(limit) = engine.options.blocked_after.filter(|_| !is_simulated()) {
            spawn("watch runs", Box::pin(runs::blocked::watch(Arc::clone(engine), limit)));
        }
        if engine.options.relay {
            spawn("relay the log", Box::pin(relay::run(Arc::clone(engine))));
        }
        tasks.spawn(failing::halt_on_failure(Arc::clone(engine)));
        tasks
    }

    /// Completes when the engine is stopped.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this engine, so waiting can't fail.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Completes when the engine begins to hand over all of its shards.
    async fn leave_begun(&self) {
        let mut leaving = self.leaving.subscribe();
        // The sender lives as long as this engine, so waiting can't fail.
        let _ = leaving.wait_for(|leaving| *leaving).await;
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
            info!("the store answers again");
        }
    }

    /// Marks a failure as one of this engine. The run would fail here again in the same way, so it
    /// stays blocked until it is resumed, cancelled, or owned by another engine.
    fn own_failure(&self, failure: Failure) -> Failure {
        failure.with_details(json!({ "engine": self.owner.as_str() }))
    }

    /// Whether a failure was marked by [`own_failure`](Self::own_failure) of this engine.
    fn is_own_failure(&self, failure: &Failure) -> bool {
        let engine = failure.details.get::<String>("engine");
        engine.as_deref() == Some(self.owner.as_str())
    }

    /// Whether a run is in memory.
    pub(crate) fn holds(&self, run_id: &str) -> bool {
        self.live.contains(run_id)
    }

    /// Whether it may be about to load a run that it finds in the store.
    pub(crate) fn is_recovering(&self, run_id: &str) -> bool {
        self.recovering.contains(Shard::of(run_id))
    }

    /// Completes when it has found the runs of some shards, from this call on.
    pub(crate) fn recovered(&self) -> Notified<'_> {
        self.recovering.ended()
    }

    /// Whether it hands over all of its shards.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Whether its tasks must end.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("owner", &self.owner).finish_non_exhaustive()
    }
}
