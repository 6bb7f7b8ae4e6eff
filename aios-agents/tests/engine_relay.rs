//! The relay publishes the log at least once and in order, whatever fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{BrokerError, Deliveries, Group, Subscription},
    event::{Event, Pattern},
};

use crate::{
    faulty::{Fault, FaultyBroker},
    workflow_support::{PATIENCE, eventually, result, store},
};

/// Emits its number between two steps.
async fn emit(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &number).unwrap();
    context.emit(event)?;
    context.step("a", || async { Ok::<_, TaskError>(()) }).await?;
    context.step("b", || async { Ok::<_, TaskError>(()) }).await?;
    Ok(number)
}

async fn start(store: &Arc<dyn Store>, broker: &Arc<FaultyBroker>) -> Runtime {
    let options = EngineOptions { lease_time: Duration::from_secs(1), ..EngineOptions::default() };
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::clone(broker) as Arc<dyn Broker>)
        .engine_options(options)
        .workflow("emit", emit)
        .start()
        .await
        .unwrap()
}

/// What is emitted, from now on.
async fn placed(broker: &Arc<FaultyBroker>) -> Deliveries {
    let pattern: Pattern = "orders.order.placed".parse().unwrap();
    let group = Group::new("watch").unwrap();
    broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(placed: &mut Deliveries) -> u32 {
    let delivery = tokio::time::timeout(PATIENCE, placed.next()).await.expect("it is relayed");
    let delivery = delivery.unwrap().unwrap();
    let number = delivery.event.data().unwrap();
    delivery.ack().await.unwrap();
    number
}

async fn run(runtime: &Runtime, number: u32) {
    let run = runtime.start("emit", &number).with_id(format!("e{number}")).await.unwrap();
    result::<u32>(&run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_publish_again_what_the_broker_did_not_take_and_in_order() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    let failures = AtomicUsize::new(0);
    broker.on_publish(move |publish| {
        let is_placed = publish.event.event_type.action() == "placed";
        let fails = is_placed && failures.fetch_add(1, Ordering::SeqCst) < 4;
        fails.then(|| Fault::Refuse(BrokerError::Timeout { operation: "publish", after: PATIENCE }))
    });
    let runtime = start(&store(), &broker).await;
    for number in 1..=3 {
        run(&runtime, number).await;
    }
    // What was published together with what failed comes again after it.
    for expected in 1..=3 {
        while next(&mut placed).await != expected {}
    }
}

/// A relay that dies while it publishes has not passed what it was publishing.
#[tokio::test(flavor = "multi_thread")]
async fn should_publish_what_a_relay_before_could_not() {
    let (store, broker) = (store(), FaultyBroker::new(Arc::new(MemoryBroker::new())));
    let mut placed = placed(&broker).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&tries);
    broker.on_publish(move |publish| {
        let is_placed = publish.event.event_type.action() == "placed";
        is_placed.then(|| {
            tried.fetch_add(1, Ordering::SeqCst);
            Fault::Hang
        })
    });
    let before = start(&store, &broker).await;
    run(&before, 1).await;
    eventually("it is tried", || async { tries.load(Ordering::SeqCst) > 0 }).await;
    drop(before);
    broker.heal();
    let after = start(&store, &broker).await;
    assert_eq!(next(&mut placed).await, 1);
    drop(after);
}

/// What a fork copies has happened once; what it does itself happens anew.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_publish_again_what_a_fork_copied() {
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let mut placed = placed(&broker).await;
    let runtime = start(&store(), &broker).await;
    run(&runtime, 1).await;
    let original = runtime.run("e1").await.unwrap();
    let fork = original.fork(3, "fork").await.unwrap();
    assert_eq!(result::<u32>(&fork).await.unwrap(), 1);
    let anew = original.fork(1, "anew").await.unwrap();
    assert_eq!(result::<u32>(&anew).await.unwrap(), 1);
    run(&runtime, 2).await;
    let seen = [next(&mut placed).await, next(&mut placed).await, next(&mut placed).await];
    assert_eq!(seen, [1, 1, 2], "the original, the one that begins anew, and the last");
}
