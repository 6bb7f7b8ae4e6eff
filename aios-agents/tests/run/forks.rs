//! The state that a fork shares with the run that it was forked from, and its own state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions, workflow::StepContext};
use aios_core::{BoxFuture, clock::VirtualClock};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    run::races::sneak_in,
    support::{
        faulty::FaultyStore,
        workflows::{Doubler, actions, eventually, quick, result, runtime, sqlite, store},
    },
};

/// Draws before each of its four steps, and twice before the last.
async fn drawer(context: WorkflowContext, (): ()) -> Result<Vec<(Uuid, Uuid)>, WorkflowError> {
    let mut seen = Vec::new();
    for number in 1..=4_u32 {
        let drawn = context.uuid();
        if number == 4 {
            assert!((0.0..1.0).contains(&context.random()));
        }
        let recorded =
            context.step(format!("s{number}"), move || async move { Ok::<_, TaskError>(drawn) });
        seen.push((drawn, recorded.await?));
    }
    Ok(seen)
}

type Seen = Vec<(Uuid, Uuid)>;

/// The code draws the same values as when its steps were recorded, up to the fork and no further.
fn assert_forked(original: &Seen, fork: &Seen, operation: u64) {
    for (number, (one, other)) in (1..).zip(original.iter().zip(fork)) {
        assert_eq!(other.0, other.1, "operation {number} of a fork at {operation}");
        assert_eq!(one.0 == other.0, number <= operation, "{number} of a fork at {operation}");
    }
}

/// Counts its steps. The second one fails until `may_work` is set.
fn flaky(
    counts: &Arc<[AtomicU32; 3]>,
    may_work: &Arc<AtomicBool>,
) -> impl Fn(WorkflowContext, ()) -> BoxFuture<'static, Result<String, WorkflowError>> + use<> {
    let (counts, may_work) = (Arc::clone(counts), Arc::clone(may_work));
    move |context, ()| {
        let (counts, may_work) = (Arc::clone(&counts), Arc::clone(&may_work));
        Box::pin(async move {
            for number in 0..3_usize {
                let (counts, may_work) = (Arc::clone(&counts), Arc::clone(&may_work));
                let step = move || {
                    counts[number].fetch_add(1, Ordering::SeqCst);
                    std::future::ready(match number == 1 && !may_work.load(Ordering::SeqCst) {
                        true => Err(TaskError::terminal(Failure::new("NO_SPACE", "no space"))),
                        false => Ok(()),
                    })
                };
                context.step(format!("s{number}"), step).await?;
            }
            context.signal::<String>("name").await
        })
    }
}

fn counted(counts: &[AtomicU32; 3]) -> [u32; 3] {
    [0, 1, 2].map(|number| counts[number].load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_retry_a_run_from_its_failed_operation() {
    for store in [store(), sqlite().await] {
        let (counts, may_work) = (Arc::<[AtomicU32; 3]>::default(), Arc::<AtomicBool>::default());
        let runtime =
            runtime(&store).workflow("flaky", flaky(&counts, &may_work)).start().await.unwrap();
        let run = runtime.start("flaky", &()).id("original");
        // A signal that comes before the failure is kept, although the run has not taken it.
        let run = run.signal("name", "Ada").await.unwrap();
        assert_eq!(result::<String>(&run).await.unwrap_err().code(), "NO_SPACE");
        let again = run.retry("again").await.unwrap();
        assert_eq!(result::<String>(&again).await.unwrap_err().code(), "NO_SPACE");
        assert_eq!(counted(&counts), [1, 2, 0], "the failed operation is done again");
        may_work.store(true, Ordering::SeqCst);
        let last = again.retry("last").await.unwrap();
        assert_eq!(result::<String>(&last).await.unwrap(), "Ada");
        assert_eq!(counted(&counts), [1, 3, 1]);
        let journal = last.journal(0, 1).await.unwrap();
        let started: Value = journal[0].event.data().unwrap();
        assert_eq!(
            (&started["retry_of"], &started["forked_from"]),
            (&json!("again"), &json!("again"))
        );
        assert_eq!(last.retry("more").await.unwrap_err().code(), "RUN_NOT_FAILED");
        assert_eq!(run.retry("last").await.unwrap_err().code(), "RUN_EXISTS");
    }
}

/// Pays between two operations that fail alike: the first failure is handled.
#[tokio::test(flavor = "multi_thread")]
async fn should_retry_the_operation_with_which_the_run_failed() {
    let paid = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&paid);
    let orders = move |context: WorkflowContext, last: String| {
        let paid = Arc::clone(&counted);
        async move {
            let sold_out = |name: &str| {
                context.step(name, || async {
                    let failure = Failure::new("SOLD_OUT", "nothing is left");
                    Err::<u32, _>(TaskError::terminal(failure))
                })
            };
            if last != "mapped" {
                sold_out("first shop").await.unwrap_err();
            }
            context.run("pay", || async { paid.fetch_add(1, Ordering::SeqCst) }).await?;
            let approval = context.signal::<u32>("approval").timeout(Duration::from_millis(1));
            match &*last {
                "step" => sold_out("last shop").await,
                "signal" => approval.await,
                // An error of its own has no operation.
                _ => {
                    let failure = approval.await.unwrap_err().failure().cloned().unwrap();
                    Err(WorkflowError::failed(failure))
                }
            }
        }
    };
    let runtime = runtime(&store()).workflow("orders", orders).start().await.unwrap();
    for last in ["step", "signal", "mapped"] {
        paid.store(0, Ordering::SeqCst);
        let run = runtime.start("orders", last).id(last).await.unwrap();
        let code = if last == "step" { "SOLD_OUT" } else { "SIGNAL_TIMEOUT" };
        assert_eq!(result::<u32>(&run).await.unwrap_err().code(), code);
        let again = run.retry(format!("{last} again")).await.unwrap();
        assert_eq!(result::<u32>(&again).await.unwrap_err().code(), code);
        assert_eq!(paid.load(Ordering::SeqCst), 1, "{last}: paid once");
    }
}

/// Answers only while the test permits it.
#[derive(Clone, Default)]
struct Permitted(Arc<AtomicBool>);

impl Agent for Permitted {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, number: u64) -> Result<u64, TaskError> {
        match self.0.load(Ordering::SeqCst) {
            true => Ok(number),
            false => std::future::pending().await,
        }
    }
}

/// A copy begins again what was open: the deadlines of the copied run may have passed.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_the_open_operations_of_a_copy_their_whole_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let permitted = Permitted::default();
    let is_fixed = Arc::clone(&permitted.0);
    let orders = move |context: WorkflowContext, (): ()| {
        let is_fixed = Arc::clone(&is_fixed);
        async move {
            let answer = context.task::<u64>("slow", &1).total_timeout(HOUR);
            let approval = context.signal::<u64>("approval").timeout(HOUR);
            let early = context.signal::<u64>("early").timeout(HOUR);
            let fails = context.step("fails", || async {
                match is_fixed.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err(TaskError::terminal(Failure::new("BROKEN", "out of order"))),
                }
            });
            let all = futures_util::future::try_join4(answer, approval, early, fails);
            let guarded = async { all.await.map(|(one, two, three, ())| one + two + three) };
            select! {
                sum = guarded => sum,
                slept = context.sleep(HOUR) => slept.map(|()| 0),
            }
        }
    };
    let clock = VirtualClock::new(Timestamp::now());
    let options = EngineOptions::new().with_lease_time(HOUR * 10_000);
    let runtime = runtime(&store())
        .engine_options(options)
        .clock(Arc::new(clock.clone()))
        .agent("slow", permitted.clone())
        .workflow("orders", orders)
        .start()
        .await
        .unwrap();
    let run = runtime.start("orders", &()).id("r").signal("early", &4).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "BROKEN");
    clock.advance(HOUR * 2);
    permitted.0.store(true, Ordering::SeqCst);
    for (copy, id) in [("retry", "again"), ("fork", "forked")] {
        let copied = match copy {
            "retry" => run.retry(id).await.unwrap(),
            _ => run.fork(4, id).await.unwrap(),
        };
        let actions = async || actions(&copied).await;
        eventually("it waits for the approval", || async {
            actions().await.contains(&"task_completed".to_owned())
        })
        .await;
        copied.signal("approval", &2).await.unwrap();
        assert_eq!(result::<u64>(&copied).await.unwrap(), 7, "{copy}: {:?}", actions().await);
    }
}

/// A wait without a deadline takes the signal. Its journal does not tell.
#[tokio::test(flavor = "multi_thread")]
async fn should_give_a_wait_its_whole_time_whose_signal_another_wait_has_taken() {
    const HOUR: Duration = Duration::from_secs(3600);
    let is_fixed = Arc::new(AtomicBool::new(false));
    let fixed = Arc::clone(&is_fixed);
    let takes = move |context: WorkflowContext, (): ()| {
        let is_fixed = Arc::clone(&fixed);
        async move {
            let first = context.signal::<u64>("item");
            let second = context.signal::<u64>("item").timeout(HOUR);
            let fails = async {
                let first = first.await?;
                let step = || async {
                    match is_fixed.load(Ordering::SeqCst) {
                        true => Ok(first),
                        false => Err(TaskError::terminal(Failure::new("BROKEN", "out of order"))),
                    }
                };
                context.step("fails", step).await
            };
            futures_util::future::try_join(fails, second).await.map(|(one, two)| one + two * 10)
        }
    };
    let clock = VirtualClock::new(Timestamp::now());
    let runtime = runtime(&store())
        .engine_options(EngineOptions::new().with_lease_time(HOUR * 10_000))
        .clock(Arc::new(clock.clone()))
        .workflow("takes", takes)
        .start()
        .await
        .unwrap();
    let run = runtime.start("takes", &()).id("r").await.unwrap();
    eventually("it waits", || async { actions(&run).await.len() == 2 }).await;
    run.signal("item", &1).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "BROKEN");
    clock.advance(HOUR * 2);
    is_fixed.store(true, Ordering::SeqCst);
    let again = run.retry("again").await.unwrap();
    eventually("it has done the step", || async {
        actions(&again).await.contains(&"step_completed".to_owned())
    })
    .await;
    again.signal("item", &2).await.unwrap();
    assert_eq!(result::<u64>(&again).await.unwrap(), 21, "{:?}", actions(&again).await);
}

/// The signal arrives right before the timeout of its wait is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_take_the_timeout_of_a_wait_for_a_failure_that_got_its_signal() {
    async fn late(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let _: u64 = context.signal("go").timeout(Duration::from_millis(20)).await?;
        Err(WorkflowError::failed(Failure::new("BROKEN", "by its own code")))
    }
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let signal = json!({ "name": "go", "payload": 1 });
    sneak_in(&faulty, &inner, "timer_fired", "workflows.late.signaled", signal);
    let store: Arc<dyn Store> = faulty;
    let runtime = runtime(&store).workflow("late", late).start().await.unwrap();
    let run = runtime.start("late", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "BROKEN");
    let actions = actions(&run).await;
    assert_eq!(actions, ["started", "signal_awaited", "signaled", "failed"]);
    assert_eq!(run.retry("again").await.unwrap_err().code(), "NO_FAILED_OPERATION");
}

async fn broken(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
    Err(WorkflowError::failed(Failure::new("BROKEN", "by its own code")))
}

/// Waits for a permit and fails, unless the run is a copy.
fn gated(
    gate: &Arc<Semaphore>,
    begun: &Arc<Semaphore>,
) -> impl Fn(WorkflowContext, ()) -> BoxFuture<'static, Result<u32, WorkflowError>> + use<> {
    let (gate, begun) = (Arc::clone(gate), Arc::clone(begun));
    move |context, ()| {
        let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
        Box::pin(async move {
            let is_copy = context.run_id() != "r";
            let step = || async {
                if is_copy {
                    return Ok(1);
                }
                begun.add_permits(1);
                gate.acquire().await.unwrap().forget();
                Err(TaskError::terminal(Failure::new("BROKEN", "the original fails")))
            };
            context.step("gate", step).await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_pause_the_copy_of_a_run_that_was_paused() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let gated = gated(&gate, &begun);
    let runtime = runtime(&store()).workflow("gated", gated).start().await.unwrap();
    let run = runtime.start("gated", &()).id("r").await.unwrap();
    run.pause().await.unwrap();
    run.resume().await.unwrap();
    begun.acquire().await.unwrap().forget();
    run.pause().await.unwrap();
    gate.add_permits(1);
    // What has begun ends during the pause.
    eventually("the step has failed", || async {
        actions(&run).await.iter().any(|action| action == "operation_failed")
    })
    .await;
    run.resume().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "BROKEN");
    assert_eq!(result::<u32>(&run.retry("retry").await.unwrap()).await.unwrap(), 1);
    assert_eq!(result::<u32>(&run.fork(1, "fork").await.unwrap()).await.unwrap(), 1);
}

/// An operation that was open when the run was cancelled is done again; a compensation is, too.
#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_a_copy_only_if_it_begins_with_a_compensation() {
    async fn waits(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let one: u32 = context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
        context.compensate("undo", |context| async move {
            context.step("undo", || async { Ok::<_, TaskError>(()) }).await
        });
        Ok(one + context.signal::<u32>("go").await?)
    }
    let runtime = runtime(&store()).workflow("waits", waits).start().await.unwrap();
    let run = runtime.start("waits", &()).await.unwrap();
    eventually("it waits", || async { actions(&run).await.len() == 2 }).await;
    run.cancel("not needed").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_CANCELLED");
    let waiting = run.fork(2, "waiting").await.unwrap();
    waiting.signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&waiting).await.unwrap(), 3);
    let undoing = run.fork(3, "undoing").await.unwrap();
    assert_eq!(result::<u32>(&undoing).await.unwrap_err().code(), "RUN_CANCELLED");
}

/// Doubles once it may.
struct Late(Doubler, Arc<Semaphore>);

impl Agent for Late {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, context: &TaskContext, number: u64) -> Result<u64, TaskError> {
        self.1.acquire().await.unwrap().forget();
        self.0.process_task(context, number).await
    }
}

/// The task ends when the step beside it has failed once. Its result is an earlier one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_in_a_retry_what_a_task_before_the_failed_operation_returned() {
    let [may_answer, may_fail] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let (answer, fail) = (Arc::clone(&may_answer), Arc::clone(&may_fail));
    let both = move |context: WorkflowContext, (): ()| {
        let (answer, fail) = (Arc::clone(&answer), Arc::clone(&fail));
        async move {
            let is_copy = context.run_id() != "r";
            let step = |step: StepContext| {
                let (answer, fail) = (&answer, &fail);
                async move {
                    let failure = Failure::new("BROKEN", "the original fails");
                    match step.attempt() {
                        _ if is_copy => return Ok(1),
                        1 => return Err(TaskError::retryable(failure)),
                        _ => answer.add_permits(2),
                    }
                    fail.acquire().await.unwrap().forget();
                    Err(TaskError::terminal(failure))
                }
            };
            let task = context.task::<u64>("late", &2);
            let step = context.step_with("flaky", step).retry(quick(2));
            let (task, step) = aios_agents::join!(task, step);
            Ok::<u64, WorkflowError>(task? + step?)
        }
    };
    let asked = Arc::new(AtomicU32::new(0));
    let late = Late(Doubler(Arc::clone(&asked)), may_answer);
    let builder = runtime(&store()).agent("late", late).workflow("both", both);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("both", &()).id("r").await.unwrap();
    eventually("the task has ended", || async {
        actions(&run).await.iter().any(|action| action == "task_completed")
    })
    .await;
    may_fail.add_permits(1);
    assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "BROKEN");
    let retry = run.retry("retry").await.unwrap();
    assert_eq!(result::<u64>(&retry).await.unwrap(), 5);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the task is not done again");
}

/// The code names its child after its run.
#[tokio::test(flavor = "multi_thread")]
async fn should_start_a_child_with_an_id_of_its_own_again_in_a_fork() {
    async fn parent(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let child = context.child::<u64>("kid", &1).id(format!("kid-of-{}", context.run_id()));
        let step = context.step("one", || async { Ok::<_, TaskError>(1) });
        let (child, step) = aios_agents::join!(child, step);
        Ok(child? + step?)
    }
    let builder = runtime(&store()).workflow("parent", parent).workflow("kid", kid);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("parent", &()).id("r").await.unwrap();
    eventually("the step has ended", || async {
        actions(&run).await.iter().any(|action| action == "step_completed")
    })
    .await;
    let fork = run.fork(2, "f").await.unwrap();
    for run in [run, fork] {
        let child = format!("kid-of-{}", run.id());
        eventually("the child starts", || async { runtime.handle(&child).await.is_ok() }).await;
        runtime.handle(&child).await.unwrap().signal("grow", &()).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_retry_a_run_without_a_failed_operation() {
    let runtime = runtime(&store()).workflow("broken", broken).start().await.unwrap();
    let run = runtime.start("broken", &()).await.unwrap();
    assert!(result::<()>(&run).await.is_err());
    assert_eq!(run.retry("again").await.unwrap_err().code(), "NO_FAILED_OPERATION");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_draw_in_a_fork_what_the_run_drew_before_it() {
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("drawer", drawer).start().await.unwrap();
        let run = runtime.start("drawer", &()).id("original").await.unwrap();
        let original: Seen = result(&run).await.unwrap();
        for operation in 1..=4 {
            let fork = run.fork(operation, format!("fork{operation}")).await.unwrap();
            let forked: Seen = result(&fork).await.unwrap();
            assert_forked(&original, &forked, operation);
            for again in 1..=4 {
                let second = fork.fork(again, format!("fork{operation}-{again}")).await.unwrap();
                let second: Seen = result(&second).await.unwrap();
                assert_forked(&forked, &second, again);
                assert_forked(&original, &second, operation.min(again));
            }
        }
    }
}

async fn kid(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.signal::<()>("grow").await?;
    Ok(number)
}

/// Has a child, a task and a timer open when it takes a step.
async fn busy(context: WorkflowContext, (): ()) -> Result<(u64, u64, u32), WorkflowError> {
    let child = context.child::<u64>("kid", &1);
    let task = context.task::<u64>("doubler", &2);
    let timer = context.sleep(Duration::from_millis(300));
    let step = async { context.step("gate", || async { Ok::<_, TaskError>(7) }).await };
    let (child, task, timer, step) = aios_agents::join!(child, task, timer, step);
    timer?;
    Ok((child?, task?, step?))
}

/// Operations that were open at the fork begin again in the fork, and belong to it alone.
#[tokio::test(flavor = "multi_thread")]
async fn should_begin_open_operations_again_in_a_fork() {
    for store in [store(), sqlite().await] {
        let asked = Arc::new(AtomicU32::new(0));
        let runtime = runtime(&store)
            .agent("doubler", Doubler(Arc::clone(&asked)))
            .workflow("busy", busy)
            .workflow("kid", kid)
            .start()
            .await
            .unwrap();
        let run = runtime.start("busy", &()).id("r").await.unwrap();
        eventually("the child of the original starts", || async {
            runtime.handle("r~1").await.is_ok()
        })
        .await;
        for operation in 1..=4_u64 {
            let fork = run.fork(operation, format!("f{operation}")).await.unwrap();
            let child = format!("f{operation}~1");
            eventually("the child of the fork starts", || async {
                runtime.handle(&child).await.is_ok()
            })
            .await;
            runtime.handle(&child).await.unwrap().signal("grow", &()).await.unwrap();
            let forked: (u64, u64, u32) = result(&fork).await.unwrap();
            assert_eq!(forked, (1, 4, 7), "fork at {operation}");
        }
        runtime.handle("r~1").await.unwrap().signal("grow", &()).await.unwrap();
        assert_eq!(result::<(u64, u64, u32)>(&run).await.unwrap(), (1, 4, 7));
        assert!(asked.load(Ordering::SeqCst) >= 4);
    }
}

/// The children continue when the step beside them has failed.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_in_a_retry_what_a_child_returned_after_the_run_had_failed() {
    async fn parent(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let is_copy = context.run_id() != "r";
        let derived = context.child::<u64>("kid", &1);
        let named = context.child::<u64>("kid", &2).id("named");
        let go = context.signal::<()>("fail");
        let step = async {
            go.await?;
            let step = || async move {
                match is_copy {
                    true => Ok(4),
                    false => Err(TaskError::terminal(Failure::new("BROKEN", "it fails"))),
                }
            };
            context.step("step", step).await
        };
        let (derived, named, step) = aios_agents::try_join!(derived, named, step)?;
        Ok(derived + named + step)
    }
    for store in [store(), sqlite().await] {
        let builder = runtime(&store).workflow("parent", parent).workflow("kid", kid);
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("parent", &()).id("r").await.unwrap();
        for child in ["r~1", "named"] {
            eventually(child, || async { runtime.handle(child).await.is_ok() }).await;
        }
        run.signal("fail", &()).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap_err().code(), "BROKEN");
        for child in ["r~1", "named"] {
            let child = runtime.handle(child).await.unwrap();
            child.signal("grow", &()).await.unwrap();
            result::<u64>(&child).await.unwrap();
        }
        let retry = run.retry("retry").await.unwrap();
        assert_eq!(result::<u64>(&retry).await.unwrap(), 7);
        assert!(runtime.handle("retry~1").await.is_err(), "no child is started again");
    }
}

/// The versions of a change that two deployments of a workflow know, and what its second step returns in
/// each version; it fails in others.
async fn versioned(
    context: WorkflowContext,
    versions: std::ops::RangeInclusive<u32>,
    works_in: u32,
) -> Result<Vec<u32>, WorkflowError> {
    let first = context.version("first", versions.clone())?;
    context.step("one", || async { Ok::<_, TaskError>(()) }).await?;
    let second = context.version("second", versions)?;
    let step = move || async move {
        match second == works_in {
            true => Ok(()),
            false => Err(TaskError::terminal(Failure::new("BROKEN", "this version is broken"))),
        }
    };
    context.step("two", step).await?;
    Ok(vec![first, second])
}

/// The version that the run chose for the operation which is done again is the faulty one.
#[tokio::test(flavor = "multi_thread")]
async fn should_choose_the_version_of_a_change_again_that_no_copied_operation_follows() {
    let store = store();
    let old = |context, (): ()| versioned(context, 1..=2, 0);
    let first = runtime(&store).workflow("versioned", old).start().await.unwrap();
    let run = first.start("versioned", &()).id("r").await.unwrap();
    assert_eq!(result::<Vec<u32>>(&run).await.unwrap_err().code(), "BROKEN");
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    let new = |context, (): ()| versioned(context, 1..=3, 3);
    let second = runtime(&store).workflow("versioned", new).start().await.unwrap();
    let run = second.handle("r").await.unwrap();
    let retry = run.retry("retry").await.unwrap();
    assert_eq!(result::<Vec<u32>>(&retry).await.unwrap(), [2, 3], "the first one is followed");
    let later = run.fork(2, "later").await.unwrap();
    assert_eq!(result::<Vec<u32>>(&later).await.unwrap(), [2, 3]);
    let all = run.fork(1, "all").await.unwrap();
    assert_eq!(result::<Vec<u32>>(&all).await.unwrap(), [3, 3]);
}
