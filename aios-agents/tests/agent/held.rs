//! Tasks that a process has received from the broker but cannot start yet. The process reports that
//! it holds them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::agent::{AgentDefinition, AgentSet, HostOptions, RegisteredAgent};
use aios_core::{
    agent::{TaskError, TaskHeartbeat},
    broker::{Broker, Mailbox, Publish},
    clock::Clock,
    event::Payload,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::agents::{Inbox, Scripted, World, assigned};

const SECOND: Duration = Duration::from_secs(1);

/// One agent with two slots. A task with a text waits until the test lets it continue; the
/// others count.
struct Harness {
    world: World,
    engine: Inbox,
    proceed: Arc<Notify>,
    counted: Arc<AtomicU32>,
    _host: aios_agents::agent::AgentHost,
}

impl Harness {
    async fn new() -> Self {
        let (proceed, counted) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (wait, count) = (Arc::clone(&proceed), Arc::clone(&counted));
        let agent = Scripted::new(move |_, parameters: Value| {
            let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
            async move {
                if parameters.is_string() {
                    wait.notified().await;
                } else {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                Ok(parameters)
            }
        });
        let make = move |(): ()| Ok::<_, TaskError>(agent.clone());
        let first = RegisteredAgent::new("backend", "first", Payload::null()).with_id("first");
        let definition = AgentDefinition::factory("backend", make).register_agent(first);
        let world = World::new();
        let engine = world.mailbox("engine").await;
        let agents = AgentSet::new().definition(definition.with_concurrency(2));
        let _host = world.start_with(agents, HostOptions::new()).await.unwrap();
        let harness = Self { world, engine, proceed, counted, _host };
        // Tasks for the agent itself occupy the slots, so that those for any agent wait here.
        for id in ["a", "b"] {
            harness.occupy(id).await;
        }
        harness
    }

    async fn occupy(&self, id: &str) {
        let mut task = assigned("backend", id, 1, json!("wait"), None);
        task.event_type = "agents.backend.task_directed".parse().unwrap();
        let mailbox = Mailbox::new("agents.backend.first").unwrap();
        let publish = Publish::new(task).with_mailbox(mailbox).with_required_route();
        for published in self.world.broker.publish(vec![publish]).await {
            published.unwrap();
        }
        self.world.idle().await;
    }

    /// The ids of the tasks that are reported to be waiting, as far as has been received.
    async fn waiting(&mut self) -> Vec<String> {
        let mut waiting = Vec::new();
        while let Some(event) = self.engine.try_next().await {
            assert_eq!(event.event_type.action(), "task_heartbeat");
            let beat: TaskHeartbeat = event.data().unwrap();
            if beat.waits {
                assert_eq!((beat.attempt, beat.progress.as_str()), (1, "null"));
                waiting.push(beat.task_id.to_string());
            }
        }
        waiting.sort();
        waiting
    }
}

#[tokio::test]
async fn should_report_periodically_which_tasks_it_holds() {
    let mut harness = Harness::new().await;
    for id in ["t1", "t2", "t3"] {
        harness.world.assign("backend", id, json!(1)).await;
    }
    harness.world.idle().await;
    assert!(harness.waiting().await.is_empty(), "most begin shortly");
    for pause in [SECOND, SECOND * 10, SECOND * 10] {
        harness.world.pass(pause + SECOND / 10).await;
        assert_eq!(harness.waiting().await, ["t1", "t2"], "the third is in its queue");
    }
    harness.proceed.notify_waiters();
    harness.world.idle().await;
    assert_eq!(harness.counted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn should_report_in_time_what_it_holds_when_the_clock_is_set_back() {
    let mut harness = Harness::new().await;
    harness.world.assign("backend", "t1", json!(1)).await;
    harness.world.idle().await;
    let now = harness.world.clock.now();
    harness.world.clock.set(now - SECOND * 3600);
    harness.world.pass(SECOND + SECOND / 10).await;
    assert_eq!(harness.waiting().await, ["t1"]);
}

#[tokio::test]
async fn should_begin_a_task_once_that_was_assigned_again_while_it_waited() {
    let harness = Harness::new().await;
    for _ in 0..2 {
        harness.world.assign("backend", "t1", json!(1)).await;
    }
    harness.world.pass(SECOND * 15).await;
    assert_eq!(harness.counted.load(Ordering::SeqCst), 0);
    harness.proceed.notify_waiters();
    harness.world.idle().await;
    assert_eq!(harness.counted.load(Ordering::SeqCst), 1);
    assert_eq!(harness.world.waiting("agents.backend", "agents.backend.task_assigned").await, 0);
}

/// Tasks that can still begin here are kept when a subscription ends.
#[tokio::test]
async fn should_begin_what_waits_here_when_the_broker_closes() {
    let harness = Harness::new().await;
    harness.world.assign("backend", "t1", json!(1)).await;
    harness.world.idle().await;
    let broker = Arc::clone(&harness.world.broker);
    let closing = tokio::spawn(async move { broker.close(SECOND * 60).await });
    harness.world.idle().await;
    harness.proceed.notify_waiters();
    harness.world.idle().await;
    assert_eq!(harness.counted.load(Ordering::SeqCst), 1);
    closing.await.unwrap().unwrap();
}
