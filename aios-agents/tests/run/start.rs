use aios_agents::{RuntimeError, prelude::*};
use aios_core::store::RunStatus;

use crate::support::workflows::{Doubler, result, runtime, store};

async fn double(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task("doubler", &number).await
}

/// The first answers used to find no mailbox if they arrived before the engine read it.
#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_answer_that_comes_right_after_the_start() {
    for round in 0..50 {
        let runtime = runtime(&store())
            .agent("doubler", Doubler::default())
            .workflow("double", double)
            .start()
            .await
            .unwrap();
        let run = runtime.start("double", &round).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), round * 2);
    }
}

async fn wait(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    context.signal("go").await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_return_the_row_of_a_run_that_the_call_created() {
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let start = || runtime.start("wait", &()).id("r");
    let run = start().signal("other", &1).await.unwrap();
    let row = run.status().await.unwrap();
    assert_eq!(run.created(), Some(&row));
    assert_eq!(row.status, RunStatus::Running);
    assert_eq!(start().await.unwrap().created(), None, "it existed before");
    assert_eq!(runtime.handle("r").await.unwrap().created(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_names_that_no_signal_can_have() {
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let run = runtime.start("wait", &()).id("r").await.unwrap();
    for name in ["", "a\0b", "a\nb", &"x".repeat(201), &"x".repeat(10_000_000)] {
        let refused = run.signal(name, &1).await.unwrap_err();
        assert!(matches!(refused, RuntimeError::InvalidSignalName(_)), "{refused}");
        let refused = runtime.signal_with_start("wait", "other", &(), name, &1).await.unwrap_err();
        assert_eq!(refused.code(), "INVALID_SIGNAL_NAME");
    }
    assert_eq!(runtime.handle("other").await.unwrap_err().code(), "RUN_NOT_FOUND");
    run.signal(&"ü".repeat(100), &1).await.unwrap();
}

/// Two signals with one id are a mistake of the caller, not another run.
#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_signal_id_that_is_used_twice() {
    let runtime = runtime(&store()).workflow("wait", wait).start().await.unwrap();
    let start = runtime.start("wait", &()).id("r").signal("go", &1).signal_id("x");
    let refused = start.signal("go", &2).signal_id("x").await.unwrap_err();
    assert_eq!(refused.code(), "INVALID_RUNTIME_CONFIGURATION");
    assert!(refused.to_string().contains("\"x\""), "{refused}");
    assert_eq!(runtime.handle("r").await.unwrap_err().code(), "RUN_NOT_FOUND");
}
