use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, workflow::interrupt};
use futures_util::future::join_all;

use crate::support::workflows::{Doubler, PATIENCE, actions, quick, result, runtime, store};

async fn greet(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let doubled: u64 = context.task("doubler", &21).await?;
    let greeting = context
        .step("greet", || async { Ok::<_, TaskError>(format!("hello {name}, {doubled}")) })
        .await?;
    Ok(greeting)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_run_tasks_and_steps_to_a_result() {
    let agent = Doubler::default();
    let runtime =
        runtime(&store()).agent("doubler", agent.clone()).workflow("greet", greet).start().await;
    let runtime = runtime.unwrap();
    let run = runtime.start("greet", "Ada").id("greet-ada").await.unwrap();
    assert_eq!(result::<String>(&run).await.unwrap(), "hello Ada, 42");
    assert_eq!(
        actions(&run).await,
        ["started", "task_assigned", "task_completed", "step_completed", "completed"]
    );
    assert_eq!(agent.0.load(Ordering::SeqCst), 1);
    runtime.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_start_once_under_one_id() {
    let agent = Doubler::default();
    let runtime =
        runtime(&store()).agent("doubler", agent.clone()).workflow("greet", greet).start().await;
    let runtime = runtime.unwrap();
    let first = runtime.start("greet", "Ada").id("same").await.unwrap();
    let second = runtime.start("greet", "Ada").id("same").await.unwrap();
    assert_eq!(result::<String>(&first).await.unwrap(), result::<String>(&second).await.unwrap());
    assert_eq!(agent.0.load(Ordering::SeqCst), 1);
    let other = runtime.start("greet", "Bob").id("same").await.unwrap_err();
    assert_eq!(other.code(), "RUN_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_assign_a_task_outside_a_workflow() {
    let runtime = runtime(&store()).agent("doubler", Doubler::default()).start().await.unwrap();
    let run = runtime.task("doubler", &4).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fan_out_and_keep_the_order_of_results() {
    async fn fan(context: WorkflowContext, count: u64) -> Result<Vec<u64>, WorkflowError> {
        let tasks = (0..count).map(|number| context.task::<u64>("doubler", &number));
        join_all(tasks).await.into_iter().collect()
    }
    let runtime = runtime(&store())
        .agent("doubler", Doubler::default())
        .workflow("fan", fan)
        .start()
        .await
        .unwrap();
    let run = runtime.start("fan", &100).await.unwrap();
    let expected: Vec<u64> = (0..100).map(|number| number * 2).collect();
    assert_eq!(result::<Vec<u64>>(&run).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_retry_a_step_as_its_policy_says() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let flaky = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&counted);
        async move {
            context
                .step("flaky", || async {
                    match calls.fetch_add(1, Ordering::SeqCst) {
                        0 | 1 => Err("not yet"),
                        call => Ok(call),
                    }
                })
                .retry(quick(3))
                .await
        }
    };
    let runtime = runtime(&store()).workflow("flaky", flaky).start().await.unwrap();
    let run = runtime.start("flaky", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let retried = actions(&run).await.iter().filter(|action| *action == "retry_scheduled").count();
    assert_eq!(retried, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_with_the_failure_of_the_last_attempt() {
    async fn doomed(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.step("doomed", || async { Err::<u32, _>("broken") }).retry(quick(2)).await
    }
    let runtime = runtime(&store()).workflow("doomed", doomed).start().await.unwrap();
    let run = runtime.start("doomed", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(
        (error.code(), error.failure().unwrap().message.as_str()),
        ("TASK_FAILED", "step \"doomed\" (operation 1) failed: broken")
    );
    assert_eq!(run.status().await.unwrap().status.as_str(), "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_retry_a_terminal_failure() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let terminal = move |context: WorkflowContext, (): ()| {
        let calls = Arc::clone(&counted);
        async move {
            context
                .step("terminal", || async {
                    calls.fetch_add(1, Ordering::SeqCst);
                    Err::<(), _>("no").terminal()
                })
                .await
        }
    };
    let runtime = runtime(&store()).workflow("terminal", terminal).start().await.unwrap();
    let run = runtime.start("terminal", &()).await.unwrap();
    assert!(result::<()>(&run).await.is_err());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_an_unknown_agent_and_an_unknown_workflow() {
    async fn lost(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        context.task("missing", &1).retry(quick(2)).await
    }
    let runtime = runtime(&store()).workflow("lost", lost).start().await.unwrap();
    let run = runtime.start("lost", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "AGENT_NOT_FOUND");
    let error = runtime.start("nothing", &()).await.unwrap_err();
    assert_eq!(error.code(), "WORKFLOW_NOT_FOUND");
    assert_eq!(runtime.handle("nowhere").await.unwrap_err().code(), "RUN_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_path_of_an_input_that_does_not_fit() {
    #[derive(serde::Deserialize)]
    struct Spec {
        parts: Vec<u32>,
    }
    async fn build(_: WorkflowContext, spec: Spec) -> Result<usize, WorkflowError> {
        Ok(spec.parts.len())
    }
    let runtime = runtime(&store()).workflow("build", build).start().await.unwrap();
    let input = serde_json::json!({"parts": [1, "two"]});
    let run = runtime.start("build", &input).await.unwrap();
    let error = result::<usize>(&run).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_PARAMETERS");
    assert!(error.failure().unwrap().message.contains("/parts/1"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_block_on_a_panic_and_lose_nothing() {
    let broken = Arc::new(AtomicU32::new(1));
    let switch = Arc::clone(&broken);
    let fragile = move |context: WorkflowContext, (): ()| {
        let broken = Arc::clone(&switch);
        async move {
            let first: u32 = context.step("first", || async { Ok::<_, TaskError>(7) }).await?;
            assert_eq!(broken.load(Ordering::SeqCst), 0, "the code is broken");
            Ok(first)
        }
    };
    let store = store();
    let before = runtime(&store).workflow("fragile", fragile.clone()).start().await.unwrap();
    let run = before.start("fragile", &()).id("f").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(
        (error.code(), &*error.failure().unwrap().code),
        ("RUN_BLOCKED", "WORKFLOW_PANICKED")
    );
    before.shutdown(PATIENCE).await.unwrap();

    broken.store(0, Ordering::SeqCst);
    let after = runtime(&store).workflow("fragile", fragile).start().await.unwrap();
    let run = after.handle("f").await.unwrap();
    let waited = async {
        while run.status().await.unwrap().status.as_str() != "completed" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    assert_eq!(
        actions(&run).await,
        ["started", "step_completed", "blocked", "unblocked", "completed"]
    );
}

/// An interpreter ends its process in the middle of any code, which then drops its operations.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_interrupted_code_and_record_nothing_of_it() {
    let (interruptions, steps) = (Arc::new(AtomicU32::new(2)), Arc::new(AtomicU32::new(0)));
    let (left, counter) = (Arc::clone(&interruptions), Arc::clone(&steps));
    let fragile = move |context: WorkflowContext, (): ()| {
        let (left, counter) = (Arc::clone(&left), Arc::clone(&counter));
        async move {
            let count = || async { Ok::<_, TaskError>(counter.fetch_add(1, Ordering::SeqCst)) };
            let first: u32 = context.step("first", count).await?;
            let begun = join_all([10, 20].map(|pause| context.sleep(Duration::from_millis(pause))));
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1)).is_ok()
            {
                let begun = async { tokio::join!(begun, async { interrupt() }) };
                begun.await;
            } else {
                begun.await;
            }
            Ok(first)
        }
    };
    let runtime = runtime(&store()).workflow("fragile", fragile).start().await.unwrap();
    let run = runtime.start("fragile", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 0);
    assert_eq!((interruptions.load(Ordering::SeqCst), steps.load(Ordering::SeqCst)), (0, 1));
    let timers = ["timer_started", "timer_started", "timer_fired", "timer_fired"];
    assert_eq!(
        actions(&run).await,
        [&["started", "step_completed"], &timers[..], &["completed"]].concat()
    );
    runtime.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_time_out_a_task() {
    struct Sleeper;
    impl Agent for Sleeper {
        type Parameters = ();
        type Output = ();
        async fn process_task(&self, _: &TaskContext, (): ()) -> Result<(), TaskError> {
            std::future::pending().await
        }
    }
    async fn impatient(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        context.task("sleeper", &()).timeout(Duration::from_millis(20)).retry(quick(2)).await
    }
    let runtime = runtime(&store())
        .agent("sleeper", Sleeper)
        .workflow("impatient", impatient)
        .start()
        .await
        .unwrap();
    let run = runtime.start("impatient", &()).await.unwrap();
    assert_eq!(result::<()>(&run).await.unwrap_err().code(), "TASK_TIMEOUT");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_a_step_whose_result_is_too_large_for_the_store() {
    use aios_store::memory::{MemoryOptions, MemoryStore};

    async fn large(context: WorkflowContext, bytes: usize) -> Result<String, WorkflowError> {
        let step = context.step("large", || async { Ok::<_, TaskError>("x".repeat(bytes)) });
        let result = step.await.map_err(|error| error.code().to_owned());
        Ok(result.unwrap_or_else(|code| code))
    }
    let options = MemoryOptions::default().with_max_event_bytes(2000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("large", large).start().await.unwrap();
    let run = runtime.start("large", &5000).await.unwrap();
    assert_eq!(result::<String>(&run).await.unwrap(), "EVENT_TOO_LARGE");
    assert_eq!(actions(&run).await, ["started", "operation_failed", "completed"]);
}
