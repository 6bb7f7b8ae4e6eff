//! A restart changes nothing: the replay of a run matches its live execution, or the run reports
//! why not.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use aios_agents::{
    prelude::*,
    testing::{ReplayError, WorkflowTest, replay},
    workflow::{FnWorkflow, StepContext, Workflow},
};
use aios_core::store::RunStatus;
use futures_util::{
    StreamExt,
    future::{join_all, try_join_all},
    stream,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::support::workflows::{PATIENCE, actions, eventually, quick, result, runtime, store};

const HOUR: Duration = Duration::from_secs(3600);

type Code = Pin<Box<dyn Future<Output = Result<u64, WorkflowError>> + Send>>;

/// Ways in which the branches of a workflow depend on each other.
#[allow(clippy::too_many_lines, reason = "one arm for each kind of branch")]
fn branches(context: WorkflowContext, kind: String) -> Code {
    Box::pin(async move {
        let step = |number: u64| {
            let context = context.clone();
            async move { context.run("part", move || async move { number }).await }
        };
        let gate = Arc::new(Semaphore::new(2));
        let guarded = |number: u64| {
            let (gate, part) = (Arc::clone(&gate), step(number));
            async move {
                let _permit = gate.acquire().await?;
                part.await
            }
        };
        let sum = match kind.as_str() {
            "yields" => {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                step(1).await?
            }
            "yields in branches" => {
                let part = |number| {
                    let part = step(number);
                    async move {
                        tokio::task::yield_now().await;
                        part.await
                    }
                };
                join_all((0..50).map(part)).await.into_iter().sum::<Result<u64, _>>()?
            }
            "oneshot" => {
                let (sender, receiver) = oneshot::channel();
                let first = async { step(receiver.await?).await };
                let second = async {
                    sender.send(step(4).await?).ok();
                    Ok::<_, WorkflowError>(0)
                };
                let (first, second) = futures_util::join!(first, second);
                first? + second?
            }
            "channel" => {
                let (sender, mut receiver) = mpsc::channel(1);
                let sends = async {
                    for number in 0..200 {
                        sender.send(number).await?;
                    }
                    drop(sender);
                    step(1).await
                };
                let receives = async {
                    let mut sum = 0;
                    while let Some(number) = receiver.recv().await {
                        sum += step(number).await?;
                    }
                    Ok::<_, WorkflowError>(sum)
                };
                let (sent, received) = tokio::join!(sends, receives);
                sent? + received?
            }
            "semaphore" => try_join_all((0..100).map(guarded)).await?.into_iter().sum(),
            "budget" => {
                let mut sum = 0;
                for number in 0..300 {
                    sum += guarded(number).await?;
                }
                sum
            }
            _ => {
                let parts = stream::iter(0..100).map(step).buffer_unordered(8);
                let parts: Vec<Result<u64, _>> = parts.collect().await;
                parts.into_iter().sum::<Result<u64, _>>()?
            }
        };
        context.signal::<()>("go").await?;
        Ok(sum)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replay_branches_that_depend_on_each_other() {
    let kinds = [
        ("yields", 1),
        ("yields in branches", 1225),
        ("oneshot", 4),
        ("channel", 19_901),
        ("semaphore", 4950),
        ("budget", 44_850),
        ("stream", 4950),
    ];
    let store = store();
    let before = runtime(&store).workflow("branches", branches).start().await.unwrap();
    for (kind, sum) in kinds {
        before.start("branches", kind).id(kind).await.unwrap();
        let twin = format!("{kind} at once");
        let run = before.start("branches", kind).id(twin).await.unwrap();
        run.signal("go", &()).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), sum, "{kind}");
    }
    before.shutdown(PATIENCE).await.unwrap();

    let after = runtime(&store).workflow("branches", branches).start().await.unwrap();
    for (kind, sum) in kinds {
        let run = after.handle(kind).await.unwrap();
        run.signal("go", &()).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), sum, "{kind}");
    }
}

/// Items until one deadline, with tokio's macro, which chooses at random, and with ours.
async fn collect(context: WorkflowContext, random: bool) -> Result<Vec<u64>, WorkflowError> {
    let mut deadline = context.sleep(Duration::from_millis(30));
    let mut items: Vec<u64> = Vec::new();
    loop {
        let item = match random {
            true => tokio::select! {
                _ = &mut deadline => None,
                item = context.signal("item") => Some(item?),
            },
            false => select! {
                _ = &mut deadline => None,
                item = context.signal("item") => Some(item?),
            },
        };
        let Some(item) = item else { break };
        let work = || async {
            #[allow(clippy::disallowed_methods, reason = "a step takes longer than the deadline")]
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        context.run("work", work).await?;
        items.push(item);
    }
    context.run("finish", || async {}).await?;
    context.signal::<()>("go").await?;
    Ok(items)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_choose_the_same_between_a_deadline_and_an_item_after_a_restart() {
    let store = store();
    let before = runtime(&store).workflow("collect", collect).start().await.unwrap();
    let ids: Vec<_> = (0..20).map(|number| format!("run-{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let random = number % 2 == 0;
        let run = before.start("collect", &random).id(id).await.unwrap();
        run.signal("item", &1).await.unwrap();
        run.signal("item", &2).await.unwrap();
        run.signal("item", &3).await.unwrap();
    }
    before.shutdown(PATIENCE).await.unwrap();
    for _ in 0..2 {
        let again = runtime(&store).workflow("collect", collect).start().await.unwrap();
        again.shutdown(PATIENCE).await.unwrap();
    }
    let after = runtime(&store).workflow("collect", collect).start().await.unwrap();
    for id in &ids {
        let run = after.handle(id).await.unwrap();
        run.signal("go", &()).await.unwrap();
        let items: Vec<u64> = result(&run).await.unwrap();
        assert!(items.starts_with(&[1]), "{items:?}");
    }
}

/// Everything that only the code of a workflow may use.
fn use_context(context: WorkflowContext, what: &str) -> Code {
    let what = what.to_owned();
    Box::pin(async move {
        match what.as_str() {
            "uuid" => drop(context.uuid()),
            "random" => drop(context.random()),
            "now" => drop(context.now()),
            "status" => context.set_status("busy"),
            "progress" => context.set_progress("busy", &1)?,
            "version" => drop(context.version("change", 1..=2)?),
            "emit" => context.emit(Event::new("a.b.c".parse()?, "test", &1)?)?,
            "compensate" => context.compensate("undo", |_| async { Ok(()) }),
            "step" => return context.run("inner", || async { 1 }).await,
            "task" => return context.task("doubler", &1).await,
            "signal" => return context.signal("go").await,
            "child" => return context.child("other", &1).await,
            _ => context.sleep(Duration::from_secs(1)).await?,
        }
        Ok(1)
    })
}

const USES: [&str; 13] = [
    "uuid",
    "random",
    "now",
    "status",
    "progress",
    "version",
    "emit",
    "compensate",
    "step",
    "task",
    "signal",
    "child",
    "sleep",
];

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_the_context_in_a_step() {
    fn inside(context: WorkflowContext, what: String) -> Code {
        Box::pin(async move {
            let inner = context.clone();
            context.step("outer", move || use_context(inner.clone(), &what)).await
        })
    }
    let store = store();
    let before = runtime(&store).workflow("inside", inside).start().await.unwrap();
    for what in USES {
        let run = before.start("inside", what).id(what).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        assert_eq!(error.failure().unwrap().code, WorkflowError::OUTSIDE, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_the_context_in_a_spawned_task() {
    fn spawning(context: WorkflowContext, what: String) -> Code {
        Box::pin(async move {
            let spawned = tokio::spawn(async move { use_context(context, &what).await });
            // A task that panics reports this only to the code that joins it.
            match spawned.await {
                Ok(ended) => ended,
                Err(error) => Err(error.into()),
            }
        })
    }
    let runtime = runtime(&store()).workflow("spawning", spawning).start().await.unwrap();
    for what in USES {
        let run = runtime.start("spawning", what).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        let code = &*error.failure().unwrap().code;
        let named = [WorkflowError::OUTSIDE, "FOREIGN_AWAIT", WorkflowError::FAILED];
        assert!(named.contains(&code), "{what}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_the_context_of_another_run() {
    type Lent = Arc<std::sync::Mutex<Option<WorkflowContext>>>;
    let lent = Lent::default();
    let (borrowed, kept) = (Arc::clone(&lent), Arc::clone(&lent));
    let lend = move |context: WorkflowContext, (): ()| {
        let lent = Arc::clone(&lent);
        async move {
            *lent.lock().unwrap() = Some(context.clone());
            context.signal::<u64>("go").await
        }
    };
    let borrow = move |context: WorkflowContext, what: String| {
        let other = borrowed.lock().unwrap().clone().unwrap();
        async move {
            context.run("own", || async {}).await?;
            use_context(other, &what).await
        }
    };
    let runtime = runtime(&store()).workflow("lend", lend).workflow("borrow", borrow);
    let runtime = runtime.start().await.unwrap();
    let lender = runtime.start("lend", &()).await.unwrap();
    lender.signal("none", &1).await.unwrap();
    while kept.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    for what in USES {
        let run = runtime.start("borrow", what).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        assert_eq!(error.failure().unwrap().code, WorkflowError::OUTSIDE, "{what}");
    }
    lender.signal("go", &7).await.unwrap();
    assert_eq!(result::<u64>(&lender).await.unwrap(), 7);
}

/// Code that waits for something that no journal records.
fn foreign(context: WorkflowContext, kind: String) -> Code {
    #[allow(clippy::disallowed_methods, reason = "what no workflow may do")]
    let pause = || tokio::time::sleep(Duration::from_millis(5));
    Box::pin(async move {
        match kind.as_str() {
            "sleep" => pause().await,
            "sleep beside a signal" => select! {
                () = pause() => {}
                signal = context.signal::<()>("go") => signal?,
            },
            "spawned" => drop(tokio::spawn(pause()).await),
            "pending" => std::future::pending().await,
            "sent by a step" => {
                let (sender, receiver) = oneshot::channel::<()>();
                let sender = std::sync::Mutex::new(Some(sender));
                let sends = context.run("sends", || {
                    let sender = sender.lock().unwrap().take();
                    async move {
                        drop(sender);
                        std::future::pending::<()>().await;
                    }
                });
                select! {
                    _ = receiver => {}
                    ended = sends => ended?,
                }
            }
            "sets its status" => loop {
                context.set_status("polling");
                tokio::task::yield_now().await;
            },
            "drops signals" => loop {
                if let Poll::Ready(signal) = futures_util::poll!(context.signal::<()>("go")) {
                    break signal?;
                }
                tokio::task::yield_now().await;
            },
            "drops sleeps" => loop {
                select! {
                    slept = context.sleep(HOUR) => break slept?,
                    () = tokio::task::yield_now() => {}
                }
            },
            _ => loop {
                tokio::task::yield_now().await;
            },
        }
        Ok(1)
    })
}

/// Loops that wake themselves without end.
const SPINS: [&str; 4] = ["bare", "sets its status", "drops signals", "drops sleeps"];

#[tokio::test(flavor = "multi_thread")]
async fn should_block_code_that_awaits_what_is_not_recorded() {
    let store = store();
    let runtime = runtime(&store).workflow("foreign", foreign).start().await.unwrap();
    for (kind, code) in [
        ("sleep", "FOREIGN_AWAIT"),
        ("sleep beside a signal", "FOREIGN_AWAIT"),
        ("spawned", "FOREIGN_AWAIT"),
        ("pending", "FOREIGN_AWAIT"),
        ("sent by a step", "FOREIGN_AWAIT"),
    ] {
        let run = runtime.start("foreign", kind).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err();
        assert_eq!(error.code(), "RUN_BLOCKED", "{kind}");
        assert_eq!(error.failure().unwrap().code, code, "{kind}");
    }
}

/// A loop that requests an operation each time makes no progress either: no entry is applied in between.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_code_that_wakes_itself_without_end() {
    let store = store();
    let runtime = runtime(&store).workflow("foreign", foreign).start().await.unwrap();
    for kind in SPINS {
        let run = runtime.start("foreign", kind).await.unwrap();
        let error = run.result::<u64>().await.unwrap_err();
        assert_eq!(error.code(), "RUN_BLOCKED", "{kind}");
        assert_eq!(error.failure().unwrap().code, "WORKFLOW_BUSY", "{kind}");
    }
}

#[tokio::test]
async fn should_say_in_a_test_that_code_wakes_itself_without_end() {
    for kind in SPINS {
        let run = WorkflowTest::new("foreign", foreign).unwrap().run(kind).await;
        assert_eq!(run.result::<u64>().unwrap_err().code(), "WORKFLOW_BUSY", "{kind}");
    }
}

/// Wakes the code once.
async fn wake_once() {
    let mut is_woken = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_woken, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// More polls than are allowed without an operation.
#[tokio::test]
async fn should_let_code_request_many_operations_between_two_entries() {
    let code = |context: WorkflowContext, (): ()| async move {
        for _ in 0..120_000 {
            context.set_status("working");
            wake_once().await;
        }
        Ok::<_, WorkflowError>(1)
    };
    let run = WorkflowTest::new("many", code).unwrap().run(&()).await;
    assert_eq!(run.result::<u64>().unwrap(), 1);
}

/// No replay shows what it awaits, so it is unblocked when it is loaded, and blocked again.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_again_that_a_run_is_blocked_after_each_wake() {
    let store = store();
    let runtime = runtime(&store).workflow("foreign", foreign).start().await.unwrap();
    let run = runtime.start("foreign", "pending").await.unwrap();
    for wakes in 1..4 {
        eventually("the run is blocked", || async {
            let actions = actions(&run).await;
            actions.iter().filter(|action| *action == "blocked").count() == wakes
        })
        .await;
        assert_eq!(run.status().await.unwrap().status.as_str(), "blocked");
        run.signal("poke", &wakes).await.unwrap();
    }
}

#[tokio::test]
async fn should_say_in_a_test_that_code_awaits_what_is_not_recorded() {
    for kind in ["sleep", "pending"] {
        let run = WorkflowTest::new("foreign", foreign).unwrap().run(kind).await;
        assert_eq!(run.result::<u64>().unwrap_err().code(), "FOREIGN_AWAIT");
    }
}

/// A signal is an entry, but says nothing about whether the code has passed the call.
#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_newest_version_after_a_crash_before_its_mark_was_recorded() {
    let held = Arc::new(AtomicBool::new(true));
    let step_is_held = Arc::clone(&held);
    let code = move |context: WorkflowContext, (): ()| {
        let held = Arc::clone(&step_is_held);
        async move {
            let version = context.version("change", 1..=3)?;
            let waits = || async {
                if held.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
            };
            context.run("waits", waits).await?;
            Ok(version)
        }
    };
    let store = store();
    let before = runtime(&store).workflow("versions", code.clone()).start().await.unwrap();
    let run = before.start("versions", &()).id("v").await.unwrap();
    run.signal("other", &1).await.unwrap();
    drop(before.shutdown(Duration::from_millis(10)).await);
    held.store(false, Ordering::SeqCst);

    let after = runtime(&store).workflow("versions", code).start().await.unwrap();
    assert_eq!(result::<u32>(&after.handle("v").await.unwrap()).await.unwrap(), 3);
}

/// Code whose last calls were removed since the run began.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_code_that_asks_for_less_than_is_recorded_each_time_it_is_loaded() {
    fn steps(count: u64) -> Arc<dyn Workflow> {
        let code = move |context: WorkflowContext, (): ()| async move {
            for number in 0..count {
                context.run(format!("step {number}"), || async {}).await?;
            }
            context.signal::<()>("go").await
        };
        Arc::new(FnWorkflow::new("less", code).unwrap())
    }
    let store = store();
    let before = runtime(&store).workflow_dyn(steps(3)).start().await.unwrap();
    let run = before.start("less", &()).id("l").await.unwrap();
    eventually("the steps are recorded", || async {
        run.journal(0, 100).await.unwrap().len() == 4
    })
    .await;
    before.shutdown(PATIENCE).await.unwrap();
    for _ in 0..2 {
        let less = runtime(&store).workflow_dyn(steps(1)).start().await.unwrap();
        let run = less.handle("l").await.unwrap();
        let error = result::<()>(&run).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.code, "JOURNAL_MISMATCH");
        assert_eq!(failure.details.to_value()["operation"], 2, "{failure:?}");
        less.shutdown(PATIENCE).await.unwrap();
    }
    let events = {
        let enough = runtime(&store).workflow_dyn(steps(3)).start().await.unwrap();
        let run = enough.handle("l").await.unwrap();
        run.signal("go", &()).await.unwrap();
        eventually("it completes", || async {
            run.status().await.unwrap().status.as_str() == "completed"
        })
        .await;
        let journal = run.journal(0, 100).await.unwrap();
        journal.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>()
    };
    replay(steps(3), &events).await.unwrap();
    let error = replay(steps(2), &events).await.unwrap_err();
    assert!(
        matches!(error, ReplayError::Blocked(failure) if failure.details.to_value()["operation"] == 3)
    );
}

/// Code that returns before it has requested everything that is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_code_that_ends_before_its_journal() {
    fn steps(count: u64, waits: bool) -> Arc<dyn Workflow> {
        let code = move |context: WorkflowContext, (): ()| async move {
            for number in 0..count {
                context.run(format!("step {number}"), || async {}).await?;
            }
            if waits {
                context.signal::<()>("go").await?;
            }
            Ok(())
        };
        Arc::new(FnWorkflow::new("less", code).unwrap())
    }
    let store = store();
    let before = runtime(&store).workflow_dyn(steps(3, true)).start().await.unwrap();
    let run = before.start("less", &()).id("l").await.unwrap();
    eventually("the steps are recorded", || async {
        run.journal(0, 100).await.unwrap().len() == 4
    })
    .await;
    before.shutdown(PATIENCE).await.unwrap();
    for _ in 0..2 {
        let less = runtime(&store).workflow_dyn(steps(1, false)).start().await.unwrap();
        let run = less.handle("l").await.unwrap();
        let error = result::<()>(&run).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.code, "JOURNAL_MISMATCH");
        assert_eq!(
            (&failure.details.to_value()["operation"], &failure.details.to_value()["asked"]),
            (&2.into(), &"nothing".into())
        );
        less.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn should_pass_a_signal_of_a_losing_branch_to_the_next_wait() {
    async fn losers(context: WorkflowContext, (): ()) -> Result<(u32, u32), WorkflowError> {
        context.sleep(Duration::from_secs(10)).await?;
        let both = [context.signal("first"), context.signal("second")];
        let (winner, won) = race(both).await;
        let lost: u32 = context.signal(["second", "first"][winner]).await?;
        Ok((won?, lost))
    }
    for (first, second) in [(1, 2), (2, 1)] {
        let test = WorkflowTest::new("losers", losers).unwrap();
        let second_at = Duration::from_secs(second);
        let test =
            test.signal(Duration::from_secs(first), "first", &1).signal(second_at, "second", &2);
        let run = test.run(&()).await;
        let expected = if first < second { (1, 2) } else { (2, 1) };
        assert_eq!(run.result::<(u32, u32)>().unwrap(), expected);
    }
}

/// The wait that was called first takes the signal, although the other one was polled before it and
/// found the signal there.
#[tokio::test]
async fn should_give_up_a_wait_whose_signal_an_earlier_wait_takes() {
    async fn both(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(Duration::from_secs(10)).await?;
        let first = context.signal::<u32>("number").timeout(Duration::from_secs(5));
        let second = context.signal::<u32>("number").timeout(Duration::from_secs(5));
        let (second, first) = futures_util::future::join(second, first).await;
        assert_eq!(second.unwrap_err().code(), "SIGNAL_TIMEOUT");
        first
    }
    let test = WorkflowTest::new("both", both).unwrap();
    let run = test.signal(Duration::from_secs(1), "number", &7).run(&()).await;
    assert_eq!(run.result::<u32>().unwrap(), 7);
    assert_eq!(run.elapsed(), Duration::from_secs(15));
}

#[tokio::test]
async fn should_pass_no_time_for_timers_that_lost() {
    async fn loses(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        select! {
            _ = context.sleep(Duration::from_secs(1000)) => {}
            signal = context.signal::<()>("go").timeout(Duration::from_secs(500)) => signal?,
        }
        context.signal("never").timeout(Duration::from_secs(10)).await
    }
    let test = WorkflowTest::new("loses", loses).unwrap().signal(Duration::from_secs(1), "go", &());
    let run = test.run(&()).await;
    assert_eq!(run.result::<u32>().unwrap_err().code(), "SIGNAL_TIMEOUT");
    assert_eq!(run.elapsed(), Duration::from_secs(11));
}

#[tokio::test]
async fn should_keep_what_is_emitted_right_before_the_end() {
    async fn emits(context: WorkflowContext, fails: bool) -> Result<(), WorkflowError> {
        context.run("step", || async {}).await?;
        context.emit(Event::new("a.b.c".parse()?, "test", &1)?)?;
        context.set_status("done");
        if fails { Err("broken".into()) } else { Ok(()) }
    }
    for fails in [false, true] {
        let run = WorkflowTest::new("emits", emits).unwrap().run(&fails).await;
        let types: Vec<_> =
            run.events().unwrap().into_iter().map(|event| event.event_type).collect();
        let actions: Vec<_> = types.iter().map(|event_type| event_type.action()).collect();
        let end = if fails { "failed" } else { "completed" };
        assert_eq!(actions, ["started", "step_completed", "event_emitted", "c", "status_set", end]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_count_the_time_of_queued_work_from_its_begin() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let code = move |context: WorkflowContext, (): ()| {
        let attempts = Arc::clone(&counted);
        async move {
            let thread = Arc::new(Semaphore::new(0));
            let step = context.step_with("queued", |step: StepContext| {
                let (attempts, thread) = (Arc::clone(&attempts), Arc::clone(&thread));
                async move {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    let queued = step.queued();
                    let _permit = thread.acquire().await?;
                    assert!(queued.begin() && queued.begin(), "the attempt has not ended");
                    if step.attempt() == 1 {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, TaskError>(step.attempt())
                }
            });
            let step = step.timeout(Duration::from_millis(20)).retry(quick(3));
            let free = async {
                // Long after the timeout of the step.
                context.sleep(Duration::from_millis(200)).await?;
                thread.add_permits(1);
                Ok::<_, WorkflowError>(())
            };
            let (attempt, ()) = futures_util::future::try_join(step, free).await?;
            Ok::<_, WorkflowError>(attempt)
        }
    };
    let runtime = runtime(&store()).workflow("queued", code).start().await.unwrap();
    let run = runtime.start("queued", &()).await.unwrap();
    // The first attempt begins in time, and exceeds its timeout afterwards.
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

/// The timeout of a step that is running is the only one that counts during a pause.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_queued_work_in_time_that_begins_while_its_run_is_paused() {
    let (queued, thread) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (is_queued, is_free) = (Arc::clone(&queued), Arc::clone(&thread));
    let code = move |context: WorkflowContext, (): ()| {
        let (queued, thread) = (Arc::clone(&is_queued), Arc::clone(&is_free));
        async move {
            let work = |step: StepContext| {
                let (queued, thread) = (Arc::clone(&queued), Arc::clone(&thread));
                async move {
                    let waiting = step.queued();
                    queued.add_permits(1);
                    thread.acquire().await?.forget();
                    assert!(waiting.begin(), "the attempt has not ended");
                    std::future::pending::<Result<(), TaskError>>().await
                }
            };
            let step = context.step_with("queued", work).timeout(Duration::from_millis(20));
            step.retry(quick(2)).await
        }
    };
    let runtime = runtime(&store()).workflow("queued", code).start().await.unwrap();
    let run = runtime.start("queued", &()).await.unwrap();
    queued.acquire().await.unwrap().forget();
    run.pause().await.unwrap();
    eventually("it is paused", || async {
        run.status().await.unwrap().status == RunStatus::Paused
    })
    .await;
    thread.add_permits(1);
    eventually("its attempt ends", || async {
        actions(&run).await.contains(&"retry_scheduled".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_an_attempt_of_a_step_in_time_and_tell_it_a_key() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let code = move |context: WorkflowContext, limit: u32| {
        let calls = Arc::clone(&counted);
        async move {
            let slow = |step: StepContext| {
                let calls = Arc::clone(&calls);
                async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    if step.attempt() < limit {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, TaskError>((step.attempt(), step.idempotency_key().to_owned()))
                }
            };
            let step = context.step_with("slow", slow).timeout(Duration::from_millis(20));
            step.retry(quick(3)).await
        }
    };
    let runtime = runtime(&store()).workflow("slow", code).start().await.unwrap();
    let run = runtime.start("slow", &3).id("s").await.unwrap();
    let started = run.journal(0, 1).await.unwrap().pop().unwrap().event.id;
    assert_eq!(result::<(u32, String)>(&run).await.unwrap(), (3, format!("s/1@{started}")));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let run = runtime.start("slow", &9).await.unwrap();
    let error = result::<(u32, String)>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "STEP_TIMEOUT");
}
