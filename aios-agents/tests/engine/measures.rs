//! Metrics of runs: each end is reported once, however often its run is read back into memory.

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{clock::SystemClock, store::RunStatus};
use aios_store::memory::MemoryStore;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

use crate::support::workflows::{Doubler, PATIENCE, actions, eventually};

/// Steps, a task and a signal, and a step that fails.
async fn work(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    let one: u64 = context.step("one", || async { Ok::<_, TaskError>(1) }).await?;
    let twice: u64 = context.task("doubler", &number).await?;
    let failing = || async { Err::<u64, _>(TaskError::terminal(Failure::new("NO", "no"))) };
    let failed = context.step("fails", failing).await.is_err();
    let signal: u64 = context.signal("go").await?;
    let two: u64 = context.step("two", || async { Ok::<_, TaskError>(2) }).await?;
    Ok(one + two + twice + signal + u64::from(failed))
}

/// How many values each histogram has, and the counts of ended runs, with their labels as text.
fn reported(snapshotter: &Snapshotter) -> Vec<(String, usize)> {
    let ours = [
        "aios_run_seconds",
        "aios_step_seconds",
        "aios_task_seconds",
        "aios_runs_ended_total",
        "aios_runs_blocked_total",
    ];
    let mut found: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| ours.contains(&key.key().name()))
        .map(|(key, _, _, value)| {
            let labels = key.key().labels().map(|label| label.value().to_owned());
            let name = [key.key().name().to_owned()].into_iter().chain(labels);
            let count = match value {
                DebugValue::Histogram(values) => values.len(),
                DebugValue::Counter(count) => count.try_into().unwrap(),
                DebugValue::Gauge(_) => 0,
            };
            (name.collect::<Vec<_>>().join(" "), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    found.sort();
    found
}

/// The recorder is that of the thread, so everything runs on one thread.
#[tokio::test]
async fn should_report_nothing_again_while_a_journal_is_replayed() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (store, broker) = (Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()));
    let engine = || async {
        Runtime::builder()
            .store(Arc::clone(&store) as _)
            .broker(Arc::clone(&broker) as _)
            .agent("doubler", Doubler::default())
            .workflow("work", work)
            .start()
            .await
            .unwrap()
    };
    let first = engine().await;
    let run = first.start("work", &4).await.unwrap();
    let waits = || async { actions(&run).await.iter().any(|it| it == "operation_failed") };
    eventually("the run waits", waits).await;
    let id = run.id().to_owned();
    first.shutdown(PATIENCE).await.unwrap();
    let before = [
        ("aios_step_seconds work completed", 1),
        ("aios_step_seconds work failed", 1),
        ("aios_task_seconds doubler completed", 1),
    ];
    assert_eq!(reported(&snapshotter), before.map(|(name, count)| (name.to_owned(), count)));

    let second = engine().await;
    let run = second.handle(&id).await.unwrap();
    run.signal("go", &1_u64).await.unwrap();
    assert_eq!(run.result::<u64>().await.unwrap(), 1 + 2 + 8 + 1 + 1);
    // Counters of a snapshot are those since the one before.
    let after = [
        ("aios_run_seconds work completed", 1),
        ("aios_runs_ended_total completed", 1),
        ("aios_step_seconds work completed", 1),
    ];
    assert_eq!(reported(&snapshotter), after.map(|(name, count)| (name.to_owned(), count)));
    second.shutdown(PATIENCE).await.unwrap();

    let third = engine().await;
    assert_eq!(third.handle(&id).await.unwrap().result::<u64>().await.unwrap(), 13);
    SystemClock.sleep(Duration::from_millis(100)).await;
    assert!(reported(&snapshotter).is_empty(), "nothing ended");
    third.shutdown(PATIENCE).await.unwrap();
}

/// A run that was blocked has not ended, and is not counted again when it ends.
#[tokio::test]
async fn should_count_a_blocked_run_as_ended_when_it_ends() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (store, broker) = (Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()));
    let engine = async |is_broken: bool| {
        let code = move |_: WorkflowContext, number: u64| async move {
            assert!(!is_broken, "as the test says");
            Ok(number)
        };
        let builder = Runtime::builder().store(Arc::clone(&store) as _);
        let builder = builder.broker(Arc::clone(&broker) as _).workflow("fragile", code);
        builder.start().await.unwrap()
    };
    let first = engine(true).await;
    let run = first.start("fragile", &4).await.unwrap();
    let is_blocked = || async { run.status().await.unwrap().status == RunStatus::Blocked };
    eventually("the run is blocked", is_blocked).await;
    let id = run.id().to_owned();
    first.shutdown(PATIENCE).await.unwrap();
    let blocked = ("aios_runs_blocked_total WORKFLOW_PANICKED".to_owned(), 1);
    assert_eq!(reported(&snapshotter), [blocked]);

    let second = engine(false).await;
    assert_eq!(second.handle(&id).await.unwrap().result::<u64>().await.unwrap(), 4);
    let after = [("aios_run_seconds fragile completed", 1), ("aios_runs_ended_total completed", 1)];
    assert_eq!(reported(&snapshotter), after.map(|(name, count)| (name.to_owned(), count)));
    second.shutdown(PATIENCE).await.unwrap();
}
