//! Workflows as agent types: each task is a run, which is started once whatever happens to the task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::Broker,
    store::{PageRequest, ReadModels, RunFilter, RunRecord, RunStatus, Store},
};

use crate::support::workflows::{eventually, quick, result, runtime, store};

/// A workflow with one step before a signal, and one after it.
fn with_waiter(builder: RuntimeBuilder, steps: &Arc<AtomicU32>) -> RuntimeBuilder {
    let steps = Arc::clone(steps);
    let wait = move |context: WorkflowContext, text: String| {
        let steps = Arc::clone(&steps);
        async move {
            context.run("begin", || async { steps.fetch_add(1, Ordering::SeqCst) }).await?;
            let word: String = context.signal("word").await?;
            Ok(format!("{text} {word}"))
        }
    };
    builder.workflow("waiter", wait).workflow_agent("waiter")
}

async fn runs(store: &Arc<dyn Store>) -> Vec<RunRecord> {
    let filter = RunFilter { workflow: Some("waiter".to_owned()), ..RunFilter::default() };
    store.runs(&filter, &PageRequest::default()).await.unwrap().rows
}

/// The run of the task, once it waits.
async fn waiting_run(store: &Arc<dyn Store>, runtime: &Runtime, steps: &AtomicU32) -> RunHandle {
    eventually("the run begins", || async { steps.load(Ordering::SeqCst) > 0 }).await;
    let found = runs(store).await;
    assert_eq!(found.len(), 1);
    runtime.handle(&found[0].id).await.unwrap()
}

async fn ask(context: WorkflowContext, text: String) -> Result<String, WorkflowError> {
    context.task("waiter", &text).await
}

#[tokio::test]
async fn should_perform_tasks_as_runs() {
    let (store, steps) = (store(), Arc::default());
    let runtime = with_waiter(runtime(&store), &steps).workflow("ask", ask).start().await.unwrap();
    let single = runtime.task("waiter", "good").await.unwrap();
    let run = waiting_run(&store, &runtime, &steps).await;
    run.signal("word", "day").await.unwrap();
    assert_eq!(result::<String>(&single).await.unwrap(), "good day");

    let asking = runtime.start("ask", "fine").await.unwrap();
    eventually("another run begins", || async { runs(&store).await.len() == 2 }).await;
    let all = runs(&store).await;
    let open = all.iter().find(|run| !run.status.is_final()).unwrap();
    runtime.handle(&open.id).await.unwrap().signal("word", "wine").await.unwrap();
    assert_eq!(result::<String>(&asking).await.unwrap(), "fine wine");
}

#[tokio::test]
async fn should_wait_for_the_same_run_after_the_process_has_ended() {
    let (store, steps) = (store(), Arc::new(AtomicU32::new(0)));
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let process = || with_waiter(runtime(&store).broker(Arc::clone(&broker)), &steps).start();
    let first = process().await.unwrap();
    let task = first.task("waiter", "good").id("task").await.unwrap();
    waiting_run(&store, &first, &steps).await;
    drop((task, first));

    let second = process().await.unwrap();
    // At once, although the task waits.
    second.shutdown(Duration::from_secs(600)).await.unwrap();
    let third = process().await.unwrap();
    let run = waiting_run(&store, &third, &steps).await;
    assert_eq!(run.status().await.unwrap().status, RunStatus::Running);
    run.signal("word", "day").await.unwrap();
    let task = third.handle("task").await.unwrap();
    assert_eq!(result::<String>(&task).await.unwrap(), "good day");
    assert_eq!((steps.load(Ordering::SeqCst), runs(&store).await.len()), (1, 1));
}

#[tokio::test]
async fn should_cancel_the_run_of_a_cancelled_task() {
    let (store, steps) = (store(), Arc::default());
    let runtime = with_waiter(runtime(&store), &steps).start().await.unwrap();
    let task = runtime.task("waiter", "good").await.unwrap();
    let run = waiting_run(&store, &runtime, &steps).await;
    task.cancel("no longer needed").await.unwrap();
    let ended = result::<String>(&run).await.unwrap_err();
    assert_eq!(ended.code(), "RUN_CANCELLED", "{ended}");
}

#[tokio::test]
async fn should_cancel_the_run_of_a_task_that_takes_too_long() {
    let (store, steps) = (store(), Arc::new(AtomicU32::new(0)));
    let runtime = with_waiter(runtime(&store), &steps).start().await.unwrap();
    let task = runtime.task("waiter", "good").timeout(Duration::from_millis(300)).retry(quick(9));
    let task = task.await.unwrap();
    let ended = result::<String>(&task).await.unwrap_err();
    assert_eq!(ended.code(), "RUN_CANCELLED", "it is not repeated: {ended}");
    let found = runs(&store).await;
    assert_eq!((found.len(), found[0].status), (1, RunStatus::Cancelled));
}

#[tokio::test]
async fn should_fail_a_task_as_its_run_fails() {
    let fail = |_: WorkflowContext, (): ()| async {
        Err::<(), _>(WorkflowError::failed(Failure::new("SOLD_OUT", "no tea")))
    };
    let builder = runtime(&store()).workflow("fail", fail).workflow_agent("fail");
    let runtime = builder.start().await.unwrap();
    let ended = result::<()>(&runtime.task("fail", &()).await.unwrap()).await.unwrap_err();
    assert_eq!(ended.code(), "SOLD_OUT", "{ended}");
}

#[tokio::test]
async fn should_refuse_an_agent_type_of_an_unknown_workflow() {
    let error = runtime(&store()).workflow_agent("none").start().await.unwrap_err();
    assert_eq!(error.code(), "WORKFLOW_NOT_FOUND", "{error}");
    let without_store = Runtime::builder().broker(Arc::new(MemoryBroker::new()));
    let error = without_store.workflow_agent("none").start().await.unwrap_err();
    assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION", "{error}");
}
