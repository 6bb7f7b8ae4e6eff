//! Commands on the store of an engine that this process has stopped.

use std::{sync::Arc, time::Duration};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_core::{
    broker::Broker,
    clock::Clock,
    store::{RunStatus, Store},
};
use serde_json::Value;

use crate::support::Program;

const PATIENCE: Duration = Duration::from_secs(60);
const STORE: [&str; 2] = ["--store", "sqlite://aios.db"];

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(name)
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.task("greeter", &name).await
}

async fn broken(_: WorkflowContext, is_fine: bool) -> Result<(), WorkflowError> {
    assert!(is_fine, "as the test says");
    Ok(())
}

async fn every_day(context: WorkflowContext, left: u32) -> Result<u32, WorkflowError> {
    context.step("work", || async { Ok::<_, TaskError>(()) }).await?;
    match left {
        0 => Ok(0),
        left => Err(WorkflowError::continue_as_new(&(left - 1))),
    }
}

async fn parent(context: WorkflowContext, left: u32) -> Result<u32, WorkflowError> {
    context.child("every_day", &left).await
}

/// An engine on the store of a program. The agents of its type have existed, and are gone.
async fn engine(program: &Program) -> (Runtime, Arc<dyn Store>) {
    let url = format!("sqlite://{}/aios.db", program.folder().display());
    let store = aios_store::connect(&url).await.unwrap();
    let broker: Arc<dyn Broker> = aios_broker::connect("memory://").await.unwrap();
    let agents = Runtime::builder().broker(Arc::clone(&broker)).agent("greeter", Greeter);
    agents.start().await.unwrap().shutdown(PATIENCE).await.unwrap();
    let runtime = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(broker)
        .engine_options(EngineOptions::new().with_unclaimed_after(Duration::from_millis(50)))
        .workflow("welcome", welcome)
        .workflow("broken", broken)
        .workflow("every_day", every_day)
        .workflow("parent", parent)
        .start()
        .await
        .unwrap();
    (runtime, store)
}

/// Stops an engine, so that the program can open the store.
async fn stop(runtime: Runtime, store: Arc<dyn Store>) {
    runtime.shutdown(PATIENCE).await.unwrap();
    store.close().await.unwrap();
}

async fn eventually(is_true: impl AsyncFn() -> bool) {
    let clock = aios_core::clock::SystemClock;
    while !is_true().await {
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_find_tasks_without_agents_and_name_the_remedy_of_a_blocked_run() {
    let program = Program::new();
    let (runtime, store) = engine(&program).await;
    let waiting = runtime.start("welcome", "Ada").id("ada").await.unwrap();
    let blocked = runtime.start("broken", &false).id("blocked").await.unwrap();
    eventually(async || waiting.status().await.unwrap().waits_for.is_some()).await;
    eventually(async || blocked.status().await.unwrap().status == RunStatus::Blocked).await;
    stop(runtime, store).await;

    let ended = program.ended(&[&["doctor", "--json"], &STORE[..]].concat());
    assert_eq!(ended.code, 7, "{}{}", ended.stdout, ended.stderr);
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = |check: &str| {
        let line = lines.iter().find(|line| line["check"] == check).unwrap();
        assert_eq!(line["status"], "fault", "{line}");
        (line["message"].as_str().unwrap(), line["remedy"].as_str().unwrap())
    };
    let (message, remedy) = found("tasks");
    assert!(message.starts_with("1 ") && message.contains("greeter"), "{message}");
    assert!(remedy.contains("agents.TYPE"), "{remedy}");
    let (message, remedy) = found("runs");
    assert!(message.contains("WORKFLOW_PANICKED") && message.contains("blocked"), "{message}");
    assert!(remedy.contains("code of the workflow"), "{remedy}");
}

/// The runs of a trace by their ids.
fn runs_of(spans: &[Value]) -> Vec<&str> {
    spans.iter().filter_map(|span| span["attributes"]["aios.run_id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_trace_a_run_that_continues_as_new_to_its_end() {
    let program = Program::new();
    let (runtime, store) = engine(&program).await;
    for (workflow, id) in [("every_day", "first"), ("parent", "above")] {
        let run = runtime.start(workflow, &2_u32).id(id).await.unwrap();
        assert_eq!(run.result::<u32>().await.unwrap(), 0);
    }
    stop(runtime, store).await;
    let trace = |id: &str| program.json(&[&["trace", id], &STORE[..]].concat());
    let first = trace("first");
    assert_eq!(runs_of(&first), ["first", "first~r2", "first~r3"]);
    let shown = program.done(&[&["trace", "first"], &STORE[..]].concat());
    assert!(shown.lines().next().unwrap().ends_with(", continued in 2 others"), "{shown}");
    let above = trace("above");
    assert_eq!(runs_of(&above), ["above", "above~1", "above~1~r2", "above~1~r3"]);
    assert_eq!(runs_of(&trace("first~r2")), ["first~r2", "first~r3"]);
    for spans in [first, above] {
        assert_eq!(spans.iter().filter(|span| span["name"] == "step work").count(), 3);
        let has_links =
            |span: &&Value| span["name"] == "workflow every_day" && span["links"].is_array();
        assert_eq!(spans.iter().filter(has_links).count(), 2, "{spans:?}");
    }
}
