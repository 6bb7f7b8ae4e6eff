//! The effect of each command on a run, for every status of the run.

use aios_agents::prelude::*;

use crate::support::workflows::{PATIENCE, actions, eventually, result, runtime, sqlite, store};

const STATUSES: [&str; 7] =
    ["running", "paused", "cancelling", "blocked", "completed", "failed", "cancelled"];

/// The error code of commands to a run that has ended.
const ENDED: &str = "RUN_ENDED";
/// The error code of a pause while the run is being cancelled.
const BUSY: &str = "RUN_CANCELLING";

/// The result of each command: the status of the run afterwards, or an error code.
const TABLE: [(&str, [&str; 7]); 5] = [
    ("signal", ["running", "paused", "cancelling", "blocked", ENDED, ENDED, ENDED]),
    ("pause", ["paused", "paused", BUSY, "blocked", ENDED, ENDED, ENDED]),
    ("resume", ["running", "running", "cancelling", "blocked", ENDED, ENDED, ENDED]),
    ("cancel", ["cancelling", "cancelling", "cancelling", "cancelled", ENDED, ENDED, ENDED]),
    ("terminate", ["cancelled", "cancelled", "cancelled", "cancelled", ENDED, ENDED, ENDED]),
];

/// Reaches the given status and keeps it. While it is being cancelled, it waits for a signal that
/// never arrives.
async fn becomes(context: WorkflowContext, status: String) -> Result<u32, WorkflowError> {
    let undo = |context: WorkflowContext| async move { context.signal::<()>("undo").await };
    match &*status {
        "completed" => return Ok(1),
        "failed" => return Err("failed".into()),
        "blocked" => panic!("no code"),
        "cancelled" => {}
        _ => context.compensate("slow", undo),
    }
    context.signal::<()>("never").await?;
    Ok(1)
}

async fn bring(runtime: &Runtime, id: &str, status: &str) -> RunHandle {
    let run = runtime.start("becomes", status).id(id).await.unwrap();
    match status {
        "paused" => run.pause().await.unwrap(),
        "cancelling" | "cancelled" => run.cancel("first").await.unwrap(),
        _ => {}
    }
    await_status(&run, &[status]).await;
    run
}

async fn await_status(run: &RunHandle, any: &[&str]) {
    let what = format!("{} becomes {any:?}", run.id());
    eventually(&what, || async { any.contains(&run.status().await.unwrap().status.as_str()) })
        .await;
}

async fn command(run: &RunHandle, command: &str) -> Result<(), RuntimeError> {
    match command {
        "signal" => run.signal("other", &1).await,
        "pause" => run.pause().await,
        "resume" => run.resume().await,
        "terminate" => run.terminate("third").await,
        _ => run.cancel("second").await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_table_of_commands() {
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store).workflow("becomes", becomes).start().await.unwrap();
        for (name, row) in TABLE {
            for (before, expected) in STATUSES.iter().zip(row) {
                let run = bring(&runtime, &format!("{name}-{before}"), before).await;
                match command(&run, name).await {
                    Ok(()) => await_status(&run, &[expected]).await,
                    Err(error) => {
                        assert_eq!(error.code(), expected, "{name} of a run that is {before}");
                        let status = run.status().await.unwrap().status;
                        assert_eq!(status.as_str(), *before, "{name}");
                    }
                }
            }
        }
        let unknown = runtime.handle("unknown").await.unwrap_err();
        assert_eq!(unknown.code(), "RUN_NOT_FOUND");
    }
}

/// A command is not recorded if the run is already in the requested state.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_repeat_a_command() {
    let runtime = runtime(&store()).workflow("becomes", becomes).start().await.unwrap();
    for (status, name) in [("paused", "pause"), ("running", "resume"), ("cancelling", "cancel")] {
        let run = bring(&runtime, status, status).await;
        let before = run.journal(0, 100).await.unwrap().len();
        command(&run, name).await.unwrap();
        assert_eq!(run.journal(0, 100).await.unwrap().len(), before, "{name}");
    }
}

/// The first reason is kept, even if another process asks again.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_first_reason_of_a_cancellation() {
    let runtime = runtime(&store()).workflow("becomes", becomes).start().await.unwrap();
    let run = bring(&runtime, "r", "cancelling").await;
    run.cancel("second").await.unwrap();
    run.signal("undo", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().message, "first");
}

/// The command returns at once for a run of another process that has ended.
#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_commands_of_a_process_that_has_no_engine() {
    let store = store();
    let engine = runtime(&store).workflow("becomes", becomes).start().await.unwrap();
    let client = runtime(&store).workflow("becomes", becomes).client_only().start().await.unwrap();
    let run = bring(&engine, "r", "completed").await;
    let run = client.handle(run.id()).await.unwrap();
    for name in ["signal", "pause", "resume", "cancel"] {
        assert_eq!(command(&run, name).await.unwrap_err().code(), "RUN_ENDED", "{name}");
    }
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
}

/// Waits in its compensation for something that never comes. The one that was registered first would still
/// have to run.
async fn hangs(context: WorkflowContext, on: String) -> Result<(), WorkflowError> {
    context.compensate("the rest", |context| async move {
        context.run("undo", || async {}).await?;
        Ok(())
    });
    context.compensate("hangs", |context| async move {
        match &*on {
            "a signal" => context.signal::<()>("undone").await,
            "a step" => context.step("undo", std::future::pending::<Result<(), TaskError>>).await,
            "a task" => context.task("ghost", &1).await,
            _ => context.child("becomes", "running").await,
        }
    });
    context.signal::<()>("never").await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_run_whose_compensation_hangs() {
    let store = store();
    let build = || runtime(&store).workflow("becomes", becomes).workflow("hangs", hangs);
    let mut engine = build().start().await.unwrap();
    for (on, begun) in [
        ("a signal", "cancel_requested"),
        ("a step", "cancel_requested"),
        ("a task", "task_assigned"),
        ("a child", "child_started"),
    ] {
        let run = engine.start("hangs", on).id(on.replace(' ', "-")).await.unwrap();
        run.cancel("first").await.unwrap();
        await_status(&run, &["cancelling"]).await;
        eventually(on, || async { actions(&run).await.iter().any(|it| it == begun) }).await;
        if on == "a signal" {
            // The request is also obeyed by an engine that finds it in the journal.
            engine.shutdown(PATIENCE).await.unwrap();
            let client = build().client_only().start().await.unwrap();
            client.handle(run.id()).await.unwrap().terminate("second").await.unwrap();
            engine = build().start().await.unwrap();
        } else {
            run.terminate("second").await.unwrap();
        }
        let run = engine.handle(run.id()).await.unwrap();
        let error = result::<()>(&run).await.unwrap_err();
        let RunError::Cancelled { failure, .. } = &error else { panic!("{on}: {error:?}") };
        assert_eq!(failure.message, "first", "{on}");
        assert_eq!(failure.details.to_value()["terminated"], "second", "{on}");
        assert!(!actions(&run).await.iter().any(|it| it == "step_completed"), "{on}");
        // A repeated request changes nothing.
        assert_eq!(run.terminate("third").await.unwrap_err().code(), "RUN_ENDED");
    }
}
