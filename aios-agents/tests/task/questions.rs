//! Only the engine assigns an attempt again. A redelivered attempt begins only if the engine
//! confirms that it is still open.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::{
    agent::HostOptions,
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskHeartbeat, TaskId},
    broker::{
        Address, Broker, BrokerExt, Deliveries, Delivery, Group, Mailbox, Publish, Subscription,
    },
    event::Event,
    store::Store,
};

use crate::support::workflows::{PATIENCE, actions, eventually, quick, result, store};

const TYPE: &str = "counter";

async fn one_task(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task(TYPE, &1).retry(quick(3)).await
}

fn engine(store: &Arc<dyn Store>, broker: &Arc<MemoryBroker>) -> RuntimeBuilder {
    let broker = Arc::clone(broker) as Arc<dyn Broker>;
    let heartbeat_timeout = Duration::from_millis(100);
    let options = EngineOptions::new().with_heartbeat_timeout(heartbeat_timeout);
    Runtime::builder().store(Arc::clone(store)).broker(broker).engine_options(options)
}

/// An agent that records which attempts it begins.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<Vec<u32>>>);

impl Agent for Counter {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, context: &TaskContext, _: u32) -> Result<u32, TaskError> {
        self.0.lock().unwrap().push(context.attempt());
        Ok(context.attempt())
    }
}

impl Counter {
    fn begun(&self) -> Vec<u32> {
        self.0.lock().unwrap().clone()
    }

    async fn start(&self, broker: &Arc<MemoryBroker>) -> Runtime {
        let broker = Arc::clone(broker) as Arc<dyn Broker>;
        let options = HostOptions::new().with_confirm_redelivered(true);
        let builder = Runtime::builder().broker(broker).host_options(options);
        builder.agent(TYPE, self.clone()).start().await.unwrap()
    }
}

fn tasks() -> Group {
    Group::new(format!("agents.{TYPE}")).unwrap()
}

async fn subscribe(broker: &MemoryBroker, group: Group, action: &str) -> Deliveries {
    let pattern = format!("agents.{TYPE}.{action}").parse().unwrap();
    broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

/// Tasks of the type, in place of an agent whose process is frozen later.
async fn thief(broker: &MemoryBroker) -> Deliveries {
    subscribe(broker, tasks(), "task_assigned").await
}

async fn answers(broker: &MemoryBroker, action: &str) -> Deliveries {
    subscribe(broker, Group::new("answers").unwrap(), action).await
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("none arrived");
    delivery.unwrap().unwrap()
}

fn attempt(delivery: &Delivery) -> u32 {
    delivery.event.data::<TaskAssigned>().unwrap().attempt
}

/// Reports that a task has begun.
async fn begin(broker: &MemoryBroker, task: &Delivery) {
    let TaskAssigned { task_id, attempt, .. } = task.event.data().unwrap();
    let beat = TaskHeartbeat::new(task_id, attempt);
    let event_type = format!("agents.{TYPE}.task_heartbeat").parse().unwrap();
    let beat = Event::new(event_type, "thief", &beat).unwrap().caused_by(&task.event);
    let mailbox = Mailbox::new(task.event.metadata.reply_to.as_deref().unwrap()).unwrap();
    broker.publish_one(Publish::new(beat).with_mailbox(mailbox)).await.unwrap();
}

/// Stops the agents. Whether the group is empty then, without dead letters and unsettled deliveries.
///
/// A host that stops before it has read an answer gives its task back, and the next one asks again.
async fn is_settled(broker: &Arc<MemoryBroker>, counter: &Counter, mut agents: Runtime) -> bool {
    let letters = broker.dead_letters(&Address::Group(tasks())).await.unwrap();
    for _ in 0..100 {
        agents.shutdown(PATIENCE).await.unwrap();
        if letters.waiting().await.unwrap() == 0 {
            return letters.list(1).await.unwrap().is_empty();
        }
        agents = counter.start(broker).await;
        eventually("the agents take the task", || async { letters.waiting().await.unwrap() == 0 })
            .await;
        #[allow(clippy::disallowed_methods, reason = "a test waits for the real engine")]
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// The agent froze after it began: the engine assigns attempt 2, then the broker redelivers the first.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_an_attempt_again_that_the_engine_has_ended() {
    let (store, broker, counter) = (store(), Arc::new(MemoryBroker::new()), Counter::default());
    let mut thief = thief(&broker).await;
    let mut cancelled = answers(&broker, "attempt_cancelled").await;
    let runtime = engine(&store, &broker).workflow("one_task", one_task).start().await.unwrap();
    let run = runtime.start("one_task", &()).await.unwrap();
    let first = next(&mut thief).await;
    begin(&broker, &first).await;
    let second = next(&mut thief).await;
    assert_eq!((attempt(&first), attempt(&second)), (1, 2));
    second.ack().await.unwrap();
    let agents = counter.start(&broker).await;
    drop(thief);
    drop(first);
    let answer = next(&mut cancelled).await;
    assert_eq!(answer.event.data::<serde_json::Value>().unwrap()["attempt"], 1);
    assert!(is_settled(&broker, &counter, agents).await);
    assert_eq!(counter.begun(), Vec::<u32>::new());
    assert_eq!(run.status().await.unwrap().status.as_str(), "running");
}

/// The process of the agent died: the engine has received nothing else yet, and the attempt
/// continues.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_an_attempt_again_that_is_still_to_be_done() {
    let (store, broker, counter) = (store(), Arc::new(MemoryBroker::new()), Counter::default());
    let mut thief = thief(&broker).await;
    let runtime = engine(&store, &broker).workflow("one_task", one_task).start().await.unwrap();
    let run = runtime.start("one_task", &()).await.unwrap();
    drop(next(&mut thief).await);
    drop(thief);
    let agents = counter.start(&broker).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert!(is_settled(&broker, &counter, agents).await);
    assert_eq!(counter.begun(), [1]);
}

/// The agent learns of it from the answer to its question or from the cancellation, whichever arrives
/// first.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_a_task_again_whose_run_has_ended() {
    let (store, broker, counter) = (store(), Arc::new(MemoryBroker::new()), Counter::default());
    let mut thief = thief(&broker).await;
    let runtime = engine(&store, &broker).workflow("one_task", one_task).start().await.unwrap();
    let run = runtime.start("one_task", &()).await.unwrap();
    let first = next(&mut thief).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    let agents = counter.start(&broker).await;
    drop(thief);
    drop(first);
    assert!(is_settled(&broker, &counter, agents).await);
    assert_eq!(counter.begun(), Vec::<u32>::new());
}

/// The run is unknown: its id, or its place in the store, belongs to no run or to a later one.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_a_task_again_whose_run_is_gone() {
    let (store, broker, counter) = (store(), Arc::new(MemoryBroker::new()), Counter::default());
    let mut thief = thief(&broker).await;
    let mut cancelled = answers(&broker, "attempt_cancelled").await;
    let runtime = engine(&store, &broker).workflow("one_task", one_task).start().await.unwrap();
    let run = runtime.start("one_task", &()).id("known").await.unwrap();
    let first = next(&mut thief).await;
    for (task_id, incarnation) in [("unknown/1", None), ("known/1", Some("an-earlier-one"))] {
        let mut task: TaskAssigned = first.event.data().unwrap();
        task.task_id = TaskId::new(task_id);
        let event_type = first.event.event_type.clone();
        let mut event = Event::new(event_type, "engine", &task).unwrap();
        event.metadata = first.event.metadata.clone();
        if let Some(incarnation) = incarnation {
            event.metadata_mut().incarnation = Some(incarnation.into());
        }
        broker.publish_event(event).await.unwrap();
    }
    let others = [next(&mut thief).await, next(&mut thief).await];
    let agents = counter.start(&broker).await;
    drop(thief);
    drop(others);
    for _ in 0..2 {
        next(&mut cancelled).await.ack().await.unwrap();
    }
    assert!(is_settled(&broker, &counter, agents).await);
    assert_eq!(counter.begun(), Vec::<u32>::new());
    assert_eq!(run.status().await.unwrap().status.as_str(), "running");
    first.ack().await.unwrap();
}

/// A blocked run keeps answers for later; its journal shows which attempts are open.
#[tokio::test(flavor = "multi_thread")]
async fn should_answer_for_a_run_that_is_blocked() {
    let (store, broker, counter) = (store(), Arc::new(MemoryBroker::new()), Counter::default());
    let mut thief = thief(&broker).await;
    let before = engine(&store, &broker).workflow("one_task", one_task).start().await.unwrap();
    let run = before.start("one_task", &()).id("r").await.unwrap();
    let first = next(&mut thief).await;
    drop(run);
    before.shutdown(PATIENCE).await.unwrap();
    let other = |context: WorkflowContext, (): ()| async move {
        context.sleep(Duration::from_secs(1)).await.map(|()| 0_u32)
    };
    let after = engine(&store, &broker).workflow("one_task", other).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    eventually("it is blocked", || async {
        run.status().await.unwrap().status.as_str() == "blocked"
    })
    .await;
    let agents = counter.start(&broker).await;
    drop(thief);
    drop(first);
    eventually("the answer is recorded", || async {
        actions(&run).await.contains(&"task_completed".to_owned())
    })
    .await;
    assert!(is_settled(&broker, &counter, agents).await);
    assert_eq!(counter.begun(), [1]);
}
