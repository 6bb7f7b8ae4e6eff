//! A paused run begins nothing until it is resumed, in memory and after a reload.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_core::{
    clock::VirtualClock,
    event::Event,
    store::{Append, EventStoreExt, StreamId},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    run::races::{append_to_run, sneak_in},
    support::{
        faulty::{Fault, FaultyStore},
        workflows::{Doubler, PATIENCE, actions, eventually, result, runtime, sqlite, store},
    },
};

const WHILE: Duration = Duration::from_millis(300);

/// After a signal: emits an event, sets its progress, sets a timer, starts a child and assigns a
/// task.
async fn everything(context: WorkflowContext, undone: u32) -> Result<u64, WorkflowError> {
    let number: u64 = context.signal("go").await?;
    context.compensate("undo", move |context| async move {
        context.step("undo", || async { Ok::<_, TaskError>(undone) }).await.map(drop)
    });
    context.emit(Event::new("shop.order.placed".parse()?, "test", &number)?)?;
    context.set_status("working");
    context.sleep(Duration::from_millis(1)).await?;
    let child: u64 = context.child("child", &number).await?;
    context.task("doubler", &child).await
}

async fn child(_: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    Ok(number + 1)
}

async fn engine(store: &Arc<dyn Store>, doubler: &Doubler) -> Runtime {
    let builder = runtime(store).agent("doubler", doubler.clone());
    builder.workflow("everything", everything).workflow("child", child).start().await.unwrap()
}

#[allow(clippy::disallowed_methods, reason = "nothing must happen meanwhile")]
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_begin_nothing_while_paused_live_and_after_reloads() {
    for store in [store(), sqlite().await] {
        let doubler = Doubler::default();
        let mut runtime = engine(&store, &doubler).await;
        let run = runtime.start("everything", &1).id("r").await.unwrap();
        run.pause().await.unwrap();
        run.signal("go", &20).await.unwrap();
        for _ in 0..3 {
            pass(WHILE).await;
            let run = runtime.handle("r").await.unwrap();
            assert_eq!(actions(&run).await, ["started", "paused", "signaled"]);
            assert_eq!(run.status().await.unwrap().status.as_str(), "paused");
            assert_eq!(doubler.0.load(Ordering::SeqCst), 0);
            runtime.shutdown(Duration::from_secs(5)).await.unwrap();
            runtime = engine(&store, &doubler).await;
        }
        let run = runtime.handle("r").await.unwrap();
        run.resume().await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 42);
        assert_eq!(doubler.0.load(Ordering::SeqCst), 1);
        assert_eq!(actions(&run).await.iter().filter(|it| **it == "placed").count(), 1);
    }
}

/// Cancels a paused run, in the same engine or in the next, and returns its journal.
async fn cancelled(store: Arc<dyn Store>, reload: bool) -> Vec<String> {
    let doubler = Doubler::default();
    let mut runtime = engine(&store, &doubler).await;
    let run = runtime.start("everything", &1).id("r").await.unwrap();
    run.pause().await.unwrap();
    run.signal("go", &20).await.unwrap();
    pass(WHILE / 3).await;
    if reload {
        runtime.shutdown(Duration::from_secs(5)).await.unwrap();
        runtime = engine(&store, &doubler).await;
    }
    let run = runtime.handle("r").await.unwrap();
    run.cancel("enough").await.unwrap();
    let error = result::<u64>(&run).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error:?}");
    assert_eq!(doubler.0.load(Ordering::SeqCst), 0);
    actions(&run).await
}

/// The code has seen the signal, so it compensates; what it requested during the pause has no
/// effect.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_paused_run_alike_live_and_after_a_reload() {
    let expected =
        ["started", "paused", "signaled", "cancel_requested", "step_completed", "cancelled"];
    for reload in [false, true] {
        assert_eq!(cancelled(store(), reload).await, expected, "memory, reload: {reload}");
        assert_eq!(cancelled(sqlite().await, reload).await, expected, "sqlite, reload: {reload}");
    }
}

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    let answer = context.task::<u32>("ghost", &1);
    let answered = select! {
        answer = answer => answer.map(drop),
        go = context.signal::<()>("go") => go,
    };
    answered?;
    context.signal("never").await
}

/// The actions of a run after its start. No agent takes its task, which is therefore tried again.
async fn without_retries(run: &RunHandle) -> Vec<String> {
    let mut actions = actions(run).await.split_off(1);
    actions.retain(|action| action != "retry_scheduled" && action != "task_unclaimed");
    actions
}

async fn has(run: &RunHandle, action: &str) {
    eventually(action, || async { actions(run).await.contains(&action.to_owned()) }).await;
}

/// The replay drops the call, as live code would have done.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_task_that_is_given_up_while_its_run_is_not_in_memory() {
    // The run leaves memory when it is paused.
    let store = store();
    let runtime = runtime(&store).workflow("ask", ask).start().await.unwrap();
    let run = runtime.start("ask", &()).await.unwrap();
    has(&run, "task_assigned").await;
    run.pause().await.unwrap();
    pass(WHILE).await;
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await, Err(RunError::Cancelled { .. })));
    assert_eq!(
        without_retries(&run).await,
        ["task_assigned", "paused", "cancel_requested", "task_cancelled", "cancelled"]
    );
}

/// The signal comes while no engine runs.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_task_that_a_signal_replaces_between_two_engines() {
    let store = store();
    let build = || runtime(&store).workflow("ask", ask);
    let before = build().start().await.unwrap();
    let run = before.start("ask", &()).id("r").await.unwrap();
    has(&run, "task_assigned").await;
    before.shutdown(PATIENCE).await.unwrap();
    let client = build().client_only().start().await.unwrap();
    client.handle("r").await.unwrap().signal("go", &()).await.unwrap();

    let after = build().start().await.unwrap();
    let run = after.handle("r").await.unwrap();
    has(&run, "task_cancelled").await;
    assert_eq!(without_retries(&run).await, ["task_assigned", "signaled", "task_cancelled"]);
}

/// The run is in memory because of its task, and reads the signal and the request at once.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_no_step_after_a_request_although_a_signal_comes_before_it() {
    for request in ["paused", "cancel_requested"] {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let charges = move |context: WorkflowContext, (): ()| {
            let calls = Arc::clone(&counted);
            async move {
                let charge = async {
                    context.signal::<()>("go").await?;
                    let step =
                        || async { Ok::<_, TaskError>(calls.fetch_add(1, Ordering::SeqCst)) };
                    context.step("charge", step).await
                };
                let (_, charged) =
                    futures_util::future::join(context.task::<u32>("ghost", &1), charge).await;
                charged
            }
        };
        let store = store();
        let runtime = runtime(&store).workflow("charges", charges).start().await.unwrap();
        let run = runtime.start("charges", &()).id("r").await.unwrap();
        has(&run, "task_assigned").await;
        let signal = json!({ "name": "go", "payload": null });
        let data = [("signaled", signal), (request, json!({ "reason": "enough" }))];
        let events = data.map(|(action, data)| {
            let event_type = format!("workflows.charges.{action}").parse().unwrap();
            Event::new(event_type, "another process", &data).unwrap()
        });
        let stream = StreamId::of_run("r").unwrap();
        store.append_one(Append::new(stream, events.into())).await.unwrap();
        match request {
            "paused" => pass(WHILE).await,
            _ => drop(result::<u32>(&run).await),
        }
        assert_eq!(calls.load(Ordering::SeqCst), 0, "{request}");
        if request == "paused" {
            run.resume().await.unwrap();
            has(&run, "step_completed").await;
            assert_eq!(calls.load(Ordering::SeqCst), 1);
        }
    }
}

/// The pause arrives after the code has requested a task and before the task is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_operations_requested_before_the_pause_but_not_recorded() {
    async fn one(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        context.task("doubler", &21).await
    }
    for (resumes, end) in [(true, "completed"), (false, "cancelled")] {
        let inner = store();
        let faulty = FaultyStore::new(Arc::clone(&inner));
        sneak_in(&faulty, &inner, "task_assigned", "workflows.one.paused", json!({}));
        let (store, doubler): (Arc<dyn Store>, _) = (faulty, Doubler::default());
        let build = || runtime(&store).agent("doubler", doubler.clone()).workflow("one", one);
        let before = build().start().await.unwrap();
        let run = before.start("one", &()).id("r").await.unwrap();
        eventually("it is paused", || async { actions(&run).await.len() == 2 }).await;
        pass(WHILE).await;
        assert_eq!(actions(&run).await, ["started", "paused"]);
        before.shutdown(Duration::from_secs(5)).await.unwrap();

        let after = build().start().await.unwrap();
        let run = after.handle("r").await.unwrap();
        pass(WHILE).await;
        assert_eq!(actions(&run).await, ["started", "paused"]);
        match resumes {
            true => run.resume().await.unwrap(),
            false => run.cancel("enough").await.unwrap(),
        }
        drop(result::<u64>(&run).await);
        let actions = actions(&run).await;
        assert_eq!(actions.last().unwrap(), end);
        assert_eq!(actions.contains(&"task_assigned".to_owned()), resumes, "{actions:?}");
        assert_eq!(doubler.0.load(Ordering::SeqCst), u32::from(resumes));
    }
}

/// A step that has begun ends, and its result is kept; the next one does not begin.
#[tokio::test(flavor = "multi_thread")]
async fn should_let_a_step_end_that_was_begun_before_it_was_paused() {
    let (begun, released) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (counted, release) = (Arc::clone(&begun), Arc::clone(&released));
    let workflow = move |context: WorkflowContext, (): ()| {
        let (begun, released) = (Arc::clone(&counted), Arc::clone(&release));
        async move {
            for _ in 0..2 {
                let step = || async {
                    begun.fetch_add(1, Ordering::SeqCst);
                    released.notified().await;
                    Ok::<_, TaskError>(())
                };
                context.step("slow", step).await?;
            }
            Ok(2)
        }
    };
    let runtime = runtime(&store()).workflow("steps", workflow).start().await.unwrap();
    let run = runtime.start("steps", &()).await.unwrap();
    eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
    run.pause().await.unwrap();
    pass(WHILE).await;
    released.notify_one();
    eventually("it is recorded", || async { actions(&run).await.len() == 3 }).await;
    pass(WHILE).await;
    assert_eq!(actions(&run).await, ["started", "paused", "step_completed"]);
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    run.resume().await.unwrap();
    released.notify_one();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

/// The result is recorded during the pause, and the engine that resumes the run reads it.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_begin_a_step_again_that_ended_during_a_pause_before_a_restart() {
    let (begun, released) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (counted, release) = (Arc::clone(&begun), Arc::clone(&released));
    let workflow = move |context: WorkflowContext, (): ()| {
        let (begun, released) = (Arc::clone(&counted), Arc::clone(&release));
        async move {
            let charge = || async {
                begun.fetch_add(1, Ordering::SeqCst);
                released.notified().await;
                Ok::<_, TaskError>(1)
            };
            let charged: u32 = context.step("charge", charge).await?;
            let sent: u32 = context.run("send", || async { 2 }).await?;
            Ok(charged + sent)
        }
    };
    for store in [store(), sqlite().await] {
        begun.store(0, Ordering::SeqCst);
        let build = || runtime(&store).workflow("orders", workflow.clone()).start();
        let before = build().await.unwrap();
        let run = before.start("orders", &()).id("r").await.unwrap();
        eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        run.pause().await.unwrap();
        released.notify_one();
        let expected = ["started", "paused", "step_completed"];
        eventually("it is recorded", || async { actions(&run).await == expected }).await;
        before.shutdown(PATIENCE).await.unwrap();

        let faulty = FaultyStore::new(Arc::clone(&store));
        let shared: Arc<dyn Store> = Arc::clone(&faulty) as _;
        let after = runtime(&shared).workflow("orders", workflow.clone()).start().await.unwrap();
        let run = after.handle("r").await.unwrap();
        // It is resumed after its journal was read and before it is replayed.
        let (inner, is_done) = (Arc::clone(&store), AtomicBool::new(false));
        faulty.on_call(move |method| {
            let inner = Arc::clone(&inner);
            let resumes = *method == "read_stream" && !is_done.swap(true, Ordering::SeqCst);
            resumes.then(|| {
                Fault::Until(Box::pin(async move {
                    append_to_run(&inner, "r", "workflows.orders.resumed", json!({})).await;
                    pass(WHILE).await;
                }))
            })
        });
        let signal = json!({ "name": "look", "payload": null });
        append_to_run(&store, "r", "workflows.orders.signaled", signal).await;
        // For the step, if it begins again.
        released.notify_one();
        assert_eq!(result::<u32>(&run).await.unwrap(), 3);
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        released.notified().await;
    }
}

/// The code of the attempt never returns.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_an_attempt_in_time_while_it_is_paused_or_its_engine_stops() {
    let begun = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&begun);
    let workflow = move |context: WorkflowContext, (): ()| {
        let begun = Arc::clone(&counted);
        async move {
            let hang = || async {
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<Result<u32, TaskError>>().await
            };
            let retry = RetryPolicy::fixed(2, Duration::from_secs(3600));
            context.step("hang", hang).timeout(WHILE).retry(retry).await
        }
    };
    for pauses in [true, false] {
        begun.store(0, Ordering::SeqCst);
        let store = store();
        let runtime = runtime(&store).workflow("hangs", workflow.clone()).start().await.unwrap();
        let run = runtime.start("hangs", &()).await.unwrap();
        eventually("the step begins", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        if pauses {
            run.pause().await.unwrap();
        } else {
            let stopping = runtime.shutdown(PATIENCE * 60);
            tokio::time::timeout(PATIENCE, stopping).await.expect("it stops").unwrap();
        }
        eventually("the attempt has ended", || async {
            let log = store.read_log(0, 1000).await.unwrap();
            log.iter().any(|it| it.event.event_type.action() == "retry_scheduled")
        })
        .await;
    }
}

/// Two callers pause the run at the same moment, and one of them resumes it.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_once_it_is_resumed_however_often_it_was_paused() {
    async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("number").await
    }
    for restarts in [false, true] {
        let store = store();
        let build = || runtime(&store).workflow("wait", wait).start();
        let mut runtime = build().await.unwrap();
        let mut run = runtime.start("wait", &()).id("r").await.unwrap();
        for _ in 0..2 {
            append_to_run(&store, "r", "workflows.wait.paused", json!({})).await;
        }
        if restarts {
            runtime.shutdown(PATIENCE).await.unwrap();
            runtime = build().await.unwrap();
            run = runtime.handle("r").await.unwrap();
        }
        run.signal("number", &7).await.unwrap();
        run.resume().await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
        drop(runtime);
    }
}

/// Fails its first attempt.
#[derive(Clone, Default)]
struct FailsOnce {
    attempts: Arc<AtomicU32>,
    may_answer: Arc<Notify>,
}

impl Agent for FailsOnce {
    type Parameters = ();
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, (): ()) -> Result<u32, TaskError> {
        if self.attempts.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(7);
        }
        self.may_answer.notified().await;
        Err(TaskError::retryable(Failure::new("BUSY", "try again")))
    }
}

/// The engine that loads the run has its failed attempt and the retry among the entries that it holds.
#[tokio::test(flavor = "multi_thread")]
async fn should_schedule_a_retry_once_that_was_recorded_during_a_pause_before_a_restart() {
    async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("agent", &()).await
    }
    for store in [store(), sqlite().await] {
        let agent = FailsOnce::default();
        let build = || runtime(&store).agent("agent", agent.clone()).workflow("ask", ask).start();
        let first = build().await.unwrap();
        let run = first.start("ask", &()).id("r").await.unwrap();
        eventually("the attempt runs", || async { agent.attempts.load(Ordering::SeqCst) == 1 })
            .await;
        run.pause().await.unwrap();
        agent.may_answer.notify_one();
        let paused = ["started", "task_assigned", "paused", "task_failed", "retry_scheduled"];
        eventually("the retry is recorded", || async { actions(&run).await == paused }).await;
        first.shutdown(PATIENCE).await.unwrap();

        let second = build().await.unwrap();
        let run = second.handle("r").await.unwrap();
        // Loads the run.
        run.signal("ignored", &()).await.unwrap();
        pass(WHILE).await;
        assert_eq!(actions(&run).await, [&paused[..], &["signaled"]].concat());
        run.resume().await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    }
}

/// Timers that became due during the pause fire once the run is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_timers_of_a_paused_run() {
    async fn nap(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(Duration::from_secs(100)).await?;
        Ok(1)
    }
    for store in [store(), sqlite().await] {
        let clock = VirtualClock::new(Timestamp::now());
        // The clock is advanced faster than leases could be renewed.
        let options = EngineOptions::new().with_lease_time(Duration::from_secs(3600));
        let builder = runtime(&store).clock(Arc::new(clock.clone())).engine_options(options);
        let runtime = builder.workflow("nap", nap).start().await.unwrap();
        let run = runtime.start("nap", &()).await.unwrap();
        eventually("it sleeps", || async { actions(&run).await.len() == 2 }).await;
        run.pause().await.unwrap();
        clock.advance(Duration::from_secs(200));
        pass(WHILE).await;
        assert_eq!(actions(&run).await, ["started", "timer_started", "paused"]);
        run.resume().await.unwrap();
        eventually("the timer fires", || async {
            clock.advance(Duration::from_millis(100));
            actions(&run).await.contains(&"timer_fired".to_owned())
        })
        .await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    }
}
