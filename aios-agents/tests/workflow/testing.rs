//! `aios_agents::testing`, and the property that a replay sees what the run saw.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::{
    prelude::*,
    testing::{ReplayError, WorkflowTest, replay},
    workflow::{FnWorkflow, Workflow},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all, select_all},
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn should_sleep_for_a_month_in_no_time() {
    async fn month(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(DAY * 30).await?;
        context.task("counter", &1).await
    }
    let test = WorkflowTest::new("month", month).unwrap().agent("counter", |n: u32| Ok(n + 1));
    let run = test.run(&()).await;
    assert_eq!(run.result::<u32>().unwrap(), 2);
    assert_eq!(run.elapsed(), DAY * 30);
}

#[tokio::test]
async fn should_say_when_a_run_is_stuck() {
    async fn stuck(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.signal("never").await
    }
    let run = WorkflowTest::new("stuck", stuck).unwrap().run(&()).await;
    assert_eq!(run.result::<u32>().unwrap_err().code(), "RUN_STALLED");
}

async fn endless(context: WorkflowContext, timeout: u64) -> Result<u32, WorkflowError> {
    context.compensate("undo", |context| async move { context.run("undo", || async {}).await });
    let step = context.step("endless", std::future::pending::<Result<u32, TaskError>>);
    step.timeout(Duration::from_secs(timeout)).retry(RetryPolicy::never()).await
}

/// Virtual time does not wait for a step without end.
#[tokio::test]
async fn should_end_a_step_without_end_at_its_timeout() {
    let run = WorkflowTest::new("endless", endless).unwrap().run(&3600).await;
    assert_eq!(run.result::<u32>().unwrap_err().code(), "STEP_TIMEOUT");
    assert_eq!(run.elapsed(), DAY / 24);
}

#[tokio::test]
async fn should_cancel_a_run_while_a_step_is_running() {
    let test = WorkflowTest::new("endless", endless).unwrap();
    let run = test.cancel(Duration::from_secs(5), "enough").run(&3600).await;
    assert_eq!(run.result::<u32>().unwrap_err().code(), "RUN_CANCELLED");
    assert_eq!(run.elapsed(), Duration::from_secs(5));
}

/// A step that waits for real I/O ends before its timeout.
#[tokio::test]
async fn should_wait_for_the_real_io_of_a_step() {
    async fn echoes(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let step = context.step("echo", || async {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || sender.send(7));
            Ok::<u32, TaskError>(receiver.await?)
        });
        step.timeout(DAY).await
    }
    let run = WorkflowTest::new("echoes", echoes).unwrap().run(&()).await;
    assert_eq!(run.result::<u32>().unwrap(), 7);
    assert_eq!(run.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn should_refuse_an_input_that_is_not_json() {
    async fn never(_: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        panic!("it has no input")
    }
    let input = std::collections::BTreeMap::from([(vec![1], 1)]);
    let run = WorkflowTest::new("never", never).unwrap().run(&input).await;
    assert_eq!(run.result::<u32>().unwrap_err().code(), "INVALID_EVENT_DATA");
}

/// As in an engine, unless the start says otherwise.
#[tokio::test]
async fn should_correlate_a_test_run_with_itself() {
    async fn correlates(context: WorkflowContext, (): ()) -> Result<bool, WorkflowError> {
        Ok(context.info().correlation_id.as_deref() == Some(context.run_id()))
    }
    let run = WorkflowTest::new("correlates", correlates).unwrap().run(&()).await;
    assert!(run.result::<bool>().unwrap());
}

#[tokio::test]
async fn should_retry_scripted_agents_on_virtual_time() {
    async fn flaky(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("flaky", &()).retry(RetryPolicy::fixed(5, DAY)).await
    }
    let calls = Mutex::new(0);
    let test = WorkflowTest::new("flaky", flaky).unwrap().agent("flaky", move |(): ()| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        if *calls < 4 { Err("not yet".into()) } else { Ok(*calls) }
    });
    let run = test.run(&()).await;
    assert_eq!((run.result::<u32>().unwrap(), run.elapsed()), (4, DAY * 3));
}

#[tokio::test]
async fn should_replay_a_saved_journal_against_todays_code() {
    fn with_step(name: &'static str) -> Arc<dyn Workflow> {
        let code = move |context: WorkflowContext, (): ()| async move {
            context.step(name, || async { Ok::<_, TaskError>(1) }).await
        };
        Arc::new(FnWorkflow::new("saved", code).unwrap())
    }
    let run = WorkflowTest::of(with_step("charge")).run(&()).await;
    let journal = run.events().unwrap();
    replay(with_step("charge"), &journal).await.unwrap();
    let error = replay(with_step("reserve"), &journal).await.unwrap_err();
    assert!(
        matches!(error, ReplayError::Blocked(failure) if failure.details.to_value()["operation"] == 1)
    );
    let headless = replay(with_step("charge"), &journal[1..]).await.unwrap_err();
    assert!(matches!(headless, ReplayError::NoStart));
}

#[tokio::test]
async fn should_make_no_progress_while_paused_on_virtual_time() {
    async fn nap(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.sleep(DAY).await?;
        context.sleep(DAY).await.map(|()| 1)
    }
    let test = WorkflowTest::new("nap", nap).unwrap();
    let run = test.pause(Duration::from_secs(1)).resume(DAY * 5).run(&()).await;
    assert_eq!((run.result::<u32>().unwrap(), run.elapsed()), (1, DAY * 6));
}

/// The next operation of a random workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Do {
    Step(u8),
    FailingStep,
    Task(u8),
    Sleep(u8),
    Signal,
    Child(u8),
    All(Vec<Self>),
    First(Vec<Self>),
}

fn programs() -> impl Strategy<Value = Vec<Do>> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(Do::Step),
        Just(Do::FailingStep),
        any::<u8>().prop_map(Do::Task),
        any::<u8>().prop_map(Do::Sleep),
        Just(Do::Signal),
        any::<u8>().prop_map(Do::Child),
    ];
    let tree = leaf.prop_recursive(3, 16, 4, |inner| {
        let several = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![several().prop_map(Do::All), several().prop_map(Do::First)]
    });
    prop::collection::vec(tree, 1..8)
}

type Seen = Arc<Mutex<Vec<String>>>;

fn perform<'a>(context: &'a WorkflowContext, what: &'a Do, seen: &'a Seen) -> BoxFuture<'a, ()> {
    async move {
        let result = match what {
            Do::Step(value) => {
                let step = context.step("step", || async { Ok::<_, TaskError>(*value) });
                format!("{:?}", step.await.map_err(|error| error.to_string()))
            }
            Do::FailingStep => {
                let step = context.step("failing", || async { Err::<u8, _>("broken") });
                let step = step.retry(RetryPolicy::fixed(2, Duration::from_secs(3)));
                format!("{:?}", step.await.map_err(|error| error.to_string()))
            }
            Do::Task(value) => {
                let retry = RetryPolicy::fixed(2, Duration::from_secs(2));
                let task = context.task::<u8>("agent", value).retry(retry);
                format!("{:?}", task.await.map_err(|error| error.to_string()))
            }
            Do::Sleep(seconds) => {
                let sleep = context.sleep(Duration::from_secs(u64::from(*seconds)));
                format!("slept {:?}", sleep.await.is_ok())
            }
            Do::Signal => {
                let signal = context.signal::<u8>("go").timeout(Duration::from_secs(40));
                format!("{:?}", signal.await.map_err(|error| error.to_string()))
            }
            Do::Child(value) => {
                let child = context.child::<u8>("child", value);
                format!("{:?}", child.await.map_err(|error| error.to_string()))
            }
            Do::All(parts) => {
                join_all(parts.iter().map(|part| perform(context, part, seen))).await;
                "all".to_owned()
            }
            Do::First(parts) => {
                let parts = parts.iter().map(|part| perform(context, part, seen));
                let ((), winner, _) = select_all(parts).await;
                format!("first {winner}")
            }
        };
        seen.lock().unwrap().push(format!("{result} at {}", context.now()));
    }
    .boxed()
}

/// A workflow that performs a program and records what it sees.
fn interpreter(seen: &Seen) -> Arc<dyn Workflow> {
    let seen = Arc::clone(seen);
    let code = move |context: WorkflowContext, program: Vec<Do>| {
        let seen = Arc::clone(&seen);
        async move {
            for what in &program {
                perform(&context, what, &seen).await;
            }
            Ok(seen.lock().unwrap().len())
        }
    };
    Arc::new(FnWorkflow::new("interpreter", code).unwrap())
}

async fn check(program: Vec<Do>) {
    let live = Seen::default();
    let mut test = WorkflowTest::of(interpreter(&live))
        .agent(
            "agent",
            |value: u8| if value.is_multiple_of(5) { Err("odd".into()) } else { Ok(value) },
        )
        .child(
            "child",
            |value: u8| if value.is_multiple_of(7) { Err("bad".into()) } else { Ok(value) },
        );
    for second in [1, 5, 30] {
        test = test.signal(Duration::from_secs(second), "go", &second);
    }
    let run = test.run(&program).await;
    let (journal, live) = (run.events().unwrap(), live.lock().unwrap().clone());
    for end in 1..=journal.len() {
        let seen = Seen::default();
        replay(interpreter(&seen), &journal[..end]).await.unwrap();
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen, live[..seen.len().min(live.len())], "after {end} entries");
        if end == journal.len() {
            assert_eq!(seen, live, "the whole journal");
        }
    }
}

proptest! {
    #[test]
    fn should_see_in_every_replay_what_the_run_saw(program in programs()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(program));
    }
}
