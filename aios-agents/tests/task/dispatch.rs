//! Publication of tasks: each attempt once, and only while its run waits for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentHost, AgentSet},
    prelude::*,
    runtime::EngineOptions,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted},
    broker::{Broker, BrokerError, BrokerExt, Group, Mailbox, Publish, Subscription},
    clock::VirtualClock,
    event::Timestamp,
    retry::Backoff,
    store::RecordedEvent,
};
use tokio::sync::Notify;

use crate::support::{
    faulty::{Fault, FaultyBroker},
    workflows::{Doubler, PATIENCE, actions, eventually, quick, result, runtime, store},
};

async fn ask(context: WorkflowContext, agent: String) -> Result<u32, WorkflowError> {
    context.task(agent, &1).retry(quick(3)).await
}

/// The attempt that a publication assigns, if it assigns one.
fn attempt(publish: &Publish) -> Option<u32> {
    let is_task = publish.event.event_type.action() == "task_assigned";
    is_task.then(|| publish.event.data::<TaskAssigned>().unwrap().attempt)
}

/// Counts how often each attempt is published. The first one is refused at first.
fn count_attempts(broker: &FaultyBroker) -> Arc<Mutex<BTreeMap<u32, usize>>> {
    let given: Arc<Mutex<BTreeMap<u32, usize>>> = Arc::default();
    let counted = Arc::clone(&given);
    broker.on_publish(move |publish| {
        let attempt = attempt(publish)?;
        let mut given = counted.lock().unwrap();
        let count = given.entry(attempt).or_default();
        *count += 1;
        let is_put_off = attempt == 1 && *count == 1;
        is_put_off.then(|| Fault::Refuse(BrokerError::Rejected { reason: "it is full".to_owned() }))
    });
    given
}

/// Once the broker had refused an attempt, the later ones were assigned twice, and each of their
/// failures was counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn should_assign_each_attempt_once_after_one_was_deferred() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let given = count_attempts(&broker);
    let builder = runtime(&store()).broker(broker as Arc<dyn Broker>).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("ask", &"missing").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "AGENT_NOT_FOUND");
    assert_eq!(*given.lock().unwrap(), BTreeMap::from([(1, 2), (2, 1), (3, 1)]));
    let journal = run.journal(0, 100).await.unwrap();
    let is_retry = |it: &&RecordedEvent| it.event.event_type.action() == "retry_scheduled";
    assert_eq!(journal.iter().filter(is_retry).count(), 2);
}

async fn ask_in_time(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("silent", &1).timeout(Duration::from_millis(50)).retry(quick(2)).await
}

/// An attempt that was deferred once was assigned again at every check of its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_assign_an_attempt_again_after_its_deadline() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let group = Subscription::group(
        Group::new("agents.silent").unwrap(),
        ["agents.silent.task_assigned".parse().unwrap()],
    );
    let _tasks = broker.subscribe(group).await.unwrap();
    let given = count_attempts(&broker);
    let options = EngineOptions::new().with_task_grace(Duration::from_millis(20));
    let builder = runtime(&store()).broker(broker as Arc<dyn Broker>).engine_options(options);
    let runtime = builder.workflow("ask", ask_in_time).start().await.unwrap();
    let run = runtime.start("ask", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "TASK_TIMEOUT");
    assert_eq!(*given.lock().unwrap(), BTreeMap::from([(1, 2), (2, 1)]));
}

/// After a restart, an answer may be in the mailbox before its task is assigned again. No agent
/// must run the task again.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_assign_a_task_that_is_answered_before_it_is_published() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (gate, given) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (closed, noted) = (Arc::clone(&gate), Arc::clone(&given));
    broker.on_publish(move |publish| {
        let attempt = attempt(publish)?;
        let mut given = noted.lock().unwrap();
        given.push(attempt);
        let is_first = given.len() == 1;
        let gate = Arc::clone(&closed);
        is_first.then(|| Fault::After(Box::pin(async move { gate.notified().await })))
    });
    let broker = broker as Arc<dyn Broker>;
    let builder = runtime(&store()).broker(Arc::clone(&broker)).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let first = runtime.start("ask", &"quick").await.unwrap();
    eventually("the dispatcher waits", || async { !given.lock().unwrap().is_empty() }).await;

    let run = runtime.start("ask", &"quick").await.unwrap();
    let assigned = |it: &RecordedEvent| it.event.event_type.action() == "task_assigned";
    let journal = || async { run.journal(0, 100).await.unwrap() };
    eventually("the task is recorded", || async { journal().await.iter().any(assigned) }).await;
    let task = journal().await.into_iter().find(assigned).unwrap().event;
    let data = TaskCompleted::new(
        task.data::<TaskAssigned>().unwrap().task_id,
        Payload::encode(&7).unwrap(),
    );
    let answer = Event::new("agents.quick.task_completed".parse().unwrap(), "quick-1", &data);
    let mailbox: Mailbox = task.metadata.reply_to.as_deref().unwrap().parse().unwrap();
    let publish = Publish::new(answer.unwrap().caused_by(&task)).with_mailbox(mailbox);
    broker.publish_one(publish).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);

    gate.notify_one();
    assert_eq!(result::<u32>(&first).await.unwrap_err().code(), "AGENT_NOT_FOUND");
    assert_eq!(*given.lock().unwrap(), [1, 2, 3], "attempts of the first run only");
}

/// Counts its calls, and takes its time.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicU32>);

impl Agent for Slow {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        #[allow(clippy::disallowed_methods, reason = "the agent takes real time")]
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(number)
    }
}

/// The broker has the task, but its response is lost. Another process must not get a second copy.
#[tokio::test(flavor = "multi_thread")]
async fn should_assign_a_task_once_whose_publication_was_not_confirmed() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let published = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&published);
    broker.on_publish(move |publish| {
        attempt(publish)?;
        let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| Fault::LoseResponse(BrokerError::Uncertain))
    });
    let broker = broker as Arc<dyn Broker>;
    let slow = Slow::default();
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let agents = AgentSet::new().agent("slow", slow.clone());
        let host = AgentHost::builder(agents).broker(Arc::clone(&broker));
        hosts.push(host.start().await.unwrap());
    }
    let builder = runtime(&store()).broker(broker).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("ask", &"slow").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let counts = (slow.0.load(Ordering::SeqCst), published.load(Ordering::SeqCst));
    assert_eq!(counts, (1, 1), "calls and publications");
}

/// A queue that confirms nothing delays the tasks of its agents only.
#[tokio::test(flavor = "multi_thread")]
async fn should_assign_tasks_of_other_agents_while_one_queue_confirms_nothing() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let is_held = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&is_held);
    broker.on_publish(move |publish| {
        let is_silent = publish.event.event_type.entity() == "silent";
        held.fetch_or(is_silent, Ordering::SeqCst);
        is_silent.then_some(Fault::Hang)
    });
    let builder = runtime(&store()).broker(broker as Arc<dyn Broker>).workflow("ask", ask);
    let runtime = builder.agent("doubler", Doubler::default()).start().await.unwrap();
    let _waits = runtime.start("ask", &"silent").await.unwrap();
    eventually("it is published", || async { is_held.load(Ordering::SeqCst) }).await;
    for _ in 0..3 {
        let run = runtime.start("ask", &"doubler").await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    }
}

/// Another queue takes its tasks in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn should_pause_longer_each_time_a_queue_refuses_a_notice() {
    const MINUTE: Duration = Duration::from_secs(60);
    async fn give_up(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        select! {
            done = context.task::<u32>("refusing", &1) => done,
            stop = context.signal::<()>("stop") => stop.map(|()| 0),
        }
    }
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let group = Subscription::group(
        Group::new("agents.refusing").unwrap(),
        ["agents.refusing.task_assigned".parse().unwrap()],
    );
    let mut tasks = broker.subscribe(group).await.unwrap();
    let refused = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&refused);
    broker.on_publish(move |publish| {
        let event_type = &publish.event.event_type;
        let is_notice =
            event_type.entity() == "refusing" && event_type.action() == "task_cancelled";
        is_notice.then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Refuse(BrokerError::Rejected { reason: "it is full".to_owned() })
        })
    });
    let clock = VirtualClock::new(Timestamp::now());
    let options = EngineOptions::new()
        .with_backoff(Backoff::new(MINUTE, MINUTE * 60))
        .with_lease_time(MINUTE * 1_000_000);
    let builder = runtime(&store()).broker(broker as Arc<dyn Broker>).engine_options(options);
    let builder = builder.clock(Arc::new(clock.clone())).agent("doubler", Doubler::default());
    let builder = builder.workflow("ask", ask).workflow("give_up", give_up);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("give_up", &()).await.unwrap();
    tasks.next().await.unwrap().unwrap().ack().await.unwrap();
    run.signal("stop", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 0);
    eventually("it is refused", || async { refused.load(Ordering::SeqCst) > 0 }).await;
    for _ in 0..16 {
        clock.advance(MINUTE);
        let run = runtime.start("ask", &"doubler").await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    }
    let refused = refused.load(Ordering::SeqCst);
    assert!((2..=6).contains(&refused), "{refused} times in 16 minutes");
}

/// The engine hands over its shards, and waits for a step of the run in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_that_no_agent_takes_a_task_while_its_run_is_leaving() {
    async fn both(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let step = context.run("step", || async { STEP.notified().await });
        let task = context.task::<u32>("missing", &1).retry(quick(1));
        let (step, task) = futures_util::future::join(step, task).await;
        step?;
        task
    }
    static STEP: Notify = Notify::const_new();
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (gate, is_held) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (closed, held) = (Arc::clone(&gate), Arc::clone(&is_held));
    broker.on_publish(move |publish| {
        attempt(publish)?;
        held.store(true, Ordering::SeqCst);
        let gate = Arc::clone(&closed);
        Some(Fault::After(Box::pin(async move { gate.notified().await })))
    });
    let store = store();
    let builder = runtime(&store).broker(broker as Arc<dyn Broker>).workflow("both", both);
    let engine = builder.start().await.unwrap();
    let run = engine.start("both", &()).id("r").await.unwrap();
    eventually("the task is published", || async { is_held.load(Ordering::SeqCst) }).await;
    let leaving = tokio::spawn(engine.shutdown(PATIENCE));
    let shards = || async {
        let leases = store.leases().await.unwrap();
        leases.iter().filter(|lease| lease.shard.is_share()).count()
    };
    eventually("the other shards are free", || async { shards().await < 10 }).await;
    gate.notify_one();
    let is_recorded =
        || async { actions(&run).await.iter().any(|action| action == "operation_failed") };
    eventually("the failure is recorded", is_recorded).await;
    STEP.notify_one();
    leaving.await.unwrap().unwrap();
}
