//! Runs that are scheduled, paused or blocked, and what wakes or ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::event::Event;
use aios_store::{
    memory::{MemoryOptions, MemoryStore},
    sqlite::{SqliteOptions, SqliteStore},
};

use crate::support::{
    faulty::{Fault, FaultyStore, holds, store_refuses},
    workflows::{PATIENCE, eventually, result, runtime, store},
};

async fn panics(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    panic!("out of order")
}

async fn blocked(run: &RunHandle) {
    let is_blocked = || async { run.status().await.unwrap().status.as_str() == "blocked" };
    eventually("the run is blocked", is_blocked).await;
}

/// Why a run is blocked.
async fn reason(run: &RunHandle) -> String {
    let error = result::<u32>(run).await.unwrap_err();
    assert_eq!(error.code(), "RUN_BLOCKED");
    error.failure().unwrap().code.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_its_time_though_it_is_signaled_and_the_engine_restarts() {
    async fn later(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("number").await
    }
    let store = store();
    let before = runtime(&store).workflow("later", later).start().await.unwrap();
    let run = before.start("later", &()).after(Duration::from_secs(1)).id("r").await.unwrap();
    run.signal("number", &7).await.unwrap();
    before.shutdown(PATIENCE).await.unwrap();
    let after = runtime(&store).workflow("later", later).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    run.signal("other", &8).await.unwrap();
    assert_eq!(run.status().await.unwrap().status.as_str(), "running");
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_run_whose_time_has_not_come() {
    async fn later(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        Ok(1)
    }
    let runtime = runtime(&store()).workflow("later", later).start().await.unwrap();
    let run = runtime.start("later", &()).after(Duration::from_secs(3600)).await.unwrap();
    run.cancel("not needed").await.unwrap();
    assert!(matches!(result::<u32>(&run).await.unwrap_err(), RunError::Cancelled { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_blocked_run_that_is_cancelled() {
    let runtime = runtime(&store()).workflow("panics", panics).start().await.unwrap();
    let run = runtime.start("panics", &()).await.unwrap();
    blocked(&run).await;
    run.cancel("hopeless").await.unwrap();
    let cancelled = || async { run.status().await.unwrap().status.as_str() == "cancelled" };
    eventually("the run is cancelled", cancelled).await;
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
    assert_eq!(error.failure().unwrap().details["blocked"]["code"], "WORKFLOW_PANICKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_say_again_that_it_is_blocked_after_it_was_paused_and_resumed() {
    let runtime = runtime(&store()).workflow("panics", panics).start().await.unwrap();
    let run = runtime.start("panics", &()).await.unwrap();
    blocked(&run).await;
    run.pause().await.unwrap();
    run.resume().await.unwrap();
    blocked(&run).await;
    assert_eq!(reason(&run).await, "WORKFLOW_PANICKED");
}

/// A request to resume does not change the status of a blocked run. The journal must say that the run
/// continues, or its callers would be told that it is blocked for as long as it waits.
#[tokio::test(flavor = "multi_thread")]
async fn should_show_a_blocked_run_as_running_once_it_was_resumed() {
    async fn steps(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let one: u32 = context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
        Ok(one + context.signal::<u32>("go").await?)
    }
    for pauses in [false, true] {
        let faulty = FaultyStore::new(store());
        faulty.on_append(|append| {
            holds(append, "step_completed").then(|| Fault::Refuse(store_refuses()))
        });
        let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let runtime = runtime(&store).workflow("steps", steps).start().await.unwrap();
        let run = runtime.start("steps", &()).await.unwrap();
        blocked(&run).await;
        faulty.heal();
        if pauses {
            run.pause().await.unwrap();
        }
        run.resume().await.unwrap();
        let is_running = || async { run.status().await.unwrap().status.as_str() == "running" };
        eventually("the run waits for its signal", is_running).await;
        run.signal("go", &2).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    }
}

/// A run that is blocked while it compensates continues to cancel, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn should_show_a_cancelled_run_as_cancelling_once_it_is_unblocked() {
    async fn books(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.compensate("refund", |context| async move {
            let _: u32 = context.step("refund", || async { Ok::<_, TaskError>(1) }).await?;
            context.signal::<()>("refunded").await
        });
        context.signal("go").await
    }
    let faulty = FaultyStore::new(store());
    faulty.on_append(|append| {
        holds(append, "step_completed").then(|| Fault::Refuse(store_refuses()))
    });
    let store: Arc<dyn Store> = Arc::clone(&faulty) as _;
    let runtime = runtime(&store).workflow("books", books).start().await.unwrap();
    let run = runtime.start("books", &()).await.unwrap();
    run.cancel("sold out").await.unwrap();
    blocked(&run).await;
    faulty.heal();
    run.resume().await.unwrap();
    let is_unblocked = || async { run.status().await.unwrap().status.as_str() != "blocked" };
    eventually("the run compensates", is_unblocked).await;
    assert_eq!(run.status().await.unwrap().status.as_str(), "cancelling");
    run.signal("refunded", &()).await.unwrap();
    assert!(matches!(result::<u32>(&run).await.unwrap_err(), RunError::Cancelled { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_to_emit_what_looks_like_a_journal() {
    async fn emits(context: WorkflowContext, name: String) -> Result<u32, WorkflowError> {
        context.emit(Event::new(name.parse()?, "test", &())?)?;
        Ok(1)
    }
    let runtime = runtime(&store()).workflow("emits", emits).start().await.unwrap();
    for name in ["workflows.emits.completed", "agents.a.task_completed", "system.a.b"] {
        let run = runtime.start("emits", name).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RESERVED_EVENT_TYPE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_to_emit_what_no_consumer_could_parse() {
    async fn emits(context: WorkflowContext, bytes: usize) -> Result<u32, WorkflowError> {
        let event = Event::new("shop.order.placed".parse()?, "test", &())?;
        context.emit(Event { source: "s".repeat(bytes).into(), ..event })?;
        Ok(1)
    }
    let runtime = runtime(&store()).workflow("emits", emits).start().await.unwrap();
    for bytes in [0, 256, 100_000] {
        let run = runtime.start("emits", &bytes).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "INVALID_EVENT_SOURCE");
    }
    let run = runtime.start("emits", &255).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_code_that_emits_more_than_the_store_takes() {
    async fn emits(context: WorkflowContext, bytes: usize) -> Result<u32, WorkflowError> {
        context.emit(Event::new("shop.order.placed".parse()?, "test", &"x".repeat(bytes))?)?;
        Ok(1)
    }
    let options = MemoryOptions::new().with_max_event_bytes(1000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("emits", emits).start().await.unwrap();
    let run = runtime.start("emits", &10).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let run = runtime.start("emits", &2000).await.unwrap();
    blocked(&run).await;
    assert_eq!(reason(&run).await, "EVENT_TOO_LARGE");
}

/// The text is recorded together with the result of the step that runs meanwhile. It is too large, and
/// the work is done.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_result_of_a_step_beside_what_blocks_the_run() {
    let (calls, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(2000)));
    let (counted, size) = (Arc::clone(&calls), Arc::clone(&bytes));
    let workflow = move |context: WorkflowContext, place: String| {
        let (calls, bytes) = (Arc::clone(&counted), size.load(Ordering::SeqCst));
        async move {
            let charge = context.step("charge", || async {
                tokio::task::yield_now().await;
                Ok::<_, TaskError>(calls.fetch_add(1, Ordering::SeqCst) + 1)
            });
            let text = "x".repeat(bytes);
            let tell = async {
                match &*place {
                    "status" => context.set_status(text),
                    _ => context.emit(Event::new("shop.order.placed".parse()?, "test", &text)?)?,
                }
                Ok::<_, WorkflowError>(())
            };
            let (charged, told) = futures_util::future::join(charge, tell).await;
            told.and(charged)
        }
    };
    for place in ["status", "event"] {
        calls.store(0, Ordering::SeqCst);
        bytes.store(2000, Ordering::SeqCst);
        let options = MemoryOptions::new().with_max_event_bytes(1000);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
        let build = || runtime(&store).workflow("charges", workflow.clone()).start();
        let before = build().await.unwrap();
        blocked(&before.start("charges", place).id("r").await.unwrap()).await;
        before.shutdown(PATIENCE).await.unwrap();

        bytes.store(10, Ordering::SeqCst);
        let after = build().await.unwrap();
        let run = after.handle("r").await.unwrap();
        eventually("it completes", || async {
            run.status().await.unwrap().status.as_str() == "completed"
        })
        .await;
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{place}: charged once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_once_a_full_disk_has_room_again() {
    const STEPS: usize = 400;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let workflow = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&counted);
        async move {
            for _ in 0..STEPS {
                let large = || async {
                    calls.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, TaskError>("x".repeat(4000))
                };
                context.step("large", large).await?;
            }
            Ok(STEPS)
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::file(folder.path().join("runs.db"));
    let small = options.clone().with_max_database_bytes(1 << 20);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::connect_with(small).await.unwrap());
    let before = runtime(&store).workflow("fills", workflow.clone()).start().await.unwrap();
    let run = before.start("fills", &()).id("r").await.unwrap();
    let is_full = || async {
        let seen = calls.load(Ordering::SeqCst);
        tokio::time::timeout(Duration::from_millis(300), run.result::<usize>()).await.is_err()
            && seen > 100
            && seen == calls.load(Ordering::SeqCst)
    };
    eventually("the disk is full", is_full).await;
    // It waits for the record that has no room.
    before.shutdown(Duration::from_secs(2)).await.unwrap();
    drop((run, store));

    // Tasks of the first runtime may hold its store for a moment longer.
    let large = options.with_lock_wait(PATIENCE);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::connect_with(large).await.unwrap());
    let after = runtime(&store).workflow("fills", workflow).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    assert_eq!(result::<usize>(&run).await.unwrap(), STEPS);
    let again = calls.load(Ordering::SeqCst) - STEPS;
    assert!(again <= 1, "only what could not be recorded runs again: {again}");
}

/// The truncated form of a failure fits, however large its parts are.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_run_whose_failure_is_larger_than_the_store_takes() {
    async fn fails(_: WorkflowContext, part: usize) -> Result<u32, WorkflowError> {
        let text = |own: usize| if own == part { "x".repeat(9000) } else { "SHORT".to_owned() };
        let failure = aios_core::failure::Failure::new(text(0), text(1));
        Err(WorkflowError::failed(failure.with_details(serde_json::json!([text(2)]))))
    }
    let options = MemoryOptions::new().with_max_event_bytes(4000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("fails", fails).start().await.unwrap();
    for part in 0..3 {
        let run = runtime.start("fails", &part).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Failed { .. }), "{part}: {error:?}");
        let code = if part == 0 { "x".repeat(100) } else { "SHORT".to_owned() };
        assert_eq!(error.code(), code, "{part}");
    }
}
