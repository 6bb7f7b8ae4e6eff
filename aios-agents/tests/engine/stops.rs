//! An engine never retries an operation that cannot succeed: it stops, and its user learns why.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeError},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{BrokerError, BrokerExt, Mailbox, Publish, Subscription},
    event::Event,
    failure::Failure,
    retry::Backoff,
    store::EventStoreExt,
};
use aios_tests::log::Logged;

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, actions, eventually, result, store},
};

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

async fn start(store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> Runtime {
    let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let lease_time = Duration::from_millis(600);
    let options = EngineOptions::new().with_lease_time(lease_time).with_backoff(backoff);
    let builder = Runtime::builder().store(store).broker(broker).engine_options(options);
    builder.workflow("wait", wait).start().await.unwrap()
}

async fn failed(runtime: &Runtime) -> Failure {
    tokio::time::timeout(PATIENCE, runtime.failed()).await.expect("the engine stops")
}

/// Every loop of the engine meets a permanent error.
#[tokio::test]
async fn should_stop_with_a_permanent_error() {
    for (method, what) in [
        ("renew", "keep shards"),
        ("wait_for", "look for foreign appends"),
        ("save_checkpoint", "relay the log"),
    ] {
        let logged = Logged::here();
        let faulty = FaultyStore::new(store());
        let runtime = start(Arc::clone(&faulty) as _, Arc::new(MemoryBroker::new())).await;
        let run = runtime.start("wait", &()).id("w").await.unwrap();
        let waiting = tokio::spawn(async move { result::<u32>(&run).await });
        faulty.on_call(move |name| (*name == method).then(|| Fault::Refuse(store_refuses())));
        let other = runtime.start("wait", &()).await;
        let failure = failed(&runtime).await;
        assert_eq!(failure.code, "STORE_BACKEND", "{method}");
        assert!(failure.message.contains(what), "{method}: {failure}");
        assert_eq!(runtime.failure().as_ref(), Some(&failure));
        drop(other);
        let stopped = waiting.await.unwrap().unwrap_err();
        assert_eq!(stopped.code(), "ENGINE_STOPPED", "{method}: {stopped}");
        let refused = runtime.start("wait", &()).await.unwrap_err();
        assert!(
            matches!(&refused, RuntimeError::EngineStopped { failure: why } if *why == failure),
            "{method}: {refused}"
        );
        assert_eq!(logged.lines(&["ERROR", "the engine stopped"]).len(), 1, "{method}");
        let closed = runtime.shutdown(PATIENCE).await.unwrap_err();
        assert_eq!(closed.code(), "ENGINE_STOPPED", "{method}");
    }
}

/// Its database can be opened again at once, although it was looking for runs.
#[tokio::test]
async fn should_hold_no_store_after_its_shutdown() {
    let faulty = FaultyStore::new(store());
    faulty.on_call(|name| (*name == "unsettled_runs").then_some(Fault::Hang));
    let held = Arc::downgrade(&faulty);
    let runtime = start(faulty, Arc::new(MemoryBroker::new())).await;
    eventually("it looks for runs", || async {
        held.upgrade().is_some_and(|store| store.count("unsettled_runs") > 0)
    })
    .await;
    runtime.shutdown(PATIENCE).await.unwrap();
    assert!(held.upgrade().is_none());
}

/// Its shards are free at once, and its runs continue in another engine.
#[tokio::test(flavor = "multi_thread")]
async fn should_hand_its_runs_over_when_it_stops() {
    let (inner, broker) = (store(), Arc::new(MemoryBroker::new()));
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let runtime = start(Arc::clone(&faulty) as _, Arc::clone(&broker) as _).await;
    runtime.start("wait", &()).id("w").await.unwrap();
    faulty.on_call(|name| (*name == "wait_for").then(|| Fault::Refuse(store_refuses())));
    runtime.start("wait", &()).await.unwrap();
    failed(&runtime).await;
    eventually("its leases are free", || async { inner.leases().await.unwrap().is_empty() }).await;
    let next = start(inner, broker).await;
    let run = next.handle("w").await.unwrap();
    run.signal("go", &5).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
    next.shutdown(PATIENCE).await.unwrap();
}

/// It has joined and reads its mailbox, and then the store refuses to tell it which shards are free.
#[tokio::test(flavor = "multi_thread")]
async fn should_leave_its_mailbox_alone_if_it_could_not_start() {
    let (inner, broker) = (store(), Arc::new(MemoryBroker::new()));
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let calls = AtomicU32::new(0);
    faulty.on_call(move |name| {
        let is_second = *name == "leases" && calls.fetch_add(1, Ordering::SeqCst) == 1;
        is_second.then(|| Fault::Refuse(store_refuses()))
    });
    let builder = Runtime::builder().store(faulty as _).broker(Arc::clone(&broker) as _);
    let refused = builder.workflow("wait", wait).start().await.unwrap_err();
    assert_eq!(refused.code(), "STORE_BACKEND");
    assert!(inner.leases().await.unwrap().is_empty(), "its number is free");
    let mailbox = Mailbox::new(format!("stores.{}.answers.0", inner.id().await.unwrap())).unwrap();
    takes_over(&broker, &mailbox).await;
}

/// Another reader gets what arrives in a mailbox, soon.
async fn takes_over(broker: &MemoryBroker, mailbox: &Mailbox) {
    let mut other = broker.subscribe(Subscription::mailbox(mailbox.clone())).await.unwrap();
    let receiving = async {
        loop {
            let event = Event::new("a.b.c".parse().unwrap(), "test", &()).unwrap();
            let publish = Publish { event, to: Some(mailbox.clone()), require_route: true };
            broker.publish_one(publish).await.unwrap();
            let soon = Duration::from_millis(100);
            if let Ok(delivery) = tokio::time::timeout(soon, other.next()).await {
                return delivery.unwrap().unwrap().ack().await.unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, receiving).await.expect("another one reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_outlive_transient_errors() {
    let faulty = FaultyStore::new(store());
    let runtime = start(Arc::clone(&faulty) as _, Arc::new(MemoryBroker::new())).await;
    let calls = ["wait_for", "head", "read_log_except", "save_checkpoint"];
    let is_one = move |name: &&'static str| calls.contains(name);
    faulty.on_call(move |name| is_one(name).then(|| Fault::Refuse(store_unavailable())));
    let run = runtime.start("wait", &()).await.unwrap();
    run.signal("go", &1).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    tokio::time::timeout(Duration::from_millis(300), runtime.failed()).await.unwrap_err();
    faulty.heal();
    let run = runtime.start("wait", &()).await.unwrap();
    run.signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    runtime.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_when_one_of_its_own_loops_panics() {
    let faulty = FaultyStore::new(store());
    let runtime = start(Arc::clone(&faulty) as _, Arc::new(MemoryBroker::new())).await;
    faulty.on_call(|name| {
        (*name == "renew").then(|| Fault::After(Box::pin(async { panic!("out of order") })))
    });
    let failure = failed(&runtime).await;
    assert_eq!(failure.code, "ENGINE_PANICKED");
    assert!(failure.message.contains("out of order"), "{failure}");
}

/// A broker that the process has closed does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_when_the_broker_is_closed() {
    let broker = Arc::new(MemoryBroker::new());
    let runtime = start(store(), Arc::clone(&broker) as _).await;
    runtime.start("wait", &()).await.unwrap();
    broker.close(Duration::from_secs(1)).await.unwrap();
    assert_eq!(failed(&runtime).await.code, "BROKER_CLOSED");
}

/// The engine lacks the permission to read the mailbox of an engine that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_when_it_may_not_read_a_mailbox() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (first, second) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let before = start(Arc::clone(&first), Arc::clone(&broker) as _).await;
    let after = start(first, Arc::clone(&second) as _).await;
    second.on_subscribe(|_| {
        let reason = "not for you".to_owned();
        Some(Fault::Refuse(BrokerError::InvalidConfiguration { reason }))
    });
    before.shutdown(PATIENCE).await.unwrap();
    let failure = failed(&after).await;
    assert_eq!(failure.code, "INVALID_BROKER_CONFIGURATION");
    assert!(failure.message.contains("read a mailbox"), "{failure}");
}

/// A step that the code has begun and no longer polls can't end. A shutdown does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_wait_for_a_step_that_the_code_no_longer_polls() {
    async fn forget(context: WorkflowContext, polls: bool) -> Result<u32, WorkflowError> {
        let mut endless = Box::pin(context.step("endless", || async {
            std::future::pending::<()>().await;
            Ok::<_, TaskError>(1)
        }));
        aios_agents::select! {
            ended = &mut endless => return ended,
            _ = context.sleep(Duration::from_millis(1)) => {}
        }
        let go = context.signal::<u32>("go");
        match polls {
            true => aios_agents::select! { ended = &mut endless => ended, go = go => go },
            false => go.await,
        }
    }

    const DEADLINE: Duration = Duration::from_secs(600);
    let store = store();
    let build = || {
        let builder = Runtime::builder().store(Arc::clone(&store));
        builder.broker(Arc::new(MemoryBroker::new())).workflow("forget", forget).start()
    };
    let runtime = build().await.unwrap();
    let run = runtime.start("forget", &false).await.unwrap();
    let is_waiting = async || actions(&run).await.last().is_some_and(|last| last == "timer_fired");
    eventually("the run should wait for a signal", is_waiting).await;
    let stopped = tokio::time::timeout(PATIENCE, runtime.shutdown(DEADLINE)).await;
    stopped.expect("the shutdown waits for a step that can't end").unwrap();

    // A step that the code polls may still end.
    let runtime = build().await.unwrap();
    let polled = runtime.start("forget", &true).await.unwrap();
    let is_waiting =
        async || actions(&polled).await.last().is_some_and(|last| last == "timer_fired");
    eventually("the run should wait for a signal", is_waiting).await;
    let mut stopping = tokio::spawn(runtime.shutdown(Duration::from_secs(3)));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut stopping).await;
    assert!(early.is_err(), "the shutdown did not wait for a step that runs");
    drop(stopping.await.unwrap());
}
