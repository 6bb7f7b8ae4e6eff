//! Permanent refusals of the store are neither retried nor only logged: the operation fails, the
//! run is blocked, or the engine stops and reports why.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, Deliveries, Group, Settlement, Subscription},
    event::Event,
    failure::Failure,
    retry::Backoff,
    store::{Append, Leases, StoreError},
};
use serde_json::json;

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore, holds, store_refuses, store_unavailable},
    workflows::{self, PATIENCE, actions, eventually, result, store},
};

async fn kid(context: WorkflowContext, _: u32) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

async fn parent(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.child::<u32>("kid", &1).await
}

async fn one_step(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.step("one", || async { Ok::<_, TaskError>(1) }).await
}

/// A task, and a concurrent step that begins when the test says so.
async fn both(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let step = async {
        context.signal::<()>("step").await?;
        context.step("one", || async { Ok::<_, TaskError>(1) }).await
    };
    let task = context.task::<u32>("ghost", &1);
    let (one, two) = aios_agents::join!(step, task);
    Ok(one? + two?)
}

fn build(store: &Arc<FaultyStore>) -> RuntimeBuilder {
    let store: Arc<dyn Store> = Arc::clone(store) as _;
    let backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(10));
    let options =
        EngineOptions::new().with_lease_time(Duration::from_secs(120)).with_backoff(backoff);
    let builder = workflows::runtime(&store).engine_options(options);
    let builder = builder.workflow("parent", parent).workflow("kid", kid);
    builder.workflow("one_step", one_step).workflow("both", both)
}

/// Answers the appends that a test selects with an error, as long as it says, and counts them.
fn refuse(
    store: &FaultyStore,
    error: impl Fn(&Append, usize) -> Option<StoreError> + Send + Sync + 'static,
    is_it: impl Fn(&Append) -> bool + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    store.on_append(move |append| {
        if !is_it(append) {
            return None;
        }
        let number = counted.fetch_add(1, Ordering::SeqCst);
        error(append, number).map(Fault::Refuse)
    });
    count
}

async fn status(run: &RunHandle) -> String {
    run.status().await.unwrap().status.as_str().to_owned()
}

async fn is(run: &RunHandle, wanted: &str) {
    eventually(wanted, || async { status(run).await == wanted }).await;
}

async fn failed(runtime: &Runtime) -> Failure {
    tokio::time::timeout(PATIENCE, runtime.failed()).await.expect("the engine stops")
}

/// Waits until an engine that stopped because of a failure has handed everything over.
async fn halted(store: &FaultyStore) {
    eventually("its leases are free", || async { store.leases().await.unwrap().is_empty() }).await;
}

/// The run does not end as if its children had been cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_child_cannot_be_cancelled() {
    let faulty = FaultyStore::new(store());
    let runtime = build(&faulty).start().await.unwrap();
    let run = runtime.start("parent", &()).id("p").await.unwrap();
    eventually("a child", || async { runtime.handle("p~1").await.is_ok() }).await;
    let child = runtime.handle("p~1").await.unwrap();
    let of_child =
        |append: &Append| holds(append, "cancel_requested") && append.stream.run_id() != Some("p");
    let tried = refuse(&faulty, |_, _| Some(store_refuses()), of_child);
    run.cancel("no more").await.unwrap();
    is(&run, "blocked").await;
    let failure = result::<u32>(&run).await.unwrap_err().failure().unwrap().clone();
    assert_eq!(failure.code, "STORE_BACKEND");
    assert!(failure.message.contains("child p~1 can't be cancelled"), "{failure}");
    assert_eq!(tried.load(Ordering::SeqCst), 1);
    assert_eq!(status(&child).await, "running");
    runtime.shutdown(PATIENCE).await.unwrap();

    faulty.heal();
    let after = build(&faulty).start().await.unwrap();
    is(&after.handle("p").await.unwrap(), "cancelled").await;
    is(&after.handle("p~1").await.unwrap(), "cancelled").await;
    after.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_ask_a_child_to_cancel_until_the_store_accepts_it() {
    let faulty = FaultyStore::new(store());
    let runtime = build(&faulty).start().await.unwrap();
    let run = runtime.start("parent", &()).id("p").await.unwrap();
    eventually("a child", || async { runtime.handle("p~1").await.is_ok() }).await;
    let of_child =
        |append: &Append| holds(append, "cancel_requested") && append.stream.run_id() != Some("p");
    let tried = refuse(&faulty, |_, number| (number < 5).then(store_unavailable), of_child);
    run.cancel("no more").await.unwrap();
    is(&runtime.handle("p~1").await.unwrap(), "cancelled").await;
    is(&run, "cancelled").await;
    assert_eq!(tried.load(Ordering::SeqCst), 6);
}

/// Refuses the result of a step, and answers the event that blocks the run as the rule says.
fn refuse_block(
    faulty: &FaultyStore,
    error: impl Fn(&Append, usize) -> Option<StoreError> + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    faulty.on_append(move |append| {
        if holds(append, "step_completed") {
            return Some(Fault::Refuse(store_refuses()));
        }
        let is_block = holds(append, "blocked");
        let error = is_block.then(|| error(append, counted.fetch_add(1, Ordering::SeqCst)))?;
        error.map(Fault::Refuse)
    });
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_if_a_run_cannot_even_be_blocked() {
    let faulty = FaultyStore::new(store());
    let tried = refuse_block(&faulty, |_, _| Some(store_refuses()));
    let runtime = build(&faulty).start().await.unwrap();
    let run = runtime.start("one_step", &()).id("r").await.unwrap();
    let failure = failed(&runtime).await;
    assert_eq!(failure.code, "STORE_BACKEND");
    for part in ["block a run", "run r can't continue"] {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "ENGINE_STOPPED");
    assert_eq!(tried.load(Ordering::SeqCst), 1);
    halted(&faulty).await;
    drop(runtime);

    faulty.heal();
    let after = build(&faulty).start().await.unwrap();
    assert_eq!(result::<u32>(&after.handle("r").await.unwrap()).await.unwrap(), 1);
    after.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_as_soon_as_the_store_accepts_it() {
    let large = |append: &Append| {
        let id = append.events[0].id.clone();
        StoreError::TooLarge { id, bytes: 9, limit: 8 }
    };
    for passing in [false, true] {
        let faulty = FaultyStore::new(store());
        let tried = refuse_block(&faulty, move |append, number| match passing {
            true => (number < 4).then(store_unavailable),
            // Its message is truncated.
            false => (number < 1).then(|| large(append)),
        });
        let runtime = build(&faulty).start().await.unwrap();
        let run = runtime.start("one_step", &()).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Blocked { .. }), "{error:?}");
        is(&run, "blocked").await;
        // A signal or a needless wake-up loads the run again, which blocks it once more.
        let refused = if passing { 4 } else { 1 };
        eventually("what was not refused is recorded", || async {
            let recorded = actions(&run).await.iter().filter(|action| *action == "blocked").count();
            recorded > 0 && tried.load(Ordering::SeqCst) == refused + recorded
        })
        .await;
        assert_eq!(runtime.failure(), None);
    }
}

/// The result cannot be reported; the outcome is the failure to report it.
#[tokio::test(flavor = "multi_thread")]
async fn should_fail_a_child_operation_whose_result_the_store_refuses() {
    let faulty = FaultyStore::new(store());
    let first = |_: &Append, number| (number < 1).then(store_refuses);
    let tried = refuse(&faulty, first, |append| holds(append, "child_ended"));
    let runtime = build(&faulty).start().await.unwrap();
    let run = runtime.start("parent", &()).id("p").await.unwrap();
    eventually("a child", || async { runtime.handle("p~1").await.is_ok() }).await;
    runtime.handle("p~1").await.unwrap().signal("go", &7).await.unwrap();
    let failure = result::<u32>(&run).await.unwrap_err().failure().unwrap().clone();
    assert_eq!(failure.code, "STORE_BACKEND");
    assert_eq!(tried.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_if_the_end_of_a_child_can_never_be_reported() {
    let faulty = FaultyStore::new(store());
    let ends = |append: &Append| holds(append, "child_ended");
    let tried = refuse(&faulty, |_, _| Some(store_refuses()), ends);
    let runtime = build(&faulty).start().await.unwrap();
    runtime.start("parent", &()).id("p").await.unwrap();
    eventually("a child", || async { runtime.handle("p~1").await.is_ok() }).await;
    runtime.handle("p~1").await.unwrap().signal("go", &7).await.unwrap();
    let failure = failed(&runtime).await;
    assert_eq!(failure.code, "STORE_BACKEND");
    assert!(failure.message.contains("report the end of a child"), "{failure}");
    assert_eq!(tried.load(Ordering::SeqCst), 2);
}

async fn ghosts(broker: &Arc<FaultyBroker>) -> Deliveries {
    let pattern = "agents.ghost.task_assigned".parse().unwrap();
    let group = Group::new("agents.ghost").unwrap();
    broker.subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn answer(broker: &Arc<FaultyBroker>, task: &Event) {
    let data: serde_json::Value = task.data().unwrap();
    let data = json!({ "task_id": data["task_id"], "result": "success", "output": 2 });
    let answer = Event::new("agents.ghost.task_completed".parse().unwrap(), "ghost", &data);
    let answer = answer.unwrap().caused_by(task);
    let to = aios_core::broker::Mailbox::new(task.metadata.reply_to.as_deref().unwrap()).unwrap();
    let publish = aios_core::broker::Publish::new(answer).with_mailbox(to);
    for result in broker.publish(vec![publish]).await {
        result.unwrap();
    }
}

/// A run that is blocked by this engine while an agent works on its task.
async fn blocked_with_a_task(
    faulty: &Arc<FaultyStore>,
    broker: &Arc<FaultyBroker>,
) -> (Runtime, Event) {
    let mut tasks = ghosts(broker).await;
    faulty.on_append(|append| {
        holds(append, "step_completed").then(|| Fault::Refuse(store_refuses()))
    });
    let builder = build(faulty).broker(Arc::clone(broker) as Arc<dyn Broker>);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("both", &()).id("r").await.unwrap();
    let task = tokio::time::timeout(PATIENCE, tasks.next()).await.unwrap().unwrap().unwrap();
    let event = task.event.clone();
    task.ack().await.unwrap();
    run.signal("step", &()).await.unwrap();
    is(&run, "blocked").await;
    (runtime, event)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_a_failure_instead_of_an_answer_that_the_store_refuses() {
    let faulty = FaultyStore::new(store());
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (runtime, task) = blocked_with_a_task(&faulty, &broker).await;
    let results = |append: &Append| holds(append, "task_completed");
    let tried = refuse(&faulty, |_, _| Some(store_refuses()), results);
    answer(&broker, &task).await;
    let run = runtime.handle("r").await.unwrap();
    eventually("recorded", || async {
        actions(&run).await.iter().any(|action| action == "task_failed")
    })
    .await;
    assert_eq!(tried.load(Ordering::SeqCst), 1);
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();

    faulty.heal();
    let after = build(&faulty).broker(broker as Arc<dyn Broker>).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    is(&run, "failed").await;
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "STORE_BACKEND");
}

/// The answer is not lost: the next owner of the mailbox gets it.
#[tokio::test(flavor = "multi_thread")]
async fn should_stop_if_an_answer_can_never_be_recorded() {
    let faulty = FaultyStore::new(store());
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (runtime, task) = blocked_with_a_task(&faulty, &broker).await;
    let answers = |append: &Append| holds(append, "task_completed") || holds(append, "task_failed");
    let tried = refuse(&faulty, |_, _| Some(store_refuses()), answers);
    answer(&broker, &task).await;
    let failure = failed(&runtime).await;
    assert_eq!(failure.code, "STORE_BACKEND");
    assert!(failure.message.contains("record an answer"), "{failure}");
    assert_eq!(tried.load(Ordering::SeqCst), 2);
    halted(&faulty).await;
    // Once, by the engine that had closed its mailbox.
    let is_answer = |event: &Event| event.event_type.action() == "task_completed";
    let settled = broker.settled().into_iter().filter(|(event, _)| is_answer(event));
    assert_eq!(settled.map(|it| it.1).collect::<Vec<_>>(), [Settlement::Release]);
    drop(runtime);

    faulty.heal();
    let after = build(&faulty).broker(broker as Arc<dyn Broker>).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    is(&run, "completed").await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
}

/// A caller that waits without an engine checks for the end itself.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_follow_the_log_of_a_store_that_refuses_it() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let engine = build(&FaultyStore::new(inner)).start().await.unwrap();
    let run = engine.start("kid", &1).id("k").await.unwrap();
    faulty.on_call(|name| (*name == "head").then(|| Fault::Refuse(store_refuses())));
    let outside = build(&faulty).client_only().start().await.unwrap();
    let waiting = outside.handle("k").await.unwrap();
    let waiting = tokio::spawn(async move { result::<u32>(&waiting).await });
    eventually("it is asked", || async { faulty.count("head") > 0 }).await;
    #[allow(clippy::disallowed_methods, reason = "the log would be asked again several times")]
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(faulty.count("head"), 1);
    run.signal("go", &7).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 7);
}
