//! Attempts at a task, and what happens when an agent, a broker or an engine loses one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions, workflow::Target};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskHeartbeat, TaskId},
    broker::{
        Broker, BrokerExt, Deliveries, Delivery, Group, Mailbox, Publish, Settlement, Subscription,
    },
    event::{Event, Payload},
    store::{Append, EventStoreExt, PageRequest, Store, TaskFilter},
};

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, holds, store_unavailable},
    workflows::{Doubler, PATIENCE, actions, eventually, quick, result, runtime, store},
};

fn attentive() -> EngineOptions {
    EngineOptions::new().with_dead_letter_check(Duration::from_millis(20))
}

/// A runtime whose workflow `ask` tries a task of the agent type `ghost` twice.
async fn asking_twice() -> Runtime {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).retry(quick(2)).await
    }
    let builder = runtime(&store()).workflow("ask", ask).engine_options(attentive());
    builder.start().await.unwrap()
}

/// Takes events of the agent type `ghost` in place of an agent.
async fn ghosts(runtime: &Runtime, group: &str, action: &str) -> Deliveries {
    let pattern = format!("agents.ghost.{action}").parse().unwrap();
    let subscription = Subscription::group(Group::new(group).unwrap(), [pattern]);
    runtime.broker().subscribe(subscription).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap();
    delivery.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_task_whose_attempts_together_take_too_long() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let call = context.task("ghost", &1).total_timeout(Duration::from_millis(100));
        call.retry(quick(1000)).await
    }
    let runtime = runtime(&store()).workflow("ask", ask).start().await.unwrap();
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    let mut cancelled = ghosts(&runtime, "watch", "task_cancelled").await;
    let run = runtime.start("ask", &()).await.unwrap();
    let task = next(&mut tasks).await;
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "TASK_TIMEOUT");
    assert_eq!(actions(&run).await, ["started", "task_assigned", "operation_failed", "failed"]);
    assert_eq!(
        next(&mut cancelled).await.event.metadata.incarnation,
        task.event.metadata.incarnation
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_try_again_beyond_the_time_of_all_attempts() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let call = context.task("missing", &1).total_timeout(Duration::from_millis(200));
        call.retry(RetryPolicy::fixed(1000, Duration::from_millis(30))).await
    }
    let runtime = runtime(&store()).workflow("ask", ask).start().await.unwrap();
    let run = runtime.start("ask", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    let failure = error.failure().unwrap();
    assert!(["AGENT_NOT_FOUND", "TASK_TIMEOUT"].contains(&failure.code.as_str()), "{failure}");
    let attempts = actions(&run).await.iter().filter(|it| *it == "task_assigned").count();
    assert!((2..=8).contains(&attempts), "{attempts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_count_the_time_of_all_attempts_from_the_first_after_a_restart() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).total_timeout(Duration::from_secs(2)).await
    }
    let store = store();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let build = || runtime(&store).broker(Arc::clone(&broker)).workflow("ask", ask);
    let before = build().start().await.unwrap();
    let _tasks = ghosts(&before, "agents.ghost", "task_assigned").await;
    let run = before.start("ask", &()).await.unwrap();
    eventually("assigned", || async { actions(&run).await.len() == 2 }).await;
    let id = run.id().to_owned();
    before.shutdown(PATIENCE).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "the time passes while no engine runs")]
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let after = build().start().await.unwrap();
    let run = after.handle(&id).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "TASK_TIMEOUT");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_try_a_task_again_that_became_a_dead_letter() {
    let runtime = asking_twice().await;
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    let run = runtime.start("ask", &()).await.unwrap();
    for _ in 0..2 {
        next(&mut tasks).await.dead_letter("spilled").await.unwrap();
    }
    let error = result::<u32>(&run).await.unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.code, "TASK_DEAD_LETTERED");
    assert!(failure.message.contains("spilled"), "{failure}");
    // A later run with the same id does not receive the dead letters of this one.
    assert_eq!(actions(&run).await.iter().filter(|it| *it == "task_assigned").count(), 2);
}

/// The dead letter of the first attempt stays in the broker. It says nothing about the second one.
#[tokio::test(flavor = "multi_thread")]
async fn should_watch_an_attempt_although_the_last_one_is_still_a_dead_letter() {
    let runtime = asking_twice().await;
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    let run = runtime.start("ask", &()).await.unwrap();
    next(&mut tasks).await.dead_letter("spilled").await.unwrap();
    let second = next(&mut tasks).await;
    // The engine finds the first letter again in the meantime.
    #[allow(clippy::disallowed_methods, reason = "the engine looks after a real pause")]
    tokio::time::sleep(Duration::from_millis(200)).await;
    second.dead_letter("spilled again").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(error.failure().unwrap().message.contains("spilled again"), "{error}");
}

/// The engine learns of a dead letter that is behind any number of others.
#[tokio::test(flavor = "multi_thread")]
async fn should_try_a_task_again_whose_dead_letter_is_behind_many_others() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).retry(RetryPolicy::never()).await
    }
    let builder = runtime(&store()).workflow("ask", ask).engine_options(attentive());
    let runtime = builder.start().await.unwrap();
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    for number in 0..1_000 {
        let event_type = "agents.ghost.task_assigned".parse().unwrap();
        let event = Event::new(event_type, "other", &number).unwrap();
        runtime.broker().publish_one(Publish::new(event)).await.unwrap();
        next(&mut tasks).await.dead_letter("never purged").await.unwrap();
    }
    let run = runtime.start("ask", &()).await.unwrap();
    next(&mut tasks).await.dead_letter("spilled").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "TASK_DEAD_LETTERED");
}

/// Publishes an agent's event about an assigned task to the mailbox that the task names.
async fn say<T: serde::Serialize>(runtime: &Runtime, task: &Event, action: &str, data: &T) {
    let event_type = format!("agents.ghost.{action}").parse().unwrap();
    let event = Event::new(event_type, "ghost", data).unwrap().caused_by(task);
    let to = Mailbox::new(&**task.metadata.reply_to.as_ref().unwrap()).unwrap();
    runtime.broker().publish_one(Publish::new(event).with_mailbox(to)).await.unwrap();
}

/// An agent that has sent a heartbeat is expected to send more. An agent that never sent one may be
/// implemented without aios, and send none.
#[tokio::test(flavor = "multi_thread")]
async fn should_reassign_a_task_when_its_first_agent_stops_sending_heartbeats() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).retry(quick(2)).await
    }
    let options = EngineOptions::new()
        .with_heartbeat_timeout(Duration::from_millis(300))
        .with_dead_letter_check(Duration::from_secs(60));
    let builder = runtime(&store()).workflow("ask", ask).engine_options(options);
    let runtime = builder.start().await.unwrap();
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    let run = runtime.start("ask", &()).await.unwrap();
    let mut held = Vec::new();
    for attempt in 1..=2 {
        let task = next(&mut tasks).await;
        let assigned: TaskAssigned = task.event.data().unwrap();
        assert_eq!(assigned.attempt, attempt);
        let beat = TaskHeartbeat::new(assigned.task_id, attempt);
        say(&runtime, &task.event, "task_heartbeat", &beat).await;
        held.push(task);
    }
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "HEARTBEAT_MISSED");
    let actions = actions(&run).await;
    assert_eq!(actions.iter().filter(|it| *it == "retry_scheduled").count(), 1, "{actions:?}");
}

/// A run with the id of an earlier one, which used the same mailbox, is not ended by the dead
/// letters of that one.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_take_the_dead_letter_of_another_assignment() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).retry(RetryPolicy::never()).await
    }
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let start = async || {
        let builder = runtime(&store()).broker(Arc::clone(&broker)).workflow("ask", ask);
        builder.engine_options(attentive()).start().await.unwrap()
    };
    // The first run has this id in a store that no longer exists; its task became a dead letter.
    let before = start().await;
    let mut tasks = ghosts(&before, "agents.ghost", "task_assigned").await;
    let first = before.start("ask", &()).id("again").await.unwrap();
    next(&mut tasks).await.dead_letter("of the first").await.unwrap();
    assert_eq!(result::<u32>(&first).await.unwrap_err().code(), "TASK_DEAD_LETTERED");
    before.shutdown(PATIENCE).await.unwrap();
    let after = start().await;
    let run = after.start("ask", &()).id("again").await.unwrap();
    let task = next(&mut tasks).await;
    // The engine reads the dead letters several times during this.
    #[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
    tokio::time::sleep(Duration::from_millis(300)).await;
    let task_id = TaskId::of_run("again", 1);
    let output = Payload::encode(&7).unwrap();
    let done = TaskCompleted::new(task_id, output);
    say(&after, &task.event, "task_completed", &done).await;
    task.ack().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

/// Another engine recorded the same answer, after a signal that this one has not read: the answer
/// is known, the signal is not.
#[tokio::test(flavor = "multi_thread")]
async fn should_miss_nothing_recorded_before_a_known_answer() {
    async fn both(context: WorkflowContext, (): ()) -> Result<(u64, u32), WorkflowError> {
        let task = context.task::<u64>("doubler", &4);
        let signal = context.signal::<u32>("go");
        let (doubled, signaled) = aios_agents::join!(task, signal);
        Ok((doubled?, signaled?))
    }
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let (shared, elsewhere): (Arc<dyn Store>, _) = (faulty.clone(), Arc::clone(&inner));
    let outside = runtime(&inner).workflow("both", both).client_only().start().await.unwrap();
    let outside = Arc::new(outside);
    let is_first = AtomicBool::new(true);
    faulty.on_append(move |append| {
        if !holds(append, "task_completed") || !is_first.swap(false, Ordering::SeqCst) {
            return None;
        }
        let (elsewhere, outside) = (Arc::clone(&elsewhere), Arc::clone(&outside));
        let same = Append::new(append.stream.clone(), append.events.clone());
        Some(Fault::After(Box::pin(async move {
            outside.handle("r").await.unwrap().signal("go", &9).await.unwrap();
            elsewhere.append_one(same).await.unwrap();
        })))
    });
    let builder = runtime(&shared).agent("doubler", Doubler::default()).workflow("both", both);
    // Only the append itself tells the engine of the signal.
    let options = attentive().with_child_poll_interval(Duration::from_secs(3600));
    let runtime = builder.engine_options(options).start().await.unwrap();
    let run = runtime.start("both", &()).id("r").await.unwrap();
    assert_eq!(result::<(u64, u32)>(&run).await.unwrap(), (8, 9));
    let actions = actions(&run).await;
    assert_eq!(actions.iter().filter(|it| *it == "signaled").count(), 1, "{actions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_acknowledge_an_answer_only_once_it_is_recorded() {
    async fn double(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        context.task("doubler", &number).await
    }
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let memory = Arc::new(MemoryBroker::new());
    let broker = FaultyBroker::new(Arc::clone(&memory) as Arc<dyn Broker>);
    let refused = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&refused);
    faulty.on_append(move |append| {
        holds(append, "task_completed").then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            Fault::Refuse(store_unavailable())
        })
    });
    let store: Arc<dyn Store> = faulty.clone();
    let doubler = Doubler::default();
    let spy = Group::new("spy").unwrap();
    let patterns = ["agents.doubler.#".parse().unwrap()];
    let mut seen = memory.subscribe(Subscription::group(spy, patterns)).await.unwrap();
    let builder = runtime(&store).broker(broker.clone()).agent("doubler", doubler.clone());
    let runtime = builder.workflow("double", double).start().await.unwrap();
    let run = runtime.start("double", &21).await.unwrap();
    let acknowledged = || {
        let settled = broker.settled();
        settled.iter().any(|(event, settlement)| {
            event.event_type.action() == "task_completed" && *settlement == Settlement::Ack
        })
    };
    eventually("tried twice", || async { refused.load(Ordering::SeqCst) >= 2 }).await;
    // A broker that restarts delivers the answer again.
    let mut mailbox = None;
    let answer = loop {
        let delivery = seen.next().await.unwrap().unwrap();
        let event = delivery.event.clone();
        delivery.ack().await.unwrap();
        mailbox = event.metadata.reply_to.clone().or(mailbox);
        if event.event_type.action() == "task_completed" {
            break event;
        }
    };
    let to = Some(Mailbox::new(mailbox.unwrap()).unwrap());
    let publish = Publish { event: answer, to, require_route: true };
    memory.publish(vec![publish]).await.pop().unwrap().unwrap();
    let so_far = refused.load(Ordering::SeqCst);
    eventually("tried again", || async { refused.load(Ordering::SeqCst) >= so_far + 3 }).await;
    assert!(!acknowledged(), "the answer would be lost in a crash");
    faulty.heal();
    assert_eq!(result::<u32>(&run).await.unwrap(), 42);
    eventually("acknowledged", || async { acknowledged() }).await;
    assert_eq!(doubler.0.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_agents_that_a_task_was_cancelled() {
    #[derive(Clone, Default)]
    struct Patient {
        began: Arc<AtomicBool>,
        cancelled: Arc<AtomicBool>,
    }
    impl Agent for Patient {
        type Parameters = ();
        type Output = ();
        async fn process_task(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
            self.began.store(true, Ordering::SeqCst);
            context.cancelled().await;
            self.cancelled.store(true, Ordering::SeqCst);
            Ok(())
        }
    }
    async fn wait(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        context.task("patient", &()).await
    }
    let patient = Patient::default();
    let builder = runtime(&store()).agent("patient", patient.clone()).workflow("wait", wait);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    eventually("it began", || async { patient.began.load(Ordering::SeqCst) }).await;
    run.cancel("no longer needed").await.unwrap();
    eventually("the agent knows", || async { patient.cancelled.load(Ordering::SeqCst) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_agent_that_does_not_exist() {
    async fn ask(context: WorkflowContext, id: String) -> Result<u32, WorkflowError> {
        context.task(Target::agent("doubler", id), &1).retry(RetryPolicy::never()).await
    }
    let builder = runtime(&store()).agent("doubler", Doubler::default()).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    for (id, text) in [
        ("seven", "no agent of type doubler with the id seven takes tasks"),
        ("agent 7", "the id of an agent consists of"),
    ] {
        let run = runtime.start("ask", id).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.code, "AGENT_NOT_FOUND");
        assert!(failure.message.contains(text), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_list_the_existing_agents_if_none_takes_a_task() {
    async fn ask(context: WorkflowContext, agent: String) -> Result<u32, WorkflowError> {
        context.task(agent, &1).retry(RetryPolicy::never()).await
    }
    let builder = runtime(&store()).agent("doubler", Doubler::default()).workflow("ask", ask);
    let runtime = builder.start().await.unwrap();
    for (agent, hint) in [("dobler", Some("Did you mean doubler?")), ("printer", None)] {
        let run = runtime.start("ask", agent).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.code, "AGENT_NOT_FOUND");
        assert!(failure.message.contains("agents of the types doubler"), "{failure}");
        assert_eq!(failure.message.contains("Did you mean"), hint.is_some(), "{failure}");
        assert!(failure.message.contains(hint.unwrap_or_default()), "{failure}");
    }
}

/// Another engine records the result of the first attempt while the owner is about to assign the
/// second.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_assign_an_attempt_whose_task_has_a_result() {
    async fn fails(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).retry(quick(5)).await
    }
    let (inner, faulty) = {
        let inner = store();
        (Arc::clone(&inner), FaultyStore::new(inner))
    };
    let (elsewhere, is_first) = (Arc::clone(&inner), AtomicBool::new(true));
    faulty.on_append(move |append| {
        let mut given = append.events.iter().filter(|it| it.event_type.action() == "task_assigned");
        let second = given.find(|it| it.payload.as_str().contains(r#""attempt":2"#))?;
        if !is_first.swap(false, Ordering::SeqCst) {
            return None;
        }
        let (task_id, output) = (TaskId::new("r/1"), Payload::encode(&7).unwrap());
        let data = TaskCompleted::new(task_id, output);
        let kind = "agents.ghost.task_completed".parse().unwrap();
        let answer = Event::new(kind, "elsewhere", &data).unwrap();
        let answer = answer.with_metadata(second.metadata.clone());
        let (stream, store) = (append.stream.clone(), Arc::clone(&elsewhere));
        Some(Fault::After(Box::pin(async move {
            store.append_one(Append::new(stream, vec![answer])).await.unwrap();
        })))
    });
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).engine_options(attentive()).workflow("fails", fails);
    let runtime = builder.start().await.unwrap();
    let mut tasks = ghosts(&runtime, "agents.ghost", "task_assigned").await;
    let run = runtime.start("fails", &()).id("r").await.unwrap();
    next(&mut tasks).await.dead_letter("no agent does it").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    let wanted = ["started", "task_assigned", "retry_scheduled", "task_completed", "completed"];
    assert_eq!(actions(&run).await, wanted);
    let tasks = inner.tasks(&TaskFilter::default(), &PageRequest::first(10)).await.unwrap();
    assert_eq!(tasks.rows[0].status.as_str(), "completed");
}
