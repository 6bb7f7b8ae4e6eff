//! Misbehaving workflows and agents, simulated directly on the broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskHeartbeat},
    broker::{
        BrokerError, Deliveries, Delivery, Group, Mailbox, Publish, Settlement, Subscription,
    },
};

use crate::support::faulty::{Fault, FaultyBroker};
use crate::support::workflows::{PATIENCE, actions, eventually, quick, result, runtime, store};

/// Takes the tasks of a type in place of an agent.
async fn tasks_of(runtime: &Runtime, agent_type: &str) -> Deliveries {
    let group = Group::new(format!("agents.{agent_type}")).unwrap();
    let pattern = format!("agents.{agent_type}.task_assigned").parse().unwrap();
    runtime.broker().subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> (Delivery, TaskAssigned) {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap();
    let delivery = delivery.unwrap().unwrap();
    let task = delivery.event.data().unwrap();
    (delivery, task)
}

/// Sends an agent's event about a task to the mailbox that the task names.
async fn say<T: serde::Serialize>(runtime: &Runtime, task: &Delivery, action: &str, data: &T) {
    let event_type = format!("agents.ghost.{action}").parse().unwrap();
    let event = Event::new(event_type, "ghost-1", data).unwrap().caused_by(&task.event);
    let reply_to = task.event.metadata.reply_to.as_deref().unwrap();
    let publish = Publish::new(event).with_mailbox(Mailbox::new(reply_to).unwrap());
    runtime.broker().publish_one(publish).await.unwrap();
}

fn done(task: &TaskAssigned, output: u32) -> TaskCompleted {
    let output = Payload::encode(&output).unwrap();
    TaskCompleted::new(task.task_id.clone(), output)
}

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).retry(quick(3)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_when_its_agent_stops_sending_heartbeats() {
    let options = EngineOptions::new().with_heartbeat_timeout(Duration::from_millis(50));
    let runtime =
        runtime(&store()).workflow("ask", ask).engine_options(options).start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    let run = runtime.start("ask", &()).await.unwrap();

    let (delivery, task) = next(&mut tasks).await;
    let (task_id, attempt) = (task.task_id.clone(), task.attempt);
    let beat = TaskHeartbeat::new(task_id, attempt);
    say(&runtime, &delivery, "task_heartbeat", &beat).await;
    delivery.ack().await.unwrap();

    let (delivery, task) = next(&mut tasks).await;
    assert_eq!(task.attempt, 2);
    say(&runtime, &delivery, "task_completed", &done(&task, 7)).await;
    delivery.ack().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_the_first_of_two_answers() {
    let runtime = runtime(&store()).workflow("ask", ask).start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    let run = runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    say(&runtime, &delivery, "task_completed", &done(&task, 1)).await;
    say(&runtime, &delivery, "task_completed", &done(&task, 2)).await;
    delivery.ack().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(actions(&run).await, ["started", "task_assigned", "task_completed", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_an_answer_that_comes_while_the_run_is_blocked() {
    async fn changed(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("instead").await
    }
    let store = store();
    let before = runtime(&store).workflow("ask", ask).start().await.unwrap();
    let mut tasks = tasks_of(&before, "ghost").await;
    before.start("ask", &()).id("kept").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    before.shutdown(PATIENCE).await.unwrap();

    let wrong = runtime(&store).workflow("ask", changed).start().await.unwrap();
    let run = wrong.handle("kept").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_BLOCKED");
    say(&wrong, &delivery, "task_completed", &done(&task, 9)).await;
    eventually("the answer is kept", || async {
        actions(&run).await.contains(&"task_completed".to_owned())
    })
    .await;
    wrong.shutdown(PATIENCE).await.unwrap();

    let fixed = runtime(&store).workflow("ask", ask).start().await.unwrap();
    let run = fixed.handle("kept").await.unwrap();
    eventually("the run completes", || async {
        run.status().await.unwrap().status.as_str() == "completed"
    })
    .await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_acknowledge_an_answer_for_a_run_that_does_not_exist() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = runtime(&store()).broker(Arc::clone(&broker) as _).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    runtime.start("ask", &()).id("real").await.unwrap();
    let (delivery, mut task) = next(&mut tasks).await;
    task.task_id = aios_core::agent::TaskId::of_run("unreal", 1);
    say(&runtime, &delivery, "task_completed", &done(&task, 1)).await;
    eventually("the answer is acknowledged", || async {
        let settled = broker.settled();
        settled.iter().any(|(event, settlement)| {
            event.event_type.action() == "task_completed" && *settlement == Settlement::Ack
        })
    })
    .await;
}

/// No run has such an id, and a store refuses to look for one. It must not stop the engines that get the
/// answer, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_answer_that_names_a_run_which_cannot_exist() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = runtime(&store()).broker(Arc::clone(&broker) as _).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    let run = runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    let run_ids = [String::new(), "x".repeat(10_000), "a\0b".to_owned()];
    for run_id in &run_ids {
        let mut other = task.clone();
        other.task_id = aios_core::agent::TaskId::of_run(run_id, 1);
        say(&runtime, &delivery, "task_completed", &done(&other, 1)).await;
    }
    eventually("they are dead letters", || async {
        let settled = broker.settled();
        let refused = |(_, settlement): &&(Event, Settlement)| {
            matches!(settlement, Settlement::DeadLetter { .. })
        };
        settled.iter().filter(refused).count() == run_ids.len()
    })
    .await;
    say(&runtime, &delivery, "task_completed", &done(&task, 7)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

/// The broker fails once to remove the event. The answers behind it do not wait for a new subscription.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_its_subscription_although_an_event_cannot_be_removed() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = runtime(&store()).broker(Arc::clone(&broker) as _).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    let run = runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    let subscriptions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&subscriptions);
    broker.on_subscribe(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        None
    });
    let is_first = AtomicBool::new(true);
    broker.on_settle(move |settlement| {
        let is_removed = matches!(settlement, Settlement::DeadLetter { .. });
        (is_removed && is_first.swap(false, Ordering::SeqCst))
            .then(|| Fault::Refuse(BrokerError::Uncertain))
    });
    let mut other = task.clone();
    other.task_id = aios_core::agent::TaskId::of_run("", 1);
    say(&runtime, &delivery, "task_completed", &done(&other, 1)).await;
    eventually("it is removed at the second time", || async {
        let settled = broker.settled();
        settled.iter().filter(|(_, it)| matches!(it, Settlement::DeadLetter { .. })).count() == 2
    })
    .await;
    say(&runtime, &delivery, "task_completed", &done(&task, 7)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    assert_eq!(subscriptions.load(Ordering::SeqCst), 0);
}

/// PostgreSQL can't keep the character, and the answer is not to blame for the name of its agent.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_without_the_nul_in_its_source() {
    let store = store();
    let runtime = runtime(&store).workflow("ask", ask).start().await.unwrap();
    let mut tasks = tasks_of(&runtime, "ghost").await;
    let run = runtime.start("ask", &()).id("r").await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    let event_type = "agents.ghost.task_completed".parse().unwrap();
    let answer = Event::new(event_type, "gho\0st", &done(&task, 7)).unwrap();
    let reply_to = delivery.event.metadata.reply_to.as_deref().unwrap();
    let publish = Publish::new(answer.caused_by(&delivery.event));
    let publish = publish.with_mailbox(Mailbox::new(reply_to).unwrap());
    runtime.broker().publish_one(publish).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    let journal = store.read_stream(&"runs/r".parse().unwrap(), 0, 100).await.unwrap();
    let answers = journal.iter().map(|it| &it.event);
    let mut answers = answers.filter(|it| it.event_type.action() == "task_completed");
    assert_eq!(&*answers.next().unwrap().source, "gho\u{fffd}st");
}

/// Agents of another system name no cause, and choose ids that the store may know already.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_answers_without_a_cause_under_ids_of_their_own_while_the_run_is_blocked() {
    async fn ask_twice(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let (one, other) = (context.task::<u32>("ghost", &1), context.task::<u32>("ghost", &2));
        let (one, other) = aios_agents::join!(one, other);
        Ok(one? + other?)
    }
    async fn changed(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("instead").await
    }
    let store = store();
    let before = runtime(&store).workflow("ask", ask_twice).start().await.unwrap();
    let mut tasks = tasks_of(&before, "ghost").await;
    before.start("ask", &()).id("r").await.unwrap();
    let (one, other) = (next(&mut tasks).await, next(&mut tasks).await);
    before.shutdown(PATIENCE).await.unwrap();

    let wrong = runtime(&store).workflow("ask", changed).start().await.unwrap();
    let run = wrong.handle("r").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_BLOCKED");
    // The journal has this id already, and both answers have it.
    let id = one.0.event.id.clone();
    for ((delivery, task), output) in [(&one, 3), (&other, 4)] {
        let event_type = "agents.ghost.task_completed".parse().unwrap();
        let answer = Event::new(event_type, "gho\0st", &done(task, output)).unwrap();
        let reply_to = delivery.event.metadata.reply_to.as_deref().unwrap();
        let publish = Publish::new(answer.with_id(id.clone()));
        let publish = publish.with_mailbox(Mailbox::new(reply_to).unwrap());
        wrong.broker().publish_one(publish).await.unwrap();
    }
    let answers = async || {
        let journal = store.read_stream(&"runs/r".parse().unwrap(), 0, 100).await.unwrap();
        let events = journal.into_iter().map(|recorded| recorded.event);
        events.filter(|it| it.event_type.action() == "task_completed").collect::<Vec<_>>()
    };
    eventually("both answers are kept", || async { answers().await.len() == 2 }).await;
    for answer in answers().await {
        // PostgreSQL can't keep the character.
        assert_eq!(&*answer.source, "gho\u{fffd}st");
        assert_eq!(answer.metadata.run_id.as_deref(), Some("r"));
        assert!(answer.metadata.correlation_id.is_some());
    }
    wrong.shutdown(PATIENCE).await.unwrap();

    let fixed = runtime(&store).workflow("ask", ask_twice).start().await.unwrap();
    let run = fixed.handle("r").await.unwrap();
    eventually("the run completes", || async {
        run.status().await.unwrap().status.as_str() == "completed"
    })
    .await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}
