//! Errors name what happened, to what, and the remedy.

use std::time::Duration;

use aios_agents::{prelude::*, workflow::Answer};

use crate::support::workflows::{Doubler, result, runtime, store};

async fn misread(context: WorkflowContext, which: u64) -> Result<Vec<String>, WorkflowError> {
    context.step("first", async || Ok::<_, TaskError>(1)).await?;
    match which {
        0 => context.task("doubler", &1).await,
        1 => context.child("leaf", &1_u64).await,
        2 => context.signal("go").await,
        3 => context.task("doubler", "text").await,
        4 => context.child("leaf", "text").await,
        _ => context.child("leave", &1).await,
    }
}

async fn leaf(_: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    Ok(number)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_agent_operation_and_direction() {
    let store = store();
    let runtime = runtime(&store)
        .agent("doubler", Doubler::default())
        .workflow("misread", misread)
        .workflow("leaf", leaf)
        .start()
        .await
        .unwrap();
    for (which, parts) in [
        (0, ["task 2: the output of agent \"doubler\" is not a valid Vec<String>", "invalid type"]),
        (
            1,
            ["child 2: the result of workflow \"leaf\" is not a valid Vec<String>", "invalid type"],
        ),
        (
            2,
            [
                "operation 2: the payload of signal \"go\" is not a valid Vec<String>",
                "invalid type",
            ],
        ),
        (3, ["invalid parameters for agent doubler", "INVALID_PARAMETERS"]),
        (
            4,
            [
                "invalid input of workflow leaf: invalid type: string \"text\"",
                "expected u64 (INVALID_PARAMETERS)",
            ],
        ),
        (5, ["no workflow leave is registered", "did you mean leaf?"]),
    ] {
        let run = runtime.start("misread", &which).id(format!("run-{which}")).await.unwrap();
        if which == 2 {
            run.signal("go", &1).await.unwrap();
        }
        let text = result::<Vec<String>>(&run).await.unwrap_err().to_string();
        assert!(text.starts_with(&format!("run run-{which} failed: ")), "{text}");
        parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} lacks {part:?}"));
    }
}

struct Broken;

impl Agent for Broken {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, _: &TaskContext, _: u64) -> Result<u64, TaskError> {
        Err(TaskError::terminal(Failure::new("MINE", "no")))
    }
}

async fn broken(context: WorkflowContext, which: String) -> Result<u64, WorkflowError> {
    context.sleep(Duration::ZERO).await?;
    match which.as_str() {
        "step" => {
            let bad = async || Err::<u64, _>(TaskError::terminal(Failure::new("MINE", "bad")));
            context.step("build", bad).await
        }
        "task" => {
            let error = context.task::<u64>("broken", &1).await.unwrap_err();
            // The code sees what the agent reported.
            assert_eq!(error.failure().map(|failure| &*failure.message), Some("no"));
            Err(error)
        }
        "child" => context.child("broken", "step").await,
        "signal" => context.signal("go").timeout(Duration::from_millis(1)).await,
        _ => Err(WorkflowError::failed(Failure::new("MINE", "mine"))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_operation_that_failed() {
    let runtime = runtime(&store()).agent("broken", Broken).workflow("broken", broken);
    let runtime = runtime.start().await.unwrap();
    for (which, text) in [
        ("step", "step \"build\" (operation 2) failed: bad (MINE)"),
        ("task", "task of agent \"broken\" (operation 2) failed: no (MINE)"),
        (
            "child",
            "child \"broken\" (operation 2) failed: step \"build\" (operation 2) failed: bad (MINE)",
        ),
        ("signal", "signal \"go\" (operation 2) failed: "),
        ("code", "mine (MINE)"),
    ] {
        let run = runtime.start("broken", which).id(which).await.unwrap();
        let error = result::<u64>(&run).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("run {which} failed: {text}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_once_why_a_run_has_no_result() {
    let runtime = runtime(&store()).workflow("misread", misread).start().await.unwrap();
    let run = runtime.start("misread", &2_u64).id("r1").await.unwrap();
    run.cancel("no need").await.unwrap();
    let error = result::<Vec<String>>(&run).await.unwrap_err();
    assert_eq!(error.to_string(), "run r1 was cancelled: no need (RUN_CANCELLED)");
    assert_eq!(aios_core::Chain(&error).to_string(), error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_suggest_the_workflow_that_was_meant() {
    let runtime = runtime(&store()).workflow("misread", misread).workflow("leaf", leaf);
    let runtime = runtime.start().await.unwrap();
    let error = runtime.start("misraed", &1_u64).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no workflow misraed is registered; did you mean misread? (registered: leaf, misread)"
    );
    assert_eq!(error.code(), "WORKFLOW_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_quote_an_invalid_name() {
    let started = runtime(&store()).workflow("Bad-Name", leaf).start().await;
    assert!(started.unwrap_err().to_string().contains("\"Bad-Name\""));
    let started = runtime(&store()).agent("Bad-Name", Doubler::default()).start().await;
    let error = started.unwrap_err();
    assert!(aios_core::Chain(&error).to_string().contains("\"Bad-Name\""));
}

#[test]
fn should_take_any_owned_type_as_an_answer() {
    fn is_answer<T: Answer>() {}
    is_answer::<()>();
    is_answer::<serde_json::Value>();
    is_answer::<Vec<Option<String>>>();
}
