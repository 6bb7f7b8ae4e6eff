use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;

use crate::support::workflows::{PATIENCE, actions, eventually, quick, result, runtime, store};

async fn step(context: &WorkflowContext, name: &str, value: u32) -> Result<u32, WorkflowError> {
    context.step(name, || async { Ok::<_, TaskError>(value) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_a_signal_that_came_before_it_was_awaited() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<(u32, u32), WorkflowError> {
        context.sleep(Duration::from_millis(50)).await?;
        Ok((context.signal("number").await?, context.signal("number").await?))
    }
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    run.signal("number", &1).await.unwrap();
    run.signal("other", &9).await.unwrap();
    run.signal("number", &2).await.unwrap();
    assert_eq!(result::<(u32, u32)>(&run).await.unwrap(), (1, 2));
    assert_eq!(run.signal("number", &3).await.unwrap_err().code(), "RUN_ENDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_waiting_for_a_signal() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("approval").timeout(Duration::from_millis(20)).await
    }
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "SIGNAL_TIMEOUT");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wake_an_evicted_run() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let before = step(&context, "before", 1).await?;
        let signaled: u32 = context.signal("go").await?;
        let after = step(&context, "after", 3).await?;
        Ok(before + signaled + after)
    }
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    eventually("the step is recorded", || async { actions(&run).await.len() == 2 }).await;
    run.signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_after_a_restart_without_repeating_a_step() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let workflow = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&counted);
        async move {
            let first = context
                .step("first", || async {
                    Ok::<_, TaskError>(calls.fetch_add(1, Ordering::SeqCst))
                })
                .await?;
            let second: u32 = context.signal("go").await?;
            Ok((first, second))
        }
    };
    let store = store();
    let before = runtime(&store).workflow("restart", workflow.clone()).start().await.unwrap();
    let run = before.start("restart", &()).id("r").await.unwrap();
    eventually("the step is recorded", || async { actions(&run).await.len() == 2 }).await;
    before.shutdown(PATIENCE).await.unwrap();

    let after = runtime(&store).workflow("restart", workflow).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    run.signal("go", &5).await.unwrap();
    assert_eq!(result::<(u32, u32)>(&run).await.unwrap(), (0, 5));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_after_a_restart_with_the_step_that_never_began() {
    async fn steps(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let answer: u64 = context.task("doubler", &1).await?;
        step(&context, "after", u32::try_from(answer).unwrap() + 1).await
    }
    // A store whose calls a driver has to wait for, unlike the one in memory.
    let store = aios_store::sqlite::SqliteStore::connect("sqlite::memory:").await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let before = runtime(&store).workflow("steps", steps).start().await.unwrap();
    let run = before.start("steps", &()).id("r").await.unwrap();
    eventually("the task is recorded", || async { actions(&run).await.len() > 1 }).await;
    before.shutdown(PATIENCE).await.unwrap();
    answer_task(&store, "r").await;

    let after = runtime(&store).workflow("steps", steps).start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
}

/// Appends the answer of an agent to the first operation of a run, as its last engine would have.
async fn answer_task(store: &Arc<dyn Store>, run_id: &str) {
    let data = serde_json::json!({
        "task_id": format!("{run_id}/1"), "result": "success", "output": 2
    });
    let answer = "agents.doubler.task_completed".parse().unwrap();
    let event = aios_core::event::Event::new(answer, "test", &data).unwrap();
    let stream = aios_core::store::StreamId::of_run(run_id).unwrap();
    let append = aios_core::store::Append::new(stream, vec![event]);
    aios_core::store::EventStoreExt::append_one(&**store, append).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_compensate_in_reverse_order_when_it_fails() {
    let undone = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&undone);
    let saga = move |context: WorkflowContext, (): ()| {
        let log = Arc::clone(&log);
        async move {
            for name in ["flight", "hotel"] {
                step(&context, name, 1).await?;
                let log = Arc::clone(&log);
                context.compensate(name, move |context| async move {
                    let undo = || async {
                        log.lock().unwrap().push(name);
                        Ok::<_, TaskError>(())
                    };
                    context.step(format!("cancel {name}"), undo).await
                });
            }
            context.step("car", || async { Err::<u32, _>("no cars") }).retry(quick(1)).await
        }
    };
    let runtime = runtime(&store()).workflow("saga", saga).start().await.unwrap();
    let run = runtime.start("saga", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().message, "step \"car\" (operation 3) failed: no cars");
    assert_eq!(*undone.lock().unwrap(), ["hotel", "flight"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_compensate_when_it_is_cancelled_even_if_one_compensation_fails() {
    let undone = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&undone);
    let workflow = move |context: WorkflowContext, (): ()| {
        let undone = Arc::clone(&counted);
        async move {
            context.compensate("first", move |context| async move {
                let undo = || async { Ok::<_, TaskError>(undone.fetch_add(1, Ordering::SeqCst)) };
                context.step("undo", undo).await.map(drop)
            });
            context.compensate("second", |_| async move { Err("stuck".into()) });
            context.signal::<u32>("never").await
        }
    };
    let runtime = runtime(&store()).workflow("cancelled", workflow).start().await.unwrap();
    let run = runtime.start("cancelled", &()).await.unwrap();
    run.cancel("changed my mind").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
    assert_eq!(undone.load(Ordering::SeqCst), 1);
    let details = error.failure().unwrap().details.to_value();
    assert_eq!(details["failed_compensations"][0]["compensation"], "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_make_no_progress_while_paused() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let signaled: u32 = context.signal("go").await?;
        step(&context, "after", signaled + 1).await
    }
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).await.unwrap();
    run.pause().await.unwrap();
    run.signal("go", &1).await.unwrap();
    eventually("the signal is recorded", || async { actions(&run).await.len() == 3 }).await;
    assert_eq!(run.status().await.unwrap().status.as_str(), "paused");
    run.resume().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(
        actions(&run).await,
        ["started", "paused", "signaled", "resumed", "step_completed", "completed"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn should_run_children_and_see_their_failures() {
    async fn child(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        let doubled = step(&context, "double", number * 2).await?;
        if doubled > 10 { Err("too large".into()) } else { Ok(doubled) }
    }
    async fn parent(context: WorkflowContext, (): ()) -> Result<(u32, String), WorkflowError> {
        let good: u32 = context.child("child", &4).await?;
        let bad = context.child::<u32>("child", &40).id("bad-child").await.unwrap_err();
        let unknown = context.child::<u32>("nothing", &1).await.unwrap_err();
        Ok((good, format!("{} {}", bad, unknown.code())))
    }
    let runtime = runtime(&store())
        .workflow("child", child)
        .workflow("parent", parent)
        .start()
        .await
        .unwrap();
    let run = runtime.start("parent", &()).id("family").await.unwrap();
    let (good, errors) = result::<(u32, String)>(&run).await.unwrap();
    assert_eq!(
        (good, &*errors),
        (8, "child \"child\" (operation 2) failed: too large (WORKFLOW_FAILED) WORKFLOW_NOT_FOUND")
    );
    let child = runtime.handle("family~1").await.unwrap().status().await.unwrap();
    assert_eq!(child.parent_run_id.as_deref(), Some("family"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_as_new_and_give_the_last_result() {
    async fn count(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        let next = step(&context, "next", number + 1).await?;
        if next < 5 { Err(WorkflowError::continue_as_new(&next)) } else { Ok(next) }
    }
    let runtime = runtime(&store()).workflow("count", count).start().await.unwrap();
    let run = runtime.start("count", &0).id("count").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
    let last = runtime.handle("count~r5").await.unwrap().status().await.unwrap();
    assert_eq!((last.status.as_str(), last.first_run_id.as_deref()), ("completed", Some("count")));
    assert_eq!(run.status().await.unwrap(), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_begin_later_if_scheduled() {
    async fn now(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        Ok(1)
    }
    let runtime = runtime(&store()).workflow("now", now).start().await.unwrap();
    let far = runtime.start("now", &()).after(Duration::from_secs(3600)).await.unwrap();
    let near = runtime.start("now", &()).after(Duration::from_millis(30)).await.unwrap();
    assert_eq!(result::<u32>(&near).await.unwrap(), 1);
    assert_eq!(actions(&far).await, ["started"]);
    far.cancel("not needed").await.unwrap();
    assert!(matches!(result::<u32>(&far).await, Err(RunError::Cancelled { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fork_a_run_from_an_operation() {
    let answer = Arc::new(AtomicU32::new(1));
    let changing = Arc::clone(&answer);
    let workflow = move |context: WorkflowContext, (): ()| {
        let answer = Arc::clone(&changing);
        async move {
            let first = context
                .step("first", || async { Ok::<_, TaskError>(answer.load(Ordering::SeqCst)) })
                .await?;
            let second = context
                .step("second", || async { Ok::<_, TaskError>(answer.load(Ordering::SeqCst)) })
                .await?;
            Ok((first, second))
        }
    };
    let runtime = runtime(&store()).workflow("forked", workflow).start().await.unwrap();
    let run = runtime.start("forked", &()).id("original").await.unwrap();
    assert_eq!(result::<(u32, u32)>(&run).await.unwrap(), (1, 1));
    answer.store(2, Ordering::SeqCst);
    let fork = run.fork(2, "fork").await.unwrap();
    assert_eq!(result::<(u32, u32)>(&fork).await.unwrap(), (1, 2));
    assert_eq!(run.fork(9, "none").await.unwrap_err().code(), "OPERATION_NOT_FOUND");
    assert_eq!(run.fork(1, "fork").await.unwrap_err().code(), "RUN_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_code_no_longer_fits() {
    async fn old(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        step(&context, "charge", 1).await?;
        context.signal("go").await
    }
    async fn new(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        step(&context, "reserve", 1).await?;
        context.signal("go").await
    }
    let store = store();
    let before = runtime(&store).workflow("changed", old).start().await.unwrap();
    let run = before.start("changed", &()).id("c").await.unwrap();
    eventually("the step is recorded", || async { actions(&run).await.len() == 2 }).await;
    before.shutdown(PATIENCE).await.unwrap();

    let wrong = runtime(&store).workflow("changed", new).start().await.unwrap();
    let run = wrong.handle("c").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    let failure = error.failure().unwrap().clone();
    assert_eq!((error.code(), &*failure.code), ("RUN_BLOCKED", "JOURNAL_MISMATCH"));
    assert_eq!(
        failure.details.to_value(),
        serde_json::json!({"operation": 1, "recorded": "step charge", "asked": "step reserve"})
    );
    wrong.shutdown(PATIENCE).await.unwrap();

    let fixed = runtime(&store).workflow("changed", old).start().await.unwrap();
    let run = fixed.handle("c").await.unwrap();
    run.signal("go", &4).await.unwrap();
    eventually("the run completes", || async {
        run.status().await.unwrap().status.as_str() == "completed"
    })
    .await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_let_old_and_new_runs_follow_their_version() {
    async fn old(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
        step(&context, "begin", 0).await?;
        context.signal::<u32>("go").await?;
        step(&context, "end", 0).await.map(|_| "old".to_owned())
    }
    async fn new(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
        let version = context.version("check", 1..=2)?;
        step(&context, "begin", 0).await?;
        context.signal::<u32>("go").await?;
        if version == 2 {
            step(&context, "check", 0).await?;
        }
        step(&context, "end", 0).await.map(|_| format!("version {version}"))
    }
    let store = store();
    let before = runtime(&store).workflow("versioned", old).start().await.unwrap();
    let run = before.start("versioned", &()).id("old").await.unwrap();
    eventually("the step is recorded", || async { actions(&run).await.len() == 2 }).await;
    before.shutdown(PATIENCE).await.unwrap();

    let after = runtime(&store).workflow("versioned", new).start().await.unwrap();
    let (old, new) =
        (after.handle("old").await.unwrap(), after.start("versioned", &()).await.unwrap());
    for (run, expected) in [(old, "version 1"), (new, "version 2")] {
        run.signal("go", &0).await.unwrap();
        assert_eq!(result::<String>(&run).await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_with_the_version_it_was_started_with() {
    async fn first(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal::<u32>("go").await.map(|_| 1)
    }
    async fn second(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        Ok(2)
    }
    let store = store();
    let before = runtime(&store).workflow("grown", first).start().await.unwrap();
    before.start("grown", &()).id("one").await.unwrap();
    before.shutdown(PATIENCE).await.unwrap();
    let after = runtime(&store)
        .workflow("grown", first)
        .workflow_version("grown", 2, second)
        .start()
        .await
        .unwrap();
    let one = after.handle("one").await.unwrap();
    one.signal("go", &0).await.unwrap();
    assert_eq!(result::<u32>(&one).await.unwrap(), 1);
    let two = after.start("grown", &()).await.unwrap();
    assert_eq!(result::<u32>(&two).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_emit_to_the_log_and_relay_to_the_broker() {
    use aios_core::broker::{Group, Subscription};

    async fn emits(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        context.set_progress("ordering", &0.5)?;
        context.emit(Event::new("orders.order.placed".parse()?, "shop", &7)?)?;
        Ok(())
    }
    let runtime = runtime(&store()).workflow("emits", emits).start().await.unwrap();
    let patterns = ["orders.#".parse().unwrap(), "workflows.emits.completed".parse().unwrap()];
    let subscription = Subscription::group(Group::new("audit").unwrap(), patterns);
    let mut deliveries = runtime.broker().subscribe(subscription).await.unwrap();
    let run = runtime.start("emits", &()).await.unwrap();
    result::<()>(&run).await.unwrap();
    for expected in ["orders.order.placed", "workflows.emits.completed"] {
        let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap();
        let delivery = delivery.unwrap().unwrap();
        assert_eq!(delivery.event.event_type.as_str(), expected);
        delivery.ack().await.unwrap();
    }
    let status = run.status().await.unwrap();
    assert_eq!(
        (status.status_text.as_deref(), status.progress.unwrap().as_str()),
        (Some("ordering"), "0.5")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn should_race_a_timer_against_a_signal_and_replay_it() {
    async fn race(context: WorkflowContext, (): ()) -> Result<(String, u32), WorkflowError> {
        let winner = tokio::select! {
            _ = context.sleep(Duration::from_millis(10)) => "timer",
            _ = context.signal::<u32>("go") => "signal",
        };
        Ok((winner.to_owned(), context.signal::<u32>("go").await?))
    }
    let store = store();
    let before = runtime(&store).workflow("race", race).start().await.unwrap();
    let run = before.start("race", &()).id("race").await.unwrap();
    eventually("the timer fires", || async { actions(&run).await.len() == 3 }).await;
    before.shutdown(PATIENCE).await.unwrap();
    let after = runtime(&store).workflow("race", race).start().await.unwrap();
    let run = after.handle("race").await.unwrap();
    run.signal("go", &3).await.unwrap();
    assert_eq!(result::<(String, u32)>(&run).await.unwrap(), ("timer".to_owned(), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_draw_the_same_values_in_every_replay() {
    async fn draws(
        context: WorkflowContext,
        (): (),
    ) -> Result<(String, String, f64, Timestamp), WorkflowError> {
        let drawn = (
            context.uuid().to_string(),
            context.uuid().to_string(),
            context.random(),
            context.now(),
        );
        let recorded =
            context.step("record", || async { Ok::<_, TaskError>(drawn.clone()) }).await?;
        context.signal::<u32>("go").await?;
        assert_eq!(drawn, recorded);
        Ok(drawn)
    }
    let store = store();
    let before = runtime(&store).workflow("draws", draws).start().await.unwrap();
    let run = before.start("draws", &()).id("d").await.unwrap();
    eventually("the step is recorded", || async { actions(&run).await.len() == 2 }).await;
    before.shutdown(PATIENCE).await.unwrap();
    let after = runtime(&store).workflow("draws", draws).start().await.unwrap();
    let run = after.handle("d").await.unwrap();
    run.signal("go", &0).await.unwrap();
    let drawn = result::<(String, String, f64, Timestamp)>(&run).await.unwrap();
    assert_ne!(drawn.0, drawn.1);
}
