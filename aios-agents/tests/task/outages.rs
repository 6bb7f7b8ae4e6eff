//! Attempts that run while the broker can't be reached.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskHeartbeat},
    broker::{Broker, BrokerExt, Deliveries, Group, Health, Mailbox, Publish, Subscription},
    event::{Event, Payload, Timestamp},
};

use crate::support::{
    faulty::FaultyBroker,
    workflows::{PATIENCE, result, runtime, store},
};

/// A short limit, which many of the checks below exceed.
const SHORT: Duration = Duration::from_millis(100);

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).retry(RetryPolicy::never()).await
}

async fn ask_with_timeout(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).timeout(SHORT).retry(RetryPolicy::never()).await
}

/// A runtime whose broker transports everything, whatever it says about its health.
async fn start(options: EngineOptions) -> (Runtime, Arc<FaultyBroker>) {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder: RuntimeBuilder = runtime(&store()).broker(Arc::clone(&broker) as Arc<dyn Broker>);
    let builder = builder.workflow("ask", ask).workflow("ask_with_timeout", ask_with_timeout);
    (builder.engine_options(options).start().await.unwrap(), broker)
}

/// Takes the tasks of the agent type `ghost` in place of an agent.
async fn tasks(runtime: &Runtime) -> Deliveries {
    let pattern = "agents.ghost.task_assigned".parse().unwrap();
    let group = Group::new("agents.ghost").unwrap();
    runtime.broker().subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(tasks: &mut Deliveries) -> Event {
    let delivery = tokio::time::timeout(PATIENCE, tasks.next()).await.unwrap().unwrap().unwrap();
    let event = delivery.event.clone();
    delivery.ack().await.unwrap();
    event
}

/// Publishes an agent's event about a task to the mailbox that the task names.
async fn say<T: serde::Serialize>(runtime: &Runtime, task: &Event, action: &str, data: &T) {
    let event_type = format!("agents.ghost.{action}").parse().unwrap();
    let event = Event::new(event_type, "ghost", data).unwrap().caused_by(task);
    let to = Mailbox::new(&**task.metadata.reply_to.as_ref().unwrap()).unwrap();
    runtime.broker().publish_one(Publish::new(event).with_mailbox(to)).await.unwrap();
}

async fn beat(runtime: &Runtime, task: &Event) {
    let assigned: TaskAssigned = task.data().unwrap();
    let beat = TaskHeartbeat::new(assigned.task_id, assigned.attempt);
    say(runtime, task, "task_heartbeat", &beat).await;
}

async fn complete(runtime: &Runtime, task: &Event) {
    let assigned: TaskAssigned = task.data().unwrap();
    let done = TaskCompleted::new(assigned.task_id, Payload::encode(&7).unwrap());
    say(runtime, task, "task_completed", &done).await;
}

/// The states in which agents can't be heard.
fn outages() -> [Health; 2] {
    let since = Timestamp::MIN;
    let lost = Health::Reconnecting { since, cause: "the server is restarted".into() };
    [lost, Health::Blocked { since, reason: "low on memory".into() }]
}

#[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
async fn while_all_limits_pass() {
    tokio::time::sleep(SHORT * 12).await;
}

/// Neither silence nor a missing answer says anything about an agent that can't be heard.
async fn survives_an_outage(options: &EngineOptions, workflow: &str) {
    for outage in outages() {
        let (runtime, broker) = start(options.clone()).await;
        let mut tasks = tasks(&runtime).await;
        broker.set_health(outage.clone());
        let run = runtime.start(workflow, &()).await.unwrap();
        let task = next(&mut tasks).await;
        beat(&runtime, &task).await;
        while_all_limits_pass().await;
        complete(&runtime, &task).await;
        broker.set_health(Health::Connected);
        assert_eq!(result::<u32>(&run).await.unwrap(), 7, "{outage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_take_an_outage_of_the_broker_for_the_silence_of_an_agent() {
    let options = EngineOptions::new().with_heartbeat_timeout(SHORT);
    survives_an_outage(&options, "ask").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_an_answer_that_an_outage_of_the_broker_delays() {
    let options = EngineOptions::new().with_task_grace(SHORT);
    survives_an_outage(&options, "ask_with_timeout").await;
}

/// An agent that stays silent when the broker can be reached again has died in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_an_attempt_whose_agent_is_silent_after_an_outage() {
    let options = EngineOptions::new().with_heartbeat_timeout(SHORT);
    for outage in outages() {
        let (runtime, broker) = start(options.clone()).await;
        let mut tasks = tasks(&runtime).await;
        broker.set_health(outage);
        let run = runtime.start("ask", &()).await.unwrap();
        beat(&runtime, &next(&mut tasks).await).await;
        broker.set_health(Health::Connected);
        assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "HEARTBEAT_MISSED");
    }
}
