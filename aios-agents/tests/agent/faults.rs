//! How tasks are handled when the broker fails.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::agent::{AgentSet, HostOptions};
use aios_broker::memory::{MemoryBroker, MemoryOptions};
use aios_core::{
    agent::{Agent, TaskContext, TaskError, TaskFailed},
    broker::{
        Address, Broker, BrokerError, DeadLetters, Deliveries, HealthWatch, Publish, Subscription,
    },
    clock::Clock,
    event::Event,
    failure::Failure,
};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::agents::{Scripted, World, assigned};

const SECOND: Duration = Duration::from_secs(1);

/// Refuses events and breaks subscriptions as instructed by the test.
#[derive(Debug)]
struct Faulty {
    inner: Arc<MemoryBroker>,
    /// Responses to the next publications of events with this action.
    refusals: Mutex<VecDeque<(&'static str, BrokerError)>>,
    /// Publications of events with this action are not answered.
    unanswered: Mutex<Option<&'static str>>,
    /// How many subscriptions end with an error before their first delivery.
    breaks: Mutex<usize>,
}

impl Faulty {
    fn new(world: &World) -> Arc<Self> {
        let (refusals, breaks) = (Mutex::default(), Mutex::new(0));
        let unanswered = Mutex::default();
        Arc::new(Self { inner: Arc::clone(&world.broker), refusals, unanswered, breaks })
    }

    fn refuse(&self, action: &'static str, times: usize, error: &BrokerError) {
        let refusals = std::iter::repeat_n((action, error.clone()), times);
        self.refusals.lock().unwrap().extend(refusals);
    }

    fn refusal(&self, event: &Event) -> Option<BrokerError> {
        let mut refusals = self.refusals.lock().unwrap();
        let at = refusals.iter().position(|(action, _)| *action == event.event_type.action())?;
        refusals.remove(at).map(|(_, error)| error)
    }
}

#[async_trait]
impl Broker for Faulty {
    async fn publish(&self, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
        let mut answers = Vec::new();
        for publish in batch {
            if *self.unanswered.lock().unwrap() == Some(publish.event.event_type.action()) {
                std::future::pending::<()>().await;
            }
            match self.refusal(&publish.event) {
                Some(error) => answers.push(Err(error)),
                None => answers.extend(self.inner.publish(vec![publish]).await),
            }
        }
        answers
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, BrokerError> {
        let deliveries = self.inner.subscribe(subscription).await?;
        let breaks = {
            let mut left = self.breaks.lock().unwrap();
            let breaks = *left > 0;
            *left = left.saturating_sub(1);
            breaks
        };
        if breaks {
            return Ok(Deliveries::new(
                stream::iter([Err(BrokerError::Uncertain)]).chain(deliveries),
            ));
        }
        Ok(deliveries)
    }

    async fn dead_letters(&self, address: &Address) -> Result<Box<dyn DeadLetters>, BrokerError> {
        self.inner.dead_letters(address).await
    }

    fn health(&self) -> HealthWatch {
        self.inner.health()
    }

    async fn close(&self, deadline: Duration) -> Result<(), BrokerError> {
        self.inner.close(deadline).await
    }
}

#[tokio::test]
async fn should_publish_an_answer_again_until_the_broker_takes_it() {
    let (world, agent) = (World::new(), Scripted::echo());
    let broker = Faulty::new(&world);
    broker.refuse("task_completed", 3, &BrokerError::Uncertain);
    let mut engine = world.mailbox("engine").await;
    let agents = AgentSet::new().agent("backend", agent.clone());
    let _host = world.start_on(broker.clone(), agents, HostOptions::new()).await.unwrap();
    world.assign("backend", "t1", json!(1)).await;
    assert!(engine.try_next().await.is_none());
    assert_eq!(world.drive(engine.next()).await.event_type.action(), "task_completed");
    assert_eq!((agent.calls(), broker.refusals.lock().unwrap().len()), (1, 0));
}

/// The server lost its data, and the engine has not declared its mailbox again yet.
#[tokio::test]
async fn should_keep_an_answer_until_its_mailbox_exists() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut listener = world.subscribe("listener", &["agents.backend.task_completed"]).await;
    let _host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.pass(SECOND).await;
    let mut engine = world.mailbox("engine").await;
    assert_eq!(world.drive(engine.next()).await.event_type.action(), "task_completed");
    assert_eq!(agent.calls(), 1);
    assert!(listener.try_next().await.is_some(), "others get it too");
}

#[tokio::test]
async fn should_give_up_a_task_whose_answer_has_no_mailbox() {
    let (world, agent) = (World::new(), Scripted::echo());
    let _host = world.start(AgentSet::new().agent("backend", agent.clone())).await;
    world.assign("backend", "t1", json!(1)).await;
    world.pass(SECOND * 120).await;
    let address = aios_core::broker::Group::new("agents.backend").unwrap().into();
    let letters = world.broker.dead_letters(&address).await.unwrap().list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "no mailbox receives the answer");
}

#[tokio::test]
async fn should_refuse_to_emit_reserved_events() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let mut forged = world.subscribe("forged", &["agents.victim.#", "workflows.#"]).await;
    let agent = Scripted::new(|context, parameters| {
        for event_type in ["agents.victim.task_cancelled", "workflows.deploy.completed"] {
            let event = Event::new(event_type.parse().unwrap(), "backend", &1).unwrap();
            assert_eq!(context.emit(event).unwrap_err().code(), "RESERVED_EVENT_TYPE");
        }
        async { Ok(parameters) }
    });
    let agents = AgentSet::new().agent("backend", agent);
    let _host = world.start(agents).await;
    world.assign("backend", "t1", json!(1)).await;
    assert_eq!(world.drive(engine.next()).await.event_type.action(), "task_completed");
    assert!(forged.try_next().await.is_none());
}

#[tokio::test]
async fn should_publish_what_was_emitted_in_order_although_some_is_refused() {
    let world = World::new();
    let broker = Faulty::new(&world);
    broker.refuse("placed", 2, &BrokerError::Uncertain);
    let mut all = world.subscribe("all", &["shop.#", "agents.*.task_completed"]).await;
    let _engine = world.mailbox("engine").await;
    let agent = Scripted::new(|context, parameters| {
        for item in 0..3 {
            let event_type = "shop.order.placed".parse().unwrap();
            context.emit(Event::new(event_type, "backend", &item).unwrap()).unwrap();
        }
        async { Ok(parameters) }
    });
    let agents = AgentSet::new().agent("backend", agent);
    let _host = world.start_on(broker, agents, HostOptions::new()).await.unwrap();
    world.assign("backend", "t1", json!(1)).await;
    let mut seen = Vec::new();
    loop {
        let event = world.drive(all.next()).await;
        if event.event_type.action() == "task_completed" {
            break;
        }
        seen.push(event.data::<u32>().unwrap());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2], "everything was published before the answer");
}

#[tokio::test]
async fn should_turn_an_answer_that_is_too_large_into_a_failure() {
    let world = World::new();
    let options = MemoryOptions::new().with_clock(Arc::new(world.clock.clone()));
    let small = Arc::new(MemoryBroker::connect_with(options.with_max_event_bytes(2_000)).unwrap());
    let world = World { broker: small, ..world };
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|_, _| async { Ok(json!("x".repeat(10_000))) });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!(1)).await;
    let failed = world.drive(engine.failure()).await;
    assert_eq!((failed.failure.code.as_str(), failed.retryable), ("EVENT_TOO_LARGE", false));
}

#[tokio::test]
async fn should_shorten_a_failure_that_is_too_large() {
    let world = World::new();
    let options = MemoryOptions::new().with_clock(Arc::new(world.clock.clone()));
    let small = Arc::new(MemoryBroker::connect_with(options.with_max_event_bytes(5_000)).unwrap());
    let world = World { broker: small, ..world };
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|_, _| async {
        let failure = Failure::new("OUT_OF_STOCK", "no tea: ".to_owned() + &"x".repeat(100_000));
        Err(TaskError::retryable(failure))
    });
    let _host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.assign("backend", "t1", json!(1)).await;
    let failed = world.drive(engine.failure()).await;
    assert_eq!((failed.failure.code.as_str(), failed.retryable), ("OUT_OF_STOCK", true));
    assert!(failed.failure.message.starts_with("no tea: xxx"), "{}", failed.failure.message);
}

#[tokio::test]
async fn should_subscribe_again_after_a_subscription_broke() {
    let world = World::new();
    let broker = Faulty::new(&world);
    *broker.breaks.lock().unwrap() = 3;
    let mut engine = world.mailbox("engine").await;
    let agents = AgentSet::new().agent("backend", Scripted::echo());
    let _host = world.start_on(broker, agents, HostOptions::new()).await.unwrap();
    world.pass(SECOND * 5).await;
    world.assign("backend", "t1", json!(1)).await;
    assert_eq!(engine.next().await.event_type.action(), "task_completed");
    world.publish(crate::support::agents::cancelled("backend", "t2")).await;
    world.idle().await;
    world.assign("backend", "t2", json!(1)).await;
    assert_eq!(engine.failure().await.failure.code, "TASK_CANCELLED", "it hears cancellations too");
}

#[tokio::test]
async fn should_release_a_task_with_an_unpublished_answer_at_shutdown() {
    let world = World::new();
    let broker = Faulty::new(&world);
    broker.refuse("task_completed", 1_000, &BrokerError::Uncertain);
    let agents = AgentSet::new().agent("backend", Scripted::echo());
    let host = world.start_on(broker, agents, HostOptions::new()).await.unwrap();
    world.assign("backend", "t1", json!(1)).await;
    world.idle().await;
    let error = world.drive(host.shutdown(SECOND * 3)).await.unwrap_err();
    assert_eq!(error.code(), "SHUTDOWN_TIMEOUT");
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 1);
}

#[tokio::test]
async fn should_shut_down_in_time_while_the_broker_does_not_answer() {
    let world = World::new();
    let broker = Faulty::new(&world);
    let agents = AgentSet::new().agent("backend", Scripted::echo());
    let host = world.start_on(broker.clone(), agents, HostOptions::new()).await.unwrap();
    *broker.unanswered.lock().unwrap() = Some("status_changed");
    let before = world.clock.elapsed();
    world.drive(host.shutdown(SECOND * 3)).await.unwrap();
    assert_eq!(world.clock.elapsed() - before, SECOND * 3, "the rest is for its announcements");
}

#[tokio::test]
async fn should_not_start_where_the_broker_refuses_for_good() {
    let world = World::new();
    world.broker.close(SECOND).await.unwrap();
    let agents = AgentSet::new().agent("backend", Scripted::echo());
    let error = world.start_with(agents, HostOptions::new()).await.unwrap_err();
    assert_eq!(error.code(), "BROKER_CLOSED");
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code, reason = "only its decoding matters")]
struct Strict {
    name: String,
    #[schemars(range(max = 3))]
    level: u8,
}

struct Never;

impl Agent for Never {
    type Parameters = Strict;
    type Output = ();

    async fn process_task(&self, _: &TaskContext, _: Strict) -> Result<(), TaskError> {
        panic!("the code is never reached")
    }
}

#[tokio::test]
async fn should_answer_invalid_parameters_with_every_path_and_for_good() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let _host = world.start(AgentSet::new().agent("strict", Never)).await;
    world.publish(assigned("strict", "t1", 1, json!({"level": 9}), None)).await;
    let TaskFailed { failure, retryable, .. } = engine.failure().await;
    assert_eq!((failure.code.as_str(), retryable), ("INVALID_PARAMETERS", false));
    let faults = failure.details.to_value().as_array().unwrap().clone();
    let mut paths: Vec<_> = faults.iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/level", "/name"]);
}
