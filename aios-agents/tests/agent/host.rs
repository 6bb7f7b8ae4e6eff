use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::agent::{AgentDefinition, AgentSet, HostOptions};
use aios_broker::memory::{MemoryBroker, MemoryOptions};
use aios_core::{
    agent::{ResultExt, TaskCompleted, TaskFailed, TaskHeartbeat},
    broker::{Broker, BrokerExt, DeadLetters, Group, Mailbox, Subscription},
    clock::Clock,
    event::Event,
    failure::Failure,
};
use serde_json::{Value, json};

use crate::support::agents::{Scripted, World, assigned, cancelled};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn should_answer_to_the_mailbox_and_to_the_topic() {
    let world = World::new();
    let (mut engine, mut topic) =
        (world.mailbox("engine").await, world.subscribe("all", &["agents.*.task_completed"]).await);
    let _host = world.start(AgentSet::new().agent("backend", Scripted::echo())).await;
    let given = world.assign("backend", "t1", json!({"a": 1})).await;
    let answer = engine.next().await;
    assert_eq!(answer.event_type.as_str(), "agents.backend.task_completed");
    assert_eq!(answer.metadata.causation_id.as_deref(), Some(given.id.to_string().as_str()));
    let data: TaskCompleted = answer.data().unwrap();
    assert_eq!((data.task_id.as_str(), data.output.as_str()), ("t1", r#"{"a":1}"#));
    assert_eq!(topic.next().await.id, answer.id);
}

#[tokio::test]
async fn should_report_a_panic_as_a_retryable_failure_and_continue() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|_, parameters| async move {
        assert!(parameters != json!("boom"), "it exploded");
        Ok(parameters)
    });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!("boom")).await;
    let failed = engine.failure().await;
    assert_eq!((failed.failure.code.as_str(), failed.retryable), ("AGENT_PANICKED", true));
    assert!(failed.failure.message.contains("it exploded"), "{}", failed.failure.message);
    world.assign("backend", "t2", json!("fine")).await;
    assert_eq!(engine.next().await.event_type.action(), "task_completed");
}

#[tokio::test]
async fn should_tell_the_run_of_a_task_that_cannot_be_decoded() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::echo();
    let _host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    let good = assigned("backend", "t1", 2, json!(1), None);
    let data = json!({ "task_id": "t1", "attempt": 2, "parameters": 1, "timeout_ms": "soon" });
    let bad = Event::new(good.event_type.clone(), "engine", &data).unwrap();
    world.publish(bad.with_metadata(good.metadata)).await;
    let failed = engine.failure().await;
    assert_eq!((failed.task_id.as_str(), failed.attempt, failed.retryable), ("t1", 2, false));
    assert_eq!(agent.calls(), 0);
    let letters = world.broker.dead_letters(&Group::new("agents.backend").unwrap().into()).await;
    assert_eq!(letters.unwrap().list(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn should_drop_the_code_of_a_task_over_its_timeout() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (world, dropped) = (World::new(), Arc::new(AtomicUsize::new(0)));
    let mut engine = world.mailbox("engine").await;
    let count = Arc::clone(&dropped);
    let agent = Scripted::new(move |_, _| {
        let guard = Dropped(Arc::clone(&count));
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.publish(assigned("backend", "t1", 3, json!(1), Some(SECOND))).await;
    let failed = world.drive(engine.failure()).await;
    assert_eq!((failed.failure.code.as_str(), failed.retryable), ("TASK_TIMEOUT", true));
    assert_eq!((failed.attempt, dropped.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test]
async fn should_keep_what_the_code_says_about_retrying() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|_, parameters| async move {
        let failure = Err(Failure::new("QUOTA", "too many"));
        if parameters == json!("terminal") { failure.terminal() } else { Ok(failure?) }
    });
    let _host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    for (parameters, retryable) in [("terminal", false), ("passing", true)] {
        world.assign("backend", parameters, json!(parameters)).await;
        let failed = engine.failure().await;
        assert_eq!((failed.failure.code.as_str(), failed.retryable), ("QUOTA", retryable));
    }
    assert_eq!(agent.calls(), 2, "the host never tries again");
}

#[tokio::test]
async fn should_run_a_repeated_dispatch_once() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let (release, gate) = tokio::sync::watch::channel(false);
    let agent = Scripted::new(move |_, parameters| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(parameters)
        }
    });
    let host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    release.send_replace(true);
    let first = engine.next().await;
    assert!(engine.try_next().await.is_none(), "the repetition in flight has no answer of its own");
    world.assign("backend", "t1", json!(1)).await;
    assert_eq!(engine.next().await.id, first.id, "a finished one is answered with the same event");
    world.publish(assigned("backend", "t1", 2, json!(1), None)).await;
    assert_ne!(engine.next().await.id, first.id, "another attempt is answered separately");
    assert_eq!(agent.calls(), 2);
    host.shutdown(SECOND).await.unwrap();
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 0);
}

#[tokio::test]
async fn should_cancel_a_running_task_and_one_that_comes_later() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::stuck();
    let _host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    assert_eq!(agent.calls(), 1);
    world.publish(cancelled("backend", "t1")).await;
    let failed = world.drive(engine.failure()).await;
    assert_eq!((failed.failure.code.as_str(), failed.retryable), ("TASK_CANCELLED", false));
    world.publish(cancelled("backend", "t2")).await;
    world.idle().await;
    world.assign("backend", "t2", json!(1)).await;
    assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_CANCELLED");
    assert_eq!(agent.calls(), 1, "a task that was cancelled before never begins");
}

#[tokio::test]
async fn should_let_code_that_observes_the_cancellation_clean_up() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let (tidied, told) = tokio::sync::watch::channel(false);
    let agent = Tidy(tidied);
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    world.publish(cancelled("backend", "t1")).await;
    assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_CANCELLED");
    assert!(*told.borrow());
}

struct Tidy(tokio::sync::watch::Sender<bool>);

impl aios_core::agent::Agent for Tidy {
    type Parameters = Value;
    type Output = Value;

    async fn process_task(
        &self,
        context: &aios_core::agent::TaskContext,
        _: Value,
    ) -> Result<Value, aios_core::agent::TaskError> {
        context.cancelled().await;
        self.0.send_replace(true);
        Err(Failure::new("STOPPED", "as told").into())
    }
}

#[tokio::test]
async fn should_publish_what_was_emitted_only_on_success_and_before_the_answer() {
    let world = World::new();
    let mut all = world
        .subscribe("all", &["shop.#", "agents.*.task_completed", "agents.*.task_failed"])
        .await;
    let _engine = world.mailbox("engine").await;
    let agent = Scripted::new(|context, parameters| {
        for item in ["one", "two"] {
            let event_type = "shop.order.placed".parse().unwrap();
            context.emit(Event::new(event_type, "backend", item).unwrap()).unwrap();
        }
        async move {
            if parameters == json!("fail") { Err(Failure::new("NO", "no"))? } else { Ok(json!(1)) }
        }
    });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!("fail")).await;
    assert_eq!(all.next().await.event_type.action(), "task_failed");
    world.assign("backend", "t2", json!("ok")).await;
    let (one, two, answer) = (all.next().await, all.next().await, all.next().await);
    assert_eq!(one.data::<String>().unwrap(), "one");
    assert_eq!(two.data::<String>().unwrap(), "two");
    assert_eq!(answer.event_type.action(), "task_completed");
}

#[tokio::test]
async fn should_do_no_more_tasks_at_once_than_the_cap() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak, clock) = (Arc::clone(&running), Arc::clone(&most), world.clock.clone());
    let agent = Scripted::new(move |_, parameters| {
        let (now, peak, clock) = (Arc::clone(&now), Arc::clone(&peak), clock.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            aios_core::clock::Clock::sleep(&clock, SECOND).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(parameters)
        }
    });
    let definition = AgentDefinition::instance("backend", agent).with_concurrency(3);
    let _host = world.start(AgentSet::new().definition(definition)).await;
    for task in 0..10 {
        world.assign("backend", &format!("t{task}"), json!(task)).await;
    }
    for _ in 0..10 {
        assert_eq!(world.drive(engine.next()).await.event_type.action(), "task_completed");
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// A clock that is set forward ends no attempt early; one that is set back delays no heartbeat and no
/// timeout.
#[tokio::test]
async fn should_time_attempts_by_the_time_that_passes() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let _host = world.start(AgentSet::new().agent("backend", Scripted::stuck())).await;
    world.publish(assigned("backend", "t1", 1, json!(1), Some(SECOND * 30))).await;
    world.idle().await;
    let now = world.clock.now();
    for set in [now + SECOND * 3600, now - SECOND * 3600] {
        world.clock.set(set);
        world.pass(SECOND * 11).await;
        assert_eq!(engine.next().await.event_type.action(), "task_heartbeat");
        assert!(
            engine.try_next().await.is_none_or(|it| it.event_type.action() == "task_heartbeat")
        );
    }
    world.pass(SECOND * 9).await;
    while let Some(event) = engine.try_next().await {
        if event.event_type.action() == "task_failed" {
            return;
        }
    }
    panic!("the timeout has passed");
}

#[tokio::test]
async fn should_send_heartbeats_of_long_tasks_with_the_latest_progress() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|context, _| {
        context.heartbeat("reading").unwrap();
        context.heartbeat("writing").unwrap();
        std::future::pending()
    });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!(1)).await;
    let first: TaskHeartbeat = engine.next().await.data().unwrap();
    assert_eq!((first.attempt, first.progress.as_str()), (1, r#""writing""#));
    assert!(engine.try_next().await.is_none(), "heartbeats are coalesced");
    world.pass(SECOND * 25).await;
    for _ in 0..2 {
        assert_eq!(engine.next().await.event_type.action(), "task_heartbeat");
    }
    assert!(engine.try_next().await.is_none());
}

#[tokio::test]
async fn should_acknowledge_a_long_task_early_and_hand_it_back_when_it_stops() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let options = HostOptions::new().with_early_ack_after(Some(SECOND * 60));
    let agents = AgentSet::new().agent("backend", Scripted::stuck());
    let host = world.start_with(agents, options).await.unwrap();
    let task = assigned("backend", "t1", 1, json!(1), Some(SECOND * 100));
    world.publish(task.clone()).await;
    world.pass(SECOND * 70).await;
    let beat = engine.next().await;
    assert_eq!(beat.event_type.action(), "task_heartbeat");
    // Its delivery is gone, so it would have no other host.
    assert!(world.drive(host.shutdown(SECOND)).await.is_err());
    let mut tasks = world.subscribe("agents.backend", &["agents.backend.task_assigned"]).await;
    let again = tasks.take().await;
    assert_eq!((&again.event.id, again.redelivered), (&task.id, false), "it is handed back");
    assert!(tasks.try_next().await.is_none());
}

#[tokio::test]
async fn should_give_back_tasks_that_wait_behind_long_ones() {
    let world = World::new();
    let options = HostOptions::new().with_early_ack_after(Some(SECOND * 60));
    let (release, gate) = tokio::sync::watch::channel(false);
    let agent = Scripted::new(move |_, parameters| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(parameters)
        }
    });
    let definition = AgentDefinition::instance("backend", agent.clone()).with_concurrency(1);
    let _engine = world.mailbox("engine").await;
    let _host = world.start_with(AgentSet::new().definition(definition), options).await.unwrap();
    world.assign("backend", "t1", json!(1)).await;
    world.assign("backend", "t2", json!(2)).await;
    world.pass(SECOND * 50).await;
    assert_eq!(agent.calls(), 1);
    world.pass(SECOND * 100).await;
    let left = world.waiting("agents.backend", "agents.backend.task_assigned").await;
    assert_eq!((agent.calls(), left), (1, 1), "another host can have it");
    release.send_replace(true);
    world.assign("backend", "t3", json!(3)).await;
    world.pass(SECOND).await;
    assert_eq!(agent.calls(), 2, "this host takes tasks again once it is free");
}

#[tokio::test]
async fn should_give_up_a_delivery_that_is_not_a_task() {
    let world = World::new();
    let _host = world.start(AgentSet::new().agent("backend", Scripted::echo())).await;
    let event_type = "agents.backend.task_assigned".parse().unwrap();
    world.publish(Event::new(event_type, "stranger", &json!({"task": 1})).unwrap()).await;
    world.idle().await;
    let address = aios_core::broker::Group::new("agents.backend").unwrap().into();
    let letters: Box<dyn DeadLetters> = world.broker.dead_letters(&address).await.unwrap();
    let letters = letters.list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("task_id"), "{}", letters[0].reason);
}

#[tokio::test]
async fn should_let_tasks_end_when_it_shuts_down() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let clock = world.clock.clone();
    let agent = Scripted::new(move |_, parameters| {
        let clock = clock.clone();
        async move {
            aios_core::clock::Clock::sleep(&clock, SECOND).await;
            Ok(parameters)
        }
    });
    let definition = AgentDefinition::instance("backend", agent.clone()).with_concurrency(2);
    let host = world.start(AgentSet::new().definition(definition)).await;
    for task in 0..5 {
        world.assign("backend", &format!("t{task}"), json!(task)).await;
    }
    world.idle().await;
    world.drive(host.shutdown(SECOND * 10)).await.unwrap();
    let mut answered = 0;
    while engine.try_next().await.is_some() {
        answered += 1;
    }
    assert_eq!((answered, agent.calls()), (2, 2), "what had begun has ended");
    let left = world.waiting("agents.backend", "agents.backend.task_assigned").await;
    assert_eq!(left, 3, "the rest waits for another host");
}

#[tokio::test]
async fn should_give_back_what_does_not_end_in_time() {
    let world = World::new();
    let host = world.start(AgentSet::new().agent("backend", Scripted::stuck())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    let error = world.drive(host.shutdown(SECOND)).await.unwrap_err();
    assert_eq!(error.code(), "SHUTDOWN_TIMEOUT");
    world.idle().await;
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 1);
}

#[tokio::test]
async fn should_give_back_its_tasks_when_it_is_dropped() {
    let world = World::new();
    let host = world.start(AgentSet::new().agent("backend", Scripted::stuck())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    drop(host);
    world.idle().await;
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 1);
}

/// Panics when it is dropped, unless its thread panics already.
struct Landmine;

impl Drop for Landmine {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the destructor exploded");
    }
}

/// Its task would otherwise be released to the broker, and begin again without end.
#[tokio::test]
async fn should_answer_a_task_whose_code_panics_when_it_is_dropped() {
    for is_cancelled in [false, true] {
        let world = World::new();
        let mut engine = world.mailbox("engine").await;
        let agent = Scripted::new(|_, _| async {
            let _landmine = Landmine;
            std::future::pending().await
        });
        let host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
        world.publish(assigned("backend", "t1", 1, json!(1), Some(SECOND / 2))).await;
        world.idle().await;
        if is_cancelled {
            world.publish(cancelled("backend", "t1")).await;
        }
        world.pass(SECOND * 3).await;
        let expected = if is_cancelled { "TASK_CANCELLED" } else { "AGENT_PANICKED" };
        let mut codes = Vec::new();
        while let Some(answer) = engine.try_next().await {
            if answer.event_type.action() == "task_failed" {
                codes.push(answer.data::<TaskFailed>().unwrap().failure.code);
            }
        }
        assert_eq!((codes, agent.calls()), (vec![expected.to_owned()], 1));
        host.shutdown(SECOND).await.unwrap();
        assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 0);
    }
}

/// Otherwise its engine would take it for dead.
#[tokio::test]
async fn should_send_heartbeats_whose_progress_is_too_large_without_it() {
    let world = World::new();
    let options = MemoryOptions::new().with_clock(Arc::new(world.clock.clone()));
    let broker = Arc::new(MemoryBroker::connect_with(options.with_max_event_bytes(2_000)).unwrap());
    let engine = Subscription::mailbox(Mailbox::new("engine").unwrap());
    let mut engine = broker.subscribe(engine).await.unwrap();
    let clock = world.clock.clone();
    let agent = Scripted::new(move |context, _| {
        context.heartbeat(&"x".repeat(9_000)).unwrap();
        let clock = clock.clone();
        async move {
            clock.sleep(SECOND * 5).await;
            Ok(json!(1))
        }
    });
    let agents = AgentSet::new().agent("backend", agent);
    let _host = world.start_on(broker.clone(), agents, HostOptions::new()).await.unwrap();
    broker.publish_event(assigned("backend", "t1", 1, json!(1), None)).await.unwrap();
    world.pass(SECOND * 6).await;
    let beat = world.drive(engine.next()).await.unwrap().unwrap();
    assert_eq!(beat.event.event_type.action(), "task_heartbeat");
    let beat: TaskHeartbeat = beat.event.data().unwrap();
    assert_eq!((beat.task_id.as_str(), beat.progress.as_str()), ("t1", "null"));
}
