//! Open tasks of runs that move to another engine: they are sought, and dispatched again only if
//! neither the broker nor an agent has them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{agent::AgentDefinition, prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, BrokerError, Deliveries, Group, Publish, Subscription},
    clock::{Clock, SystemClock},
    store::Leases,
};
use tokio::sync::Notify;

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, holds},
    workflows::{actions, eventually, result, store},
};

/// Longer than it takes until a task that no process reports counts as lost.
const LONG: Duration = Duration::from_secs(6);

/// An agent whose tasks end when the test lets them.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<AtomicU32>,
    ended: Arc<AtomicU32>,
    proceed: Arc<Notify>,
}

impl Agent for Slow {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.proceed.notified().await;
        self.ended.fetch_add(1, Ordering::SeqCst);
        Ok(number)
    }
}

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("slow", &1).await
}

async fn ask_thrice(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let tasks = (1..=3).map(|number| context.task::<u32>("slow", &number));
    Ok(futures_util::future::try_join_all(tasks).await?.into_iter().sum())
}

/// Counts something that is published, and lets it pass.
fn count(number: &AtomicU32) -> Option<Fault<BrokerError>> {
    number.fetch_add(1, Ordering::SeqCst);
    None
}

/// A store and a broker that outlive engines and agents.
struct Site {
    store: Arc<FaultyStore>,
    broker: Arc<FaultyBroker>,
    /// How often tasks were published, and questions about attempts.
    dispatched: Arc<AtomicU32>,
    sought: Arc<AtomicU32>,
    agent: Slow,
}

impl Site {
    fn new() -> Self {
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        let (dispatched, sought) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (tasks, questions) = (Arc::clone(&dispatched), Arc::clone(&sought));
        broker.on_publish(move |publish: &Publish| match publish.event.event_type.action() {
            "task_assigned" => count(&tasks),
            "attempt_sought" => count(&questions),
            _ => None,
        });
        let store = FaultyStore::new(store());
        Self { store, broker, dispatched, sought, agent: Slow::default() }
    }

    async fn engine(&self) -> Runtime {
        self.engine_on(Arc::clone(&self.broker) as _).await
    }

    async fn engine_on(&self, broker: Arc<dyn Broker>) -> Runtime {
        let lease_time = Duration::from_millis(600);
        let task_grace = Duration::from_millis(200);
        let options = EngineOptions::new().with_lease_time(lease_time).with_task_grace(task_grace);
        let builder = Runtime::builder().store(Arc::clone(&self.store) as _);
        let builder = builder.broker(broker).engine_options(options);
        let builder = builder.workflow("ask", ask).workflow("ask_thrice", ask_thrice);
        builder.start().await.unwrap()
    }

    async fn agents(&self, concurrency: u16) -> Runtime {
        let builder = Runtime::builder().store(Arc::clone(&self.store) as _);
        let builder = builder.broker(Arc::clone(&self.broker) as _);
        let definition = AgentDefinition::instance("slow", self.agent.clone());
        builder
            .agents(definition.with_concurrency(concurrency))
            .client_only()
            .start()
            .await
            .unwrap()
    }

    /// Takes tasks in place of an agent.
    async fn queue(&self) -> Deliveries {
        let pattern = "agents.slow.task_assigned".parse().unwrap();
        let group = Subscription::group(Group::new("agents.slow").unwrap(), [pattern]);
        self.broker.subscribe(group).await.unwrap()
    }

    async fn begun(&self, expected: u32) {
        let begun = || async { self.agent.begun.load(Ordering::SeqCst) == expected };
        eventually(&format!("{expected} tasks have begun"), begun).await;
    }

    /// Lets one task end.
    async fn end_one(&self) {
        let ended = self.agent.ended.load(Ordering::SeqCst);
        self.agent.proceed.notify_one();
        let has_ended = || async { self.agent.ended.load(Ordering::SeqCst) > ended };
        eventually("a task ends", has_ended).await;
    }

    /// Replaces an engine by another one, which takes its runs over.
    async fn replace(&self, engine: Runtime) -> Runtime {
        let next = self.engine().await;
        engine.shutdown(Duration::from_secs(5)).await.unwrap();
        let sought = || async { self.sought.load(Ordering::SeqCst) > 0 };
        eventually("the next engine seeks the task", sought).await;
        next
    }

    fn dispatched(&self) -> u32 {
        self.dispatched.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_dispatch_tasks_again_that_agents_have() {
    let site = Site::new();
    let (engine, agents) = (site.engine().await, site.agents(2).await);
    let run = engine.start("ask_thrice", &()).await.unwrap().id().to_owned();
    // The third waits in the process of the agents.
    site.begun(2).await;
    let engine = site.replace(engine).await;
    SystemClock.sleep(LONG).await;
    assert_eq!((site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (3, 2));
    let proceed = Arc::clone(&site.agent.proceed);
    let ended = async {
        loop {
            proceed.notify_waiters();
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    let run = engine.handle(&run).await.unwrap();
    tokio::select! {
        sum = result::<u32>(&run) => assert_eq!(sum.unwrap(), 6),
        () = ended => {}
    }
    assert_eq!((site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (3, 3));
    drop(agents);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_dispatch_a_task_again_that_waits_in_its_queue() {
    let site = Site::new();
    // The queue exists, and no agent takes its tasks.
    drop(site.queue().await);
    let engine = site.engine().await;
    let run = engine.start("ask", &()).await.unwrap().id().to_owned();
    eventually("the task is published", || async { site.dispatched() == 1 }).await;
    let engine = site.replace(engine).await;
    SystemClock.sleep(LONG).await;
    let agents = site.agents(1).await;
    site.begun(1).await;
    site.agent.proceed.notify_one();
    assert_eq!(result::<u32>(&engine.handle(&run).await.unwrap()).await.unwrap(), 1);
    assert_eq!((site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (1, 1));
    drop(agents);
}

/// The first engine may die after it has recorded a task and before the broker has it.
#[tokio::test(flavor = "multi_thread")]
async fn should_dispatch_a_task_again_that_never_reached_the_broker() {
    let site = Site::new();
    let (engine, mut queue) = (site.engine().await, site.queue().await);
    let run = engine.start("ask", &()).await.unwrap().id().to_owned();
    // As if it had not been published.
    queue.next().await.unwrap().unwrap().ack().await.unwrap();
    drop(queue);
    let agents = site.agents(1).await;
    let engine = site.replace(engine).await;
    site.begun(1).await;
    site.agent.proceed.notify_one();
    assert_eq!(result::<u32>(&engine.handle(&run).await.unwrap()).await.unwrap(), 1);
    assert_eq!((site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (2, 1));
    drop(agents);
}

/// The engine begins to shut down while the assignment is being appended.
#[tokio::test(flavor = "multi_thread")]
async fn should_dispatch_a_task_before_its_run_moves() {
    let site = Site::new();
    drop(site.queue().await);
    let (opened, gate) = tokio::sync::watch::channel(false);
    site.store.on_append(move |append| {
        let mut gate = gate.clone();
        let opened = async move { drop(gate.wait_for(|is_open| *is_open).await) };
        holds(append, "task_assigned").then(|| Fault::Until(Box::pin(opened)))
    });
    let engine = site.engine().await;
    let run = engine.start("ask", &()).await.unwrap();
    eventually("the task is assigned", || async { actions(&run).await.len() == 2 }).await;
    let run = run.id().to_owned();
    let stopping = tokio::spawn(async move { engine.shutdown(Duration::from_secs(30)).await });
    let has_left = || async {
        let leases = site.store.leases().await.unwrap();
        leases.iter().all(|lease| lease.shard.slot_number().is_none())
    };
    eventually("the engine has told its runs to leave", has_left).await;
    opened.send_replace(true);
    stopping.await.unwrap().unwrap();
    assert_eq!(site.dispatched(), 1, "before it moves");
    site.store.heal();
    let (engine, agents) = (site.engine().await, site.agents(1).await);
    site.end_one().await;
    assert_eq!(result::<u32>(&engine.handle(&run).await.unwrap()).await.unwrap(), 1);
    assert_eq!((site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (1, 1));
    drop(agents);
}

/// A broker does not deliver what is in the mailbox of a frozen engine to another one until it has
/// closed the connection. The agents send their answers to the engine that asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn should_get_answers_while_the_mailbox_of_a_frozen_engine_is_not_readable() {
    let site = Site::new();
    let (frozen, agents) = (site.engine().await, site.agents(3).await);
    let run = frozen.start("ask_thrice", &()).await.unwrap().id().to_owned();
    site.begun(3).await;
    let unreadable = FaultyBroker::new(Arc::clone(&site.broker) as _);
    unreadable.on_subscribe(|subscription| {
        let is_of_first = subscription.address.to_string().ends_with(".answers.0");
        is_of_first.then_some(Fault::Hang)
    });
    let next = site.engine_on(unreadable as _).await;
    drop(frozen);
    // One task ends before the run is taken over, the others end after that.
    site.end_one().await;
    let sought = || async { site.sought.load(Ordering::SeqCst) > 0 };
    eventually("the next engine seeks the tasks", sought).await;
    site.end_one().await;
    site.end_one().await;
    let sum = result::<u32>(&next.handle(&run).await.unwrap()).await.unwrap();
    assert_eq!((sum, site.dispatched(), site.agent.begun.load(Ordering::SeqCst)), (6, 3, 3));
    drop(agents);
}
