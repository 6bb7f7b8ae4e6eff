//! A task without a timeout that no agent begins is visible as waiting, and is assigned again when
//! its delivery is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentDefinition, RegisteredAgent},
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
    workflow::Target,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskHeartbeat},
    broker::{
        Broker, BrokerExt, Deliveries, Delivery, Group, Health, Mailbox, Publish, Subscription,
    },
    event::{Event, Payload, Timestamp},
    store::{Append, EventStoreExt, Store, StreamId},
};
use aios_tests::log::Logged;

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore},
    workflows::{Doubler, PATIENCE, actions, eventually, quick, result, store},
};

const TYPE: &str = "doubler";

async fn one_task(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task(TYPE, &number).await
}

async fn of_one(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task(Target::agent(TYPE, "first"), &number).await
}

fn options() -> EngineOptions {
    EngineOptions::new()
        .with_unclaimed_after(Duration::from_millis(50))
        .with_redispatch_after(Some(Duration::from_millis(150)))
        .with_dead_letter_check(Duration::from_millis(20))
        .with_task_grace(Duration::ZERO)
}

fn builder(store: &Arc<dyn Store>, broker: &Arc<MemoryBroker>) -> RuntimeBuilder {
    let broker = Arc::clone(broker) as Arc<dyn Broker>;
    Runtime::builder().store(Arc::clone(store)).broker(broker).workflow("one_task", one_task)
}

async fn engine(store: &Arc<dyn Store>, broker: &Arc<MemoryBroker>) -> Runtime {
    builder(store, broker).engine_options(options()).start().await.unwrap()
}

/// Agents without an engine.
async fn agents(broker: &Arc<MemoryBroker>) -> Runtime {
    let broker = Arc::clone(broker) as Arc<dyn Broker>;
    Runtime::builder().broker(broker).agent(TYPE, Doubler::default()).start().await.unwrap()
}

/// Tasks of the type, in place of an agent.
async fn tasks(broker: &MemoryBroker) -> Deliveries {
    let pattern = format!("agents.{TYPE}.task_assigned").parse().unwrap();
    let group = Group::new(format!("agents.{TYPE}")).unwrap();
    broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("none arrived");
    delivery.unwrap().unwrap()
}

async fn waits_for(run: &RunHandle) -> Option<String> {
    run.status().await.unwrap().waits_for
}

#[tokio::test]
async fn should_say_what_a_run_waits_for_when_no_agent_takes_its_task() {
    let logged = Logged::here();
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    agents(&broker).await.shutdown(PATIENCE).await.unwrap();
    let runtime = engine(&store, &broker).await;
    let mut runs = Vec::new();
    for number in 0..20_u64 {
        let id = format!("r{number}");
        runs.push(runtime.start("one_task", &number).id(id).await.unwrap());
    }
    let elsewhere = builder(&store, &broker).client_only().start().await.unwrap();
    for run in &runs {
        eventually("it says so", || async { waits_for(run).await.is_some() }).await;
        let seen = waits_for(&elsewhere.handle(run.id()).await.unwrap()).await.unwrap();
        assert!(seen.starts_with("task doubler #1: no agent of type doubler has begun it since 2"));
    }
    assert_eq!(logged.lines(&["WARN", "no agent begins tasks", "agent_type=doubler"]).len(), 1);
    let hosts = agents(&broker).await;
    for (number, run) in (0..20_u64).zip(&runs) {
        assert_eq!(result::<u64>(run).await.unwrap(), number * 2);
        assert_eq!(waits_for(run).await, None);
    }
    store.rebuild().await.unwrap();
    assert_eq!(waits_for(&runs[0]).await, None);
    let expected = ["started", "task_assigned", "task_unclaimed", "task_completed", "completed"];
    assert_eq!(actions(&runs[0]).await, expected);
    hosts.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_reporting_it_once_an_agent_has_begun() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    agents(&broker).await.shutdown(PATIENCE).await.unwrap();
    let runtime = engine(&store, &broker).await;
    let run = runtime.start("one_task", &4).await.unwrap();
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    let begin = AgentDefinition::instance(TYPE, Stuck);
    let broker = Arc::clone(&broker) as Arc<dyn Broker>;
    let hosts = Runtime::builder().broker(broker).agents(begin).start().await.unwrap();
    eventually("it does not any more", || async { waits_for(&run).await.is_none() }).await;
    assert_eq!(run.status().await.unwrap().status.as_str(), "running");
    drop(hosts);
}

/// Each attempt fails at once, so none of them is seen waiting.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_no_agent_takes_a_task_whose_attempts_fail_at_once() {
    async fn insist(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        context.task(TYPE, &number).retry(quick(100_000)).await
    }
    for restarts in [false, true] {
        let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
        let build = || {
            let options = EngineOptions::new().with_lease_time(Duration::from_secs(15));
            builder(&store, &broker).workflow("insist", insist).engine_options(options).start()
        };
        let mut runtime = build().await.unwrap();
        let mut run = runtime.start("insist", &4).id("r").await.unwrap();
        eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
        let waits = waits_for(&run).await.unwrap();
        assert!(waits.starts_with("task doubler #1: no agent"), "{waits}");
        let attempts = || async {
            let actions = actions(&run).await;
            let count = |action: &str| actions.iter().filter(|it| *it == action).count();
            (count("retry_scheduled"), count("task_unclaimed"))
        };
        eventually("it is tried again", || async { attempts().await.0 > 5 }).await;
        assert!(waits_for(&run).await.is_some(), "also between two attempts");
        assert_eq!(attempts().await.1, 1, "it is reported once");
        if restarts {
            runtime.shutdown(PATIENCE).await.unwrap();
            runtime = build().await.unwrap();
            run = runtime.handle("r").await.unwrap();
        }
        let stuck = AgentDefinition::instance(TYPE, Stuck);
        let hosts = Runtime::builder().broker(Arc::clone(&broker) as Arc<dyn Broker>);
        let hosts = hosts.agents(stuck).start().await.unwrap();
        eventually("it does not any more", || async { waits_for(&run).await.is_none() }).await;
        assert_eq!(run.status().await.unwrap().status.as_str(), "running");
        drop(hosts);
    }
}

struct Stuck;

impl Agent for Stuck {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, _: u64) -> Result<u64, TaskError> {
        std::future::pending().await
    }
}

/// Its message was purged, and the queue has been empty since.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_whose_message_is_lost() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&broker).await;
    let runtime = engine(&store, &broker).await;
    let run = runtime.start("one_task", &21).await.unwrap();
    let first = next(&mut thief).await;
    let assigned = first.event.clone();
    first.ack().await.unwrap();
    let again = next(&mut thief).await;
    assert_eq!(again.event.id, assigned.id, "agents recognise it");
    assert_eq!(again.event.payload, assigned.payload);
    again.ack().await.unwrap();
    drop(thief);
    let hosts = agents(&broker).await;
    assert_eq!(result::<u64>(&run).await.unwrap(), 42);
    let count = actions(&run).await.iter().filter(|action| *action == "task_assigned").count();
    assert_eq!(count, 1, "it is one attempt");
    hosts.shutdown(PATIENCE).await.unwrap();
}

/// The engine has not seen an answer that another one recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_reassign_a_task_whose_answer_is_recorded() {
    let (inner, broker) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&broker).await;
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let store = Arc::clone(&faulty) as Arc<dyn Store>;
    let options = options().with_relay(false);
    let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
    let run = runtime.start("one_task", &21).await.unwrap();
    let task = next(&mut thief).await;
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    // It does not look for appends of others any more.
    faulty.on_call(|name| (*name == "read_log_except").then_some(Fault::Hang));
    let task_id = task.event.data::<TaskAssigned>().unwrap().task_id;
    let data = TaskCompleted::new(task_id, Payload::encode(&42).unwrap());
    let event_type = format!("agents.{TYPE}.task_completed").parse().unwrap();
    let answer = Event::new(event_type, "other", &data).unwrap().caused_by(&task.event);
    let journal = StreamId::of_run(run.id()).unwrap();
    inner.append_one(Append::new(journal, vec![answer])).await.unwrap();
    task.ack().await.unwrap();
    let ended = || async { actions(&run).await.last().is_some_and(|last| last == "completed") };
    let again = async {
        thief.next().await;
        panic!("it was assigned again");
    };
    tokio::select! {
        biased;
        () = again => {}
        () = eventually("the run ends", ended) => {}
    }
}

/// The same for the mailbox of one agent.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_of_one_agent_whose_message_is_lost() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let mailbox = Mailbox::new(format!("agents.{TYPE}.first")).unwrap();
    let mut thief = broker.subscribe(Subscription::mailbox(mailbox)).await.unwrap();
    let options = options();
    let runtime = builder(&store, &broker).workflow("of_one", of_one).engine_options(options);
    let runtime = runtime.start().await.unwrap();
    let run = runtime.start("of_one", &21).await.unwrap();
    next(&mut thief).await.ack().await.unwrap();
    eventually("it says so", || async {
        let waits = waits_for(&run).await.unwrap_or_default();
        waits.contains("agent first of type doubler has not begun it")
    })
    .await;
    next(&mut thief).await.ack().await.unwrap();
}

/// How long nothing may happen. The engine assigns a task again that has been missing for a second.
const LONG: Duration = Duration::from_millis(2_500);

async fn while_the_engine_looks() {
    #[allow(clippy::disallowed_methods, reason = "the engine looks many times meanwhile")]
    tokio::time::sleep(LONG).await;
}

/// The number of tasks of the type in their queue.
async fn queued(broker: &MemoryBroker) -> u64 {
    let group = Group::new(format!("agents.{TYPE}")).unwrap();
    broker.dead_letters(&group.into()).await.unwrap().waiting().await.unwrap()
}

/// A task that waits behind others for busy agents is still queued, even if the queue was seen
/// empty before the broker received it.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_reassign_a_task_that_is_in_its_queue() {
    let (store, memory) = (store(), Arc::new(MemoryBroker::new()));
    drop(tasks(&memory).await);
    let broker = FaultyBroker::new(Arc::clone(&memory) as Arc<dyn Broker>);
    broker.on_publish(|publish| {
        let is_task = publish.event.event_type.action() == "task_assigned";
        #[allow(clippy::disallowed_methods, reason = "the engine looks several times before")]
        let later = || Box::pin(tokio::time::sleep(Duration::from_millis(300)));
        is_task.then(|| Fault::After(later()))
    });
    let runtime = builder(&store, &memory).broker(broker as Arc<dyn Broker>);
    let runtime = runtime.engine_options(options()).start().await.unwrap();
    let run = runtime.start("one_task", &21).await.unwrap();
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    while_the_engine_looks().await;
    assert_eq!(queued(&memory).await, 1, "there is one message");
}

/// An engine that assigns no task again by itself, with a broker whose connection can be lost.
async fn patient_engine(
    store: &Arc<dyn Store>,
    memory: &Arc<MemoryBroker>,
) -> (Runtime, Arc<FaultyBroker>) {
    let broker = FaultyBroker::new(Arc::clone(memory) as Arc<dyn Broker>);
    let redispatch_after = Some(Duration::from_secs(3600));
    let options = options().with_redispatch_after(redispatch_after);
    let shared = Arc::clone(&broker) as Arc<dyn Broker>;
    let runtime = builder(store, memory).broker(shared).engine_options(options);
    (runtime.start().await.unwrap(), broker)
}

/// The connection to the broker is lost and restored.
fn reconnect(broker: &FaultyBroker) {
    let (since, cause) = (Timestamp::MIN, "the server was replaced".into());
    broker.set_health(Health::Reconnecting { since, cause });
    broker.set_health(Health::Connected);
}

/// The server was replaced without its data.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_tasks_at_once_that_a_broker_has_lost() {
    let (store, memory) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&memory).await;
    let (runtime, broker) = patient_engine(&store, &memory).await;
    let run = runtime.start("one_task", &21).await.unwrap();
    let first = next(&mut thief).await;
    let id = first.event.id.clone();
    first.ack().await.unwrap();
    reconnect(&broker);
    let again = next(&mut thief).await;
    assert_eq!(again.event.id, id, "agents recognise it");
    again.release().await.unwrap();
    drop(thief);
    let hosts = agents(&memory).await;
    assert_eq!(result::<u64>(&run).await.unwrap(), 42);
    hosts.shutdown(PATIENCE).await.unwrap();
}

/// The same while the queue is not empty, because tasks are assigned all the time.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_tasks_at_once_that_a_broker_has_lost_before_others() {
    let (store, memory) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&memory).await;
    let (runtime, broker) = patient_engine(&store, &memory).await;
    let lost = runtime.start("one_task", &1).await.unwrap();
    next(&mut thief).await.ack().await.unwrap();
    let first = runtime.start("one_task", &2).await.unwrap();
    let second = runtime.start("one_task", &3).await.unwrap();
    next(&mut thief).await.release().await.unwrap();
    reconnect(&broker);
    drop(thief);
    let hosts = agents(&memory).await;
    for (run, expected) in [(first, 4_u64), (second, 6), (lost, 2)] {
        assert_eq!(result::<u64>(&run).await.unwrap(), expected);
    }
    hosts.shutdown(PATIENCE).await.unwrap();
}

/// The server has kept its data.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_reassign_a_task_that_waits_in_a_broker_that_was_away() {
    let (store, memory) = (store(), Arc::new(MemoryBroker::new()));
    drop(tasks(&memory).await);
    let (runtime, broker) = patient_engine(&store, &memory).await;
    let run = runtime.start("one_task", &21).await.unwrap();
    eventually("it says so", || async { waits_for(&run).await.is_some() }).await;
    reconnect(&broker);
    while_the_engine_looks().await;
    assert_eq!(queued(&memory).await, 1, "there is one message");
}

/// Waits until it is released, and counts.
#[derive(Clone)]
struct Patient {
    proceed: Arc<tokio::sync::Semaphore>,
    begun: Arc<AtomicU32>,
}

impl Patient {
    fn new() -> Self {
        Self { proceed: Arc::new(tokio::sync::Semaphore::new(0)), begun: Arc::default() }
    }
}

impl Agent for Patient {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, number: u64) -> Result<u64, TaskError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.proceed.acquire().await);
        Ok(number * 2)
    }
}

/// A task that an agent's process has received and not begun is in no queue, but it is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_reassign_a_task_that_a_process_holds() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let patient = Patient::new();
    let make = {
        let patient = patient.clone();
        move |(): ()| Ok::<_, TaskError>(patient.clone())
    };
    let first = RegisteredAgent::new(TYPE, "first", Payload::null()).with_id("first");
    let definition = AgentDefinition::factory(TYPE, make).register_agent(first);
    let hosts = Runtime::builder().broker(Arc::clone(&broker) as Arc<dyn Broker>);
    let hosts = hosts.agents(definition.with_concurrency(1)).start().await.unwrap();
    let runtime = builder(&store, &broker).workflow("of_one", of_one).engine_options(options());
    let runtime = runtime.start().await.unwrap();
    let busy = runtime.start("of_one", &1).await.unwrap();
    eventually("it has begun", || async { patient.begun.load(Ordering::SeqCst) == 1 }).await;
    let held = runtime.start("one_task", &2).await.unwrap();
    eventually("it says so", || async { waits_for(&held).await.is_some() }).await;
    while_the_engine_looks().await;
    assert_eq!(queued(&broker).await, 0, "nothing was assigned again");
    patient.proceed.add_permits(2);
    assert_eq!(result::<u64>(&busy).await.unwrap(), 2);
    assert_eq!(result::<u64>(&held).await.unwrap(), 4);
    assert_eq!(patient.begun.load(Ordering::SeqCst), 2);
    let given = actions(&held).await.iter().filter(|it| *it == "task_assigned").count();
    assert_eq!(given, 1);
    hosts.shutdown(PATIENCE).await.unwrap();
}

/// The process that held it is gone, and so is the message.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_that_no_process_holds_any_more() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&broker).await;
    let options = options().with_heartbeat_timeout(Duration::from_millis(500));
    let runtime = builder(&store, &broker).engine_options(options).start().await.unwrap();
    let run = runtime.start("one_task", &21).await.unwrap();
    let first = next(&mut thief).await;
    let task: TaskAssigned = first.event.data().unwrap();
    let mut beat = TaskHeartbeat::new(task.task_id, task.attempt);
    beat.waits = true;
    let event_type = format!("agents.{TYPE}.task_heartbeat").parse().unwrap();
    let beat = Event::new(event_type, "holder", &beat).unwrap().caused_by(&first.event);
    let mailbox = Mailbox::new(first.event.metadata.reply_to.as_deref().unwrap()).unwrap();
    broker.publish_one(Publish::new(beat).with_mailbox(mailbox)).await.unwrap();
    let id = first.event.id.clone();
    first.ack().await.unwrap();
    let again = next(&mut thief).await;
    assert_eq!(again.event.id, id);
    let status = run.status().await.unwrap().status;
    assert_eq!(status.as_str(), "running");
    again.ack().await.unwrap();
}

/// Its message was lost, while later ones were not.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_that_later_ones_have_overtaken() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let mut thief = tasks(&broker).await;
    let runtime = engine(&store, &broker).await;
    let lost = runtime.start("one_task", &1).await.unwrap();
    next(&mut thief).await.ack().await.unwrap();
    drop(thief);
    let hosts = agents(&broker).await;
    let later = runtime.start("one_task", &2).await.unwrap();
    assert_eq!(result::<u64>(&later).await.unwrap(), 4);
    assert_eq!(result::<u64>(&lost).await.unwrap(), 2);
    hosts.shutdown(PATIENCE).await.unwrap();
}
