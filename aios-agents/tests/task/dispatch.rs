//! Publication of tasks: each attempt once, and only while its run waits for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted},
    broker::{Broker, BrokerError, BrokerExt, Group, Mailbox, Publish, Subscription},
    store::RecordedEvent,
};
use tokio::sync::Notify;

use crate::support::{
    faulty::{Fault, FaultyBroker},
    workflows::{eventually, quick, result, runtime, store},
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
        let after = Duration::from_secs(1);
        let is_put_off = attempt == 1 && *count == 1;
        is_put_off.then(|| Fault::Refuse(BrokerError::Timeout { operation: "publish", after }))
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
        let agent = publish.event.event_type.entity().to_owned();
        let is_first = agent == "slow" && attempt == 1;
        noted.lock().unwrap().push(agent);
        let gate = Arc::clone(&closed);
        is_first.then(|| Fault::After(Box::pin(async move { gate.notified().await })))
    });
    let broker = broker as Arc<dyn Broker>;
    let builder = runtime(&store()).broker(Arc::clone(&broker)).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let slow = runtime.start("ask", &"slow").await.unwrap();
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
    assert_eq!(result::<u32>(&slow).await.unwrap_err().code(), "AGENT_NOT_FOUND");
    let given = given.lock().unwrap();
    assert!(!given.iter().any(|agent| agent == "quick"), "{given:?}");
}
