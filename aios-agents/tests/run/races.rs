//! Commands that coincide with the end of a run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::{
    event::Event,
    store::{Append, EventStoreExt, RunStatus, StreamId},
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    faulty::{Fault, FaultyStore, holds, store_unavailable},
    workflows::{actions, eventually, result, runtime, sqlite, store},
};

/// Appends an event to a run's stream as another process does.
pub(crate) async fn append_to_run(
    store: &Arc<dyn Store>,
    run_id: &str,
    event_type: &str,
    data: serde_json::Value,
) {
    let event = Event::new(event_type.parse().unwrap(), "another process", &data).unwrap();
    let stream = StreamId::of_run(run_id).unwrap();
    store.append_one(Append::new(stream, vec![event])).await.unwrap();
}

/// Runs another append right before the first append that contains `action`.
pub(crate) fn sneak_in(
    faulty: &FaultyStore,
    inner: &Arc<dyn Store>,
    action: &'static str,
    event_type: &'static str,
    data: serde_json::Value,
) {
    let (inner, done) = (Arc::clone(inner), AtomicBool::new(false));
    faulty.on_append(move |append| {
        if !holds(append, action) || done.swap(true, Ordering::SeqCst) {
            return None;
        }
        let (inner, data) = (Arc::clone(&inner), data.clone());
        let run_id = append.stream.run_id().unwrap().to_owned();
        Some(Fault::After(Box::pin(async move {
            append_to_run(&inner, &run_id, event_type, data).await;
        })))
    });
}

/// A workflow of one step that counts its compensations.
fn charged(undone: &Arc<AtomicU32>) -> impl Fn(WorkflowContext, ()) -> Charge + Clone + use<> {
    let undone = Arc::clone(undone);
    move |context, ()| {
        let undone = Arc::clone(&undone);
        Box::pin(async move {
            context.step("charge", || async { Ok::<_, TaskError>(()) }).await?;
            context.compensate("charge", move |context| async move {
                let undo = || async { Ok::<_, TaskError>(undone.fetch_add(1, Ordering::SeqCst)) };
                context.step("undo", undo).await.map(drop)
            });
            Ok(1)
        })
    }
}

type Charge = aios_core::BoxFuture<'static, Result<u32, WorkflowError>>;

#[tokio::test(flavor = "multi_thread")]
async fn should_drop_a_result_that_came_after_the_cancellation() {
    for inner in [store(), sqlite().await] {
        let faulty = FaultyStore::new(Arc::clone(&inner));
        let reason = json!({"reason": "changed my mind"});
        sneak_in(&faulty, &inner, "completed", "workflows.charge.cancel_requested", reason);
        let undone = Arc::new(AtomicU32::new(0));
        let store: Arc<dyn Store> = faulty;
        let runtime = runtime(&store).workflow("charge", charged(&undone)).start().await.unwrap();
        let run = runtime.start("charge", &()).id("r").await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
        let expected =
            ["started", "step_completed", "cancel_requested", "step_completed", "cancelled"];
        assert_eq!(actions(&run).await, expected);
        assert_eq!(undone.load(Ordering::SeqCst), 1);
        assert_eq!(run.status().await.unwrap().status, RunStatus::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_once_it_is_resumed_if_it_was_paused_in_its_last_moment() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    sneak_in(&faulty, &inner, "completed", "workflows.charge.paused", json!({}));
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), faulty);
    let build = || runtime(&store).workflow("charge", charged(&undone)).start();
    let before = build().await.unwrap();
    let run = before.start("charge", &()).id("r").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), run.result::<u32>()).await;
    assert!(waiting.is_err(), "it is paused: {waiting:?}");
    assert_eq!(actions(&run).await, ["started", "step_completed", "paused"]);
    before.shutdown(Duration::from_secs(5)).await.unwrap();

    let after = build().await.unwrap();
    let run = after.handle("r").await.unwrap();
    run.resume().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(
        actions(&run).await,
        ["started", "step_completed", "paused", "resumed", "completed"]
    );
}

/// The end of a run is final even if the response to its append was lost.
#[tokio::test(flavor = "multi_thread")]
async fn should_detect_its_end_when_the_response_was_lost() {
    let faulty = FaultyStore::new(store());
    let lost = AtomicBool::new(false);
    faulty.on_append(move |append| {
        let loses = holds(append, "completed") && !lost.swap(true, Ordering::SeqCst);
        loses.then(|| Fault::LoseResponse(store_unavailable()))
    });
    let (undone, store): (_, Arc<dyn Store>) = (Arc::default(), faulty);
    let runtime = runtime(&store).workflow("charge", charged(&undone)).start().await.unwrap();
    let run = runtime.start("charge", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(actions(&run).await, ["started", "step_completed", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_every_run_that_a_command_meets_at_its_end() {
    async fn quick(context: WorkflowContext, micros: u64) -> Result<u64, WorkflowError> {
        let pause = Duration::from_micros(micros);
        #[allow(clippy::disallowed_methods, reason = "the step takes real time")]
        let step = || async {
            tokio::time::sleep(pause).await;
            Ok::<_, TaskError>(micros)
        };
        context.step("step", step).await
    }
    for store in [store(), sqlite().await] {
        let runtime = Arc::new(runtime(&store).workflow("quick", quick).start().await.unwrap());
        let mut commands = JoinSet::new();
        for number in 0..240_u64 {
            let runtime = Arc::clone(&runtime);
            commands.spawn(async move {
                let input = 200 * (number % 13);
                let run = runtime.start("quick", &input).await.unwrap();
                #[allow(clippy::disallowed_methods, reason = "the command comes when it does")]
                tokio::time::sleep(Duration::from_micros(300 * (number % 17))).await;
                let accepted = match number % 3 {
                    0 => run.cancel("race").await,
                    1 => run.pause().await,
                    _ => run.resume().await,
                };
                if let Err(error) = &accepted {
                    assert_eq!(error.code(), "RUN_ENDED");
                }
                if accepted.is_ok() && number % 3 == 1 {
                    run.resume().await.or_else(ended).unwrap();
                }
                let ended = result::<u64>(&run).await;
                if accepted.is_ok() && number % 3 == 0 {
                    assert!(matches!(ended, Err(RunError::Cancelled { .. })), "{ended:?}");
                }
                let actions = actions(&run).await;
                let last = actions.last().unwrap();
                assert!(["completed", "cancelled"].contains(&&**last), "{actions:?}");
                assert_eq!(run.status().await.unwrap().status.as_str(), last);
            });
        }
        while let Some(command) = commands.join_next().await {
            command.unwrap();
        }
    }
}

fn ended(error: RuntimeError) -> Result<(), RuntimeError> {
    if error.code() == "RUN_ENDED" { Ok(()) } else { Err(error) }
}

/// The response to a start may arrive after another engine task has found the run and advanced it.
/// The starter's view of the journal is then out of date.
#[allow(clippy::disallowed_methods, reason = "a test waits for the real engine")]
#[tokio::test(flavor = "multi_thread")]
async fn should_not_repeat_a_step_of_a_run_that_was_found_before_its_start_was_answered() {
    let (begun, calls) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&calls);
    let workflow = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&counted);
        async move {
            context
                .step("first", || async {
                    Ok::<_, TaskError>(calls.fetch_add(1, Ordering::SeqCst))
                })
                .await?;
            context.signal::<u32>("go").await
        }
    };
    let faulty = FaultyStore::new(store());
    let seen: Arc<dyn Store> = Arc::<FaultyStore>::clone(&faulty);
    let answered = Arc::clone(&begun);
    faulty.on_append(move |append| {
        let answered = Arc::clone(&answered);
        let until = async move { answered.notified().await };
        holds(append, "started").then(|| Fault::Until(Box::pin(until)))
    });
    let runtime = Arc::new(runtime(&seen).workflow("steps", workflow).start().await.unwrap());
    let starting = tokio::spawn({
        let runtime = Arc::clone(&runtime);
        async move { runtime.start("steps", &()).id("r").await.unwrap() }
    });
    let stream = StreamId::of_run("r").unwrap();
    let is_waiting = || async {
        let journal = seen.read_stream(&stream, 0, 10).await.unwrap();
        journal.iter().any(|it| it.event.event_type.action() == "step_completed")
    };
    eventually("the run is found and takes its step", is_waiting).await;
    // Until the run has left memory.
    tokio::time::sleep(Duration::from_millis(200)).await;
    begun.notify_one();
    let run = starting.await.unwrap();
    run.signal("go", &3).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the step was recorded");
}
