//! Agents and callers whose broker or store permanently refuses an operation that it accepted
//! before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentDefinition, AgentHost, AgentSet, HostOptions, TaskClient},
    prelude::*,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::BrokerError,
    clock::{Clock, SystemClock},
    failure::Failure,
};
use aios_tests::log::Logged;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{
    agents::{Scripted, World},
    faulty::{Fault, FaultyBroker, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, eventually},
};

const SECOND: Duration = Duration::from_secs(1);

fn refused() -> BrokerError {
    BrokerError::InvalidConfiguration { reason: "not for you".to_owned() }
}

async fn failed(failed: impl Future<Output = Failure>) -> Failure {
    tokio::time::timeout(PATIENCE, failed).await.expect("the failure should be reported")
}

fn echo() -> AgentDefinition {
    AgentDefinition::instance("echo", Scripted::echo())
}

fn both() -> AgentSet {
    AgentSet::new().definition(echo()).agent("other", Scripted::echo())
}

/// Every subscription of a host is permanently refused, after one transient error.
#[tokio::test]
async fn should_say_which_subscription_is_refused_for_good() {
    for (address, what) in [
        ("agents.echo", "take tasks from group agents.echo"),
        ("agents.echo.", "take tasks from mailbox agents.echo."),
        ("agents.cancelled.", "receive cancellations"),
    ] {
        let (world, logged) = (World::new(), Logged::here());
        let broker = FaultyBroker::new(world.broker.clone());
        let host = world.start_on(broker.clone(), both(), HostOptions::new()).await.unwrap();
        assert_eq!(host.failure(), None);
        let passes = AtomicBool::new(true);
        broker.on_subscribe(move |subscription| {
            let asked = subscription.address.to_string();
            let asked = asked.rsplit(' ').next().unwrap().to_owned();
            let is_it = match address.ends_with('.') {
                true => asked.starts_with(address),
                false => asked == address,
            };
            is_it.then(|| match passes.swap(false, Ordering::SeqCst) {
                true => Fault::Refuse(BrokerError::Uncertain),
                false => Fault::Refuse(refused()),
            })
        });
        broker.break_subscriptions(&BrokerError::Uncertain);
        let failure = world.drive(host.failed()).await;
        assert_eq!(failure.code, "INVALID_BROKER_CONFIGURATION", "{address}");
        assert!(failure.message.contains(what), "{address}: {failure}");
        assert_eq!(host.failure(), Some(failure));
        assert_eq!(logged.lines(&["ERROR", what]).len(), 1, "{address}");
        // The other subscriptions continue.
        let mut engine = world.mailbox("engine").await;
        world.pass(SECOND * 10).await;
        world.assign("other", "t1", json!(1)).await;
        assert_eq!(engine.next().await.event_type.action(), "task_completed");
        let error = world.drive(host.shutdown(SECOND)).await.unwrap_err();
        assert_eq!(error.code(), "AGENT_HOST_IMPAIRED", "{address}");
    }
}

/// Agents that take no tasks are not announced as available.
#[tokio::test]
async fn should_not_announce_agents_whose_tasks_it_may_not_take() {
    let world = World::new();
    let broker = FaultyBroker::new(world.broker.clone());
    let host = world.start_on(broker.clone(), both(), HostOptions::new()).await.unwrap();
    broker.on_subscribe(|subscription| {
        let is_it = subscription.address.to_string().ends_with("agents.echo");
        is_it.then(|| Fault::Refuse(refused()))
    });
    broker.break_subscriptions(&BrokerError::Uncertain);
    world.drive(host.failed()).await;
    let mut echoes = world.subscribe("watch.echo", &["agents.echo.seen"]).await;
    let mut others = world.subscribe("watch.other", &["agents.other.seen"]).await;
    world.pass(SECOND * 120).await;
    assert!(others.try_next().await.is_some());
    assert!(echoes.try_next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_the_runtime_that_its_agents_are_impaired() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = Runtime::builder().broker(Arc::clone(&broker) as Arc<dyn Broker>);
    let runtime = builder.agents(echo()).start().await.unwrap();
    broker.on_subscribe(|_| Some(Fault::Refuse(refused())));
    broker.break_subscriptions(&BrokerError::Uncertain);
    let failure = failed(runtime.failed()).await;
    assert_eq!(failure.code, "INVALID_BROKER_CONFIGURATION");
    assert!(runtime.failure().is_some());
    let error = runtime.shutdown(PATIENCE).await.unwrap_err();
    assert_eq!(error.code(), "AGENT_HOST_IMPAIRED");
}

/// If a store refuses what agents announce, they continue to work on tasks, and the failure is
/// reported.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_its_agents_cannot_be_announced() {
    let store = FaultyStore::new(Arc::new(aios_store::memory::MemoryStore::new()));
    let broker = Arc::new(MemoryBroker::new());
    let clock = Arc::new(SystemClock);
    let options = HostOptions::new().with_announce_interval(Duration::from_millis(10));
    let (announcing, agents) = (Arc::clone(&store) as Arc<dyn Store>, both());
    let host = AgentHost::builder(agents).broker(Arc::clone(&broker) as _).options(options);
    let host = host.store(announcing).start().await.unwrap();
    store.on_append(|_| Some(Fault::Refuse(store_unavailable())));
    store.on_call(|name| (*name == "touch_agents").then(|| Fault::Refuse(store_unavailable())));
    tokio::time::timeout(Duration::from_millis(100), host.failed()).await.unwrap_err();
    store.on_append(|_| Some(Fault::Refuse(store_refuses())));
    store.on_call(|name| (*name == "touch_agents").then(|| Fault::Refuse(store_refuses())));
    let failure = failed(host.failed()).await;
    assert_eq!(failure.code, "STORE_BACKEND");
    assert!(failure.message.contains("announce agents"), "{failure}");
    let caller = TaskClient::new(broker, clock, "test").await.unwrap();
    assert_eq!(caller.task("echo", &7).await.unwrap().decode::<u32>().unwrap(), 7);
    host.shutdown(PATIENCE).await.unwrap_err();
}

#[tokio::test]
async fn should_fail_every_call_once_answers_may_not_be_read() {
    let (world, logged) = (World::new(), Logged::here());
    let broker = FaultyBroker::new(world.broker.clone());
    let _host = world.start(AgentSet::new().agent("stuck", Scripted::stuck())).await;
    let clock = Arc::new(world.clock.clone());
    let caller = TaskClient::new(broker.clone(), clock, "test").await.unwrap();
    let call = tokio::spawn(caller.task("stuck", &1).into_future());
    world.idle().await;
    assert_eq!(caller.failure(), None);
    broker.on_subscribe(|_| Some(Fault::Refuse(refused())));
    broker.break_subscriptions(&BrokerError::Uncertain);
    let error = world.drive(call).await.unwrap().unwrap_err();
    assert_eq!(error.failure.code, "INVALID_BROKER_CONFIGURATION");
    assert!(!error.retryable);
    assert_eq!(caller.failure(), Some(error.failure.clone()));
    let before = world.clock.elapsed();
    let again = world.drive(caller.task("stuck", &1).into_future()).await.unwrap_err();
    assert_eq!(again.failure, error.failure);
    assert_eq!(world.clock.elapsed(), before, "it does not wait");
    assert_eq!(logged.lines(&["ERROR", "all further calls fail"]).len(), 1);
}

/// Answers to a caller that is gone are not consumed: its tasks end, and do not delay a shutdown.
#[tokio::test]
async fn should_cancel_pending_calls_when_the_caller_is_dropped() {
    let (world, gate) = (World::new(), Arc::new(Semaphore::new(0)));
    let opened = Arc::clone(&gate);
    let slow = Scripted::new(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(json!(1))
        }
    });
    let host = world.start(AgentSet::new().agent("slow", slow)).await;
    let mut cancelled = world.subscribe("watch", &["agents.slow.task_cancelled"]).await;
    let caller = world.caller().await;
    let clone = caller.clone();
    // One is answered, one runs into its timeout, one is dropped.
    let answered = tokio::spawn(caller.task("slow", &1).into_future());
    world.idle().await;
    gate.add_permits(1);
    answered.await.unwrap().unwrap();
    let late = caller.task("slow", &2).timeout(SECOND * 30);
    let dropped = tokio::spawn(caller.task("slow", &3).into_future());
    world.idle().await;
    dropped.abort();
    assert!(world.drive(late.into_future()).await.unwrap_err().has_code("TASK_TIMEOUT"));
    drop(caller);
    assert!(cancelled.try_next().await.is_none(), "another clone may still be waiting");
    drop(clone);
    assert!(cancelled.try_next().await.is_some(), "the one whose call was dropped");
    assert!(cancelled.try_next().await.is_none(), "the others were answered");
    let before = world.clock.elapsed();
    world.drive(host.shutdown(SECOND * 30)).await.unwrap();
    assert!(world.clock.elapsed() - before < SECOND * 30, "no answer is waiting to be published");
}

/// The task ended at the same moment as the caller: the mailbox for its answer no longer exists.
#[tokio::test]
async fn should_keep_no_answer_for_a_caller_that_is_gone() {
    let world = World::new();
    let broker = FaultyBroker::new(world.broker.clone());
    let agents = AgentSet::new().agent("echo", Scripted::echo());
    let host = world.start_on(broker.clone(), agents, HostOptions::new()).await.unwrap();
    let caller = world.caller().await;
    // The answer is in transit as long as the caller exists.
    broker.on_publish(|publish| {
        let is_answer = publish.event.event_type.action() == "task_completed";
        is_answer.then(|| Fault::Refuse(BrokerError::Uncertain))
    });
    let call = tokio::spawn(caller.task("echo", &1).into_future());
    world.idle().await;
    call.abort();
    drop(caller);
    world.idle().await;
    broker.heal();
    let before = world.clock.elapsed();
    world.drive(host.shutdown(SECOND * 30)).await.unwrap();
    assert!(world.clock.elapsed() - before < SECOND * 30, "no answer is waiting to be published");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_after_transient_refusals() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let builder = Runtime::builder().broker(Arc::clone(&broker) as Arc<dyn Broker>);
    let runtime = builder.agents(echo()).start().await.unwrap();
    let clock = Arc::new(SystemClock);
    let caller = TaskClient::new(Arc::clone(&broker) as _, clock, "test").await.unwrap();
    broker.on_subscribe(|_| Some(Fault::Refuse(BrokerError::Uncertain)));
    broker.break_subscriptions(&BrokerError::Uncertain);
    tokio::time::timeout(Duration::from_millis(100), runtime.failed()).await.unwrap_err();
    broker.heal();
    eventually("tasks are done again", || async {
        let call = caller.task("echo", &7).timeout(SECOND);
        call.await.is_ok_and(|answer| answer.decode::<u32>().is_ok_and(|it| it == 7))
    })
    .await;
    assert_eq!((runtime.failure(), caller.failure()), (None, None));
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A broker that is away for a moment does not keep a host from starting, whichever subscription it
/// concerns.
#[tokio::test]
async fn should_start_while_subscriptions_fail_for_a_moment() {
    for address in ["agents.echo", "agents.echo.", "agents.cancelled."] {
        let world = World::new();
        let mut engine = world.mailbox("engine").await;
        let broker = FaultyBroker::new(world.broker.clone());
        let passes = AtomicBool::new(false);
        broker.on_subscribe(move |subscription| {
            let asked = subscription.address.to_string();
            let asked = asked.rsplit(' ').next().unwrap();
            let is_it = asked == address || (address.ends_with('.') && asked.starts_with(address));
            (is_it && !passes.swap(true, Ordering::SeqCst))
                .then(|| Fault::Refuse(BrokerError::Uncertain))
        });
        let agents = AgentSet::new().agent("echo", Scripted::stuck());
        let host = world.start_on(broker, agents, HostOptions::new()).await;
        let host = host.unwrap_or_else(|error| panic!("{address}: {error:?}"));
        world.pass(SECOND).await;
        world.assign("echo", "t1", json!(1)).await;
        world.idle().await;
        world.publish(crate::support::agents::cancelled("echo", "t1")).await;
        let ended = async {
            loop {
                let event = engine.next().await;
                if event.event_type.action() == "task_failed" {
                    return event;
                }
            }
        };
        world.drive(ended).await;
        assert_eq!(host.failure(), None, "{address}");
    }
}
