//! Runs that are scheduled, paused or blocked, and what wakes or ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::event::Event;
use aios_store::{
    memory::{MemoryOptions, MemoryStore},
    sqlite::{SqliteOptions, SqliteStore},
};

use crate::support::{
    faulty::{Fault, FaultyStore, holds, store_refuses, store_unavailable},
    workflows::{PATIENCE, actions, eventually, quick, result, runtime, store},
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
    assert_eq!(error.failure().unwrap().details.to_value()["blocked"]["code"], "WORKFLOW_PANICKED");
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

/// A run whose code is missing while it compensates keeps its compensations, unless it is cancelled again.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_cancelled_run_whose_code_is_missing() {
    async fn books(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        for name in ["refund", "unbook"] {
            context.compensate(name, move |context| async move {
                context.signal::<()>(name).await?;
                context.step(name, || async { Ok::<_, TaskError>(()) }).await
            });
        }
        context.signal("go").await
    }
    for gives_up in [false, true] {
        let store = store();
        let before = runtime(&store).workflow("books", books).start().await.unwrap();
        let run = before.start("books", &()).id("r").await.unwrap();
        run.cancel("sold out").await.unwrap();
        run.signal("unbook", &()).await.unwrap();
        let has_begun = || async { actions(&run).await.contains(&"step_completed".to_owned()) };
        eventually("the run compensates", has_begun).await;
        before.shutdown(PATIENCE).await.unwrap();

        let without = runtime(&store).workflow("panics", panics).start().await.unwrap();
        let run = without.handle("r").await.unwrap();
        blocked(&run).await;
        assert_eq!(reason(&run).await, "WORKFLOW_NOT_FOUND");
        if gives_up {
            run.cancel("for good").await.unwrap();
            let error = result::<u32>(&run).await.unwrap_err();
            assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
            continue;
        }
        without.shutdown(PATIENCE).await.unwrap();

        let after = runtime(&store).workflow("books", books).start().await.unwrap();
        let run = after.handle("r").await.unwrap();
        run.signal("refund", &()).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
        let actions = actions(&run).await;
        assert_eq!(actions.iter().filter(|it| *it == "step_completed").count(), 2, "{actions:?}");
    }
}

/// Nothing awaits its task any more.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_the_tasks_of_a_run_that_ends_without_its_code() {
    async fn asks(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("ghost", &1).await
    }
    let store = store();
    let before = runtime(&store).workflow("asks", asks).start().await.unwrap();
    let run = before.start("asks", &()).id("r").await.unwrap();
    eventually("it has a task", || async {
        actions(&run).await.contains(&"task_assigned".to_owned())
    })
    .await;
    before.shutdown(PATIENCE).await.unwrap();
    let without = runtime(&store).workflow("panics", panics).start().await.unwrap();
    let run = without.handle("r").await.unwrap();
    blocked(&run).await;
    run.cancel("for good").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
    let actions = actions(&run).await;
    assert!(actions.ends_with(&["task_cancelled".into(), "cancelled".into()]), "{actions:?}");
}

/// A run that was given up while its code was missing continues if the code is back before that is
/// noticed, and is blocked again if the code is missing again.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_again_that_continued_after_it_was_given_up() {
    async fn books(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.compensate("refund", |context| async move {
            context.step("note", || async { Ok::<_, TaskError>(()) }).await?;
            context.signal::<()>("refunded").await
        });
        context.signal("go").await
    }
    let store = store();
    let start = || runtime(&store).workflow("books", books).start();
    let start_without = || runtime(&store).workflow("panics", panics).start();
    let before = start().await.unwrap();
    before.start("books", &()).id("r").await.unwrap();
    before.shutdown(PATIENCE).await.unwrap();
    let without = start_without().await.unwrap();
    blocked(&without.handle("r").await.unwrap()).await;
    without.shutdown(PATIENCE).await.unwrap();
    let client = runtime(&store).workflow("books", books).client_only().start().await.unwrap();
    client.handle("r").await.unwrap().cancel("sold out").await.unwrap();

    let after = start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    let has_begun = || async { actions(&run).await.contains(&"step_completed".to_owned()) };
    eventually("the run compensates", has_begun).await;
    after.shutdown(PATIENCE).await.unwrap();
    let without = start_without().await.unwrap();
    blocked(&without.handle("r").await.unwrap()).await;
    without.shutdown(PATIENCE).await.unwrap();

    let after = start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    run.signal("refunded", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
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

/// The rows in the store say that the runs are blocked, and the engine is about to try them again.
#[tokio::test(flavor = "multi_thread")]
async fn should_return_the_results_of_runs_whose_code_was_corrected() {
    async fn fixed(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        Ok(1)
    }
    let store = store();
    let before = runtime(&store).workflow("one", panics).start().await.unwrap();
    for number in 0..500 {
        before.start("one", &()).id(format!("r{number}")).await.unwrap();
    }
    blocked(&before.handle("r499").await.unwrap()).await;
    before.shutdown(PATIENCE).await.unwrap();

    let after = runtime(&store).workflow("one", fixed).start().await.unwrap();
    for number in (0..500).rev() {
        let run = after.handle(&format!("r{number}")).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 1, "{number}");
    }
}

async fn tells(context: WorkflowContext, place: String) -> Result<u32, WorkflowError> {
    let text = "x".repeat(2000);
    match &*place {
        "status" => context.set_status(text),
        "event" => context.emit(Event::new("shop.order.placed".parse()?, "test", &text)?)?,
        // Fails only when it runs, and never in a replay.
        _ => context.compensate("undo", |_| async {
            std::future::pending::<()>().await;
            Ok(())
        }),
    }
    context.signal("never").await
}

/// No replay shows that the journal can't have what the code requests, or that a compensation waits for
/// something foreign. So each load of the run unblocks it.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_run_that_is_cancelled_while_what_it_requests_can_not_be_recorded() {
    for (place, refuses) in [("status", false), ("event", false), ("event", true), ("undo", false)]
    {
        let options = match refuses {
            true => MemoryOptions::new(),
            false => MemoryOptions::new().with_max_event_bytes(1000),
        };
        let faulty = FaultyStore::new(Arc::new(MemoryStore::connect_with(options).unwrap()));
        if refuses {
            faulty.on_append(|append| {
                holds(append, "placed").then(|| Fault::Refuse(store_refuses()))
            });
        }
        let store: Arc<dyn Store> = faulty;
        let runtime = runtime(&store).workflow("tells", tells).start().await.unwrap();
        let run = runtime.start("tells", place).await.unwrap();
        if place == "undo" {
            run.cancel("sold out").await.unwrap();
        }
        blocked(&run).await;
        run.cancel("hopeless").await.unwrap();
        eventually("it ends", || async {
            run.status().await.unwrap().status.as_str() == "cancelled"
        })
        .await;
        let RunError::Cancelled { failure, .. } = result::<u32>(&run).await.unwrap_err() else {
            panic!("{place}: not cancelled")
        };
        assert!(
            failure.details.to_value()["blocked"].is_object(),
            "{place}: it says why it was blocked"
        );
    }
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

/// A branch panics in the poll in which the steps beside it end.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_results_of_steps_beside_a_branch_that_panics() {
    charge_beside_a_panic(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_results_of_steps_beside_a_panic_while_the_store_is_unavailable() {
    let faulty = FaultyStore::new(store());
    let refusals = AtomicUsize::new(0);
    faulty.on_append(move |append| {
        let is_refused = holds(append, "blocked") && refusals.fetch_add(1, Ordering::SeqCst) < 3;
        is_refused.then(|| Fault::Refuse(store_unavailable()))
    });
    charge_beside_a_panic(faulty).await;
}

/// Three steps end before a branch beside them panics. The code is repaired, and the run completes.
async fn charge_beside_a_panic(store: Arc<dyn Store>) {
    const CHARGES: usize = 3;
    let (calls, is_broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, breaks) = (Arc::clone(&calls), Arc::clone(&is_broken));
    let workflow = move |context: WorkflowContext, (): ()| {
        let (calls, is_broken) = (Arc::clone(&counted), breaks.load(Ordering::SeqCst));
        async move {
            let charge = || async { Ok::<_, TaskError>(calls.fetch_add(1, Ordering::SeqCst)) };
            let charges = (0..CHARGES).map(|_| context.step("charge", charge));
            // Polled after the steps.
            let other = std::future::poll_fn(|_| {
                let ended = calls.load(Ordering::SeqCst);
                assert!(!is_broken || ended < CHARGES, "out of order");
                if is_broken { Poll::Pending } else { Poll::Ready(()) }
            });
            let charges = futures_util::future::join_all(charges);
            let (charges, ()) = futures_util::future::join(charges, other).await;
            charges.into_iter().collect::<Result<Vec<usize>, _>>()
        }
    };
    let build = || runtime(&store).workflow("charges", workflow.clone()).start();
    let before = build().await.unwrap();
    let run = before.start("charges", &()).id("r").await.unwrap();
    assert_eq!(reason(&run).await, "WORKFLOW_PANICKED");
    before.shutdown(PATIENCE).await.unwrap();

    is_broken.store(false, Ordering::SeqCst);
    let after = build().await.unwrap();
    let run = after.handle("r").await.unwrap();
    let is_over = || async { run.status().await.unwrap().status.as_str() == "completed" };
    eventually("it completes", is_over).await;
    assert_eq!(calls.load(Ordering::SeqCst), CHARGES, "each is charged once");
    assert_eq!(result::<Vec<usize>>(&run).await.unwrap(), [0, 1, 2]);
}

/// The result of a step beside a branch that panics is larger than the store takes.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_a_branch_panics_beside_a_step_whose_result_is_too_large() {
    async fn charges(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
        let has_ended = AtomicBool::new(false);
        let charge = context.step("charge", || async {
            has_ended.store(true, Ordering::SeqCst);
            Ok::<_, TaskError>("x".repeat(2000))
        });
        let other = std::future::poll_fn(|_| {
            assert!(!has_ended.load(Ordering::SeqCst), "out of order");
            Poll::<()>::Pending
        });
        futures_util::future::join(charge, other).await.0
    }
    let options = MemoryOptions::new().with_max_event_bytes(1000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("charges", charges).start().await.unwrap();
    let run = runtime.start("charges", &()).await.unwrap();
    assert_eq!(reason(&run).await, "WORKFLOW_PANICKED");
    let last = actions(&run).await.split_off(1);
    // It may have been tried again since.
    assert_eq!(last[..2], ["operation_failed", "blocked"]);
}

/// A failure that is larger than the store takes is cut, and the step is retried.
#[tokio::test(flavor = "multi_thread")]
async fn should_retry_after_a_failure_that_is_too_large() {
    let calls = Arc::new(AtomicUsize::new(0));
    let workflow = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&calls);
        async move {
            let charge = || async {
                match calls.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(TaskError::retryable(Failure::new("BUSY", "x".repeat(2000)))),
                    number => Ok(number),
                }
            };
            context.step("charge", charge).retry(quick(2)).await
        }
    };
    let options = MemoryOptions::new().with_max_event_bytes(1800);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("charges", workflow).start().await.unwrap();
    let run = runtime.start("charges", &()).await.unwrap();
    assert_eq!(result::<usize>(&run).await.unwrap(), 1);
    let journal = run.journal(0, 100).await.unwrap();
    let retry = journal.iter().find(|it| it.event.event_type.action() == "retry_scheduled");
    let retry: serde_json::Value = retry.unwrap().event.data().unwrap();
    assert!(retry.to_string().contains("BUSY"), "{retry}");
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
