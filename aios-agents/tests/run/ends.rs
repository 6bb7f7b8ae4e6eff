//! A process that waits for a run of another process learns of its end, and keeps waiting while the
//! store is away.

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_core::{clock::VirtualClock, store::EventStore};
use aios_tests::log::Logged;

use crate::support::{
    faulty::{Fault, FaultyStore, store_refuses, store_unavailable},
    workflows::{PATIENCE, eventually, result, runtime, sqlite, store},
};

async fn signaled(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

/// An engine, and a client in another process whose store calls can fail.
async fn harness(clock: Option<VirtualClock>) -> (Runtime, Runtime, Arc<FaultyStore>) {
    let store = store();
    let engine = runtime(&store).workflow("signaled", signaled).start().await.unwrap();
    let faulty = FaultyStore::new(store);
    let seen: Arc<dyn Store> = Arc::<FaultyStore>::clone(&faulty);
    let mut client = runtime(&seen).client_only();
    if let Some(clock) = clock {
        client = client.clock(Arc::new(clock));
    }
    (engine, client.start().await.unwrap(), faulty)
}

/// Less time passes for the client than the interval between two polls.
#[allow(clippy::disallowed_methods, reason = "a test lets real tasks run")]
#[tokio::test(flavor = "multi_thread")]
async fn should_hear_of_the_end_of_a_run_elsewhere_without_polling() {
    let clock = VirtualClock::new(Timestamp::now());
    let (engine, client, faulty) = harness(Some(clock.clone())).await;
    let run = engine.start("signaled", &()).await.unwrap();
    let waiting = client.handle(run.id()).await.unwrap();
    let waiting = tokio::spawn(async move { result::<u32>(&waiting).await });
    eventually("the client listens", || async { faulty.count("wait_for") > 0 }).await;
    run.signal("go", &4).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 4);
    for _ in 0..30 {
        clock.advance(Duration::from_millis(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(waiting.await.unwrap().unwrap(), 4);
}

/// Less time passes for the client than the interval between two polls.
#[allow(clippy::disallowed_methods, reason = "a test lets real tasks run")]
#[tokio::test(flavor = "multi_thread")]
async fn should_hear_of_the_end_of_a_run_beside_events_that_can_not_be_read() {
    let clock = VirtualClock::new(Timestamp::now());
    let (engine, client, faulty) = harness(Some(clock.clone())).await;
    for _ in 0..2 {
        let run = engine.start("signaled", &()).await.unwrap();
        let waiting = client.handle(run.id()).await.unwrap();
        let waiting = tokio::spawn(async move { result::<u32>(&waiting).await });
        let listens = faulty.count("wait_for");
        eventually("the client listens", || async { faulty.count("wait_for") > listens }).await;
        // The signal.
        faulty.spoil([faulty.head().await.unwrap() + 1]);
        run.signal("go", &4).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 4);
        for _ in 0..30 {
            clock.advance(Duration::from_millis(30));
            // A busy machine gets more time to keep up.
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if waiting.is_finished() {
                    break;
                }
            }
        }
        faulty.spoil([]);
        assert!(waiting.is_finished(), "it does not wait for the next poll");
        assert_eq!(waiting.await.unwrap().unwrap(), 4);
    }
}

/// Many waiting callers cost no more than one.
#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_log_once_for_all_waiting_callers_and_only_while_there_are_any() {
    let (engine, client, faulty) = harness(None).await;
    let mut waiting = tokio::task::JoinSet::new();
    let mut runs = Vec::new();
    for _ in 0..100 {
        let run = engine.start("signaled", &()).await.unwrap();
        let handle = client.handle(run.id()).await.unwrap();
        waiting.spawn(async move { result::<u32>(&handle).await });
        runs.push(run);
    }
    eventually("the client listens", || async { faulty.count("wait_for") > 0 }).await;
    for run in &runs {
        run.signal("go", &4).await.unwrap();
    }
    while let Some(ended) = waiting.join_next().await {
        assert_eq!(ended.unwrap().unwrap(), 4);
    }
    let run = engine.start("signaled", &()).await.unwrap();
    run.signal("go", &5).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 5);
    let listened = faulty.count("wait_for");
    let handle = client.handle(run.id()).await.unwrap();
    assert_eq!(result::<u32>(&handle).await.unwrap(), 5);
    assert!(faulty.count("wait_for") <= listened + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_run_while_the_store_is_away() {
    let (engine, client, faulty) = harness(None).await;
    let run = engine.start("signaled", &()).await.unwrap();
    let handle = client.handle(run.id()).await.unwrap();
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    let waiting = tokio::spawn(async move { result::<u32>(&handle).await });
    eventually("the store was asked", || async { faulty.count("runs") > 2 }).await;
    run.signal("go", &4).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 4);
    assert!(!waiting.is_finished());
    faulty.heal();
    assert_eq!(waiting.await.unwrap().unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_commands_while_the_store_is_away() {
    let (engine, client, faulty) = harness(None).await;
    let run = engine.start("signaled", &()).await.unwrap();
    let idle = client.handle(run.id()).await.unwrap();
    faulty.on_call(|_| Some(Fault::Refuse(store_unavailable())));
    let mut waiting = tokio::task::JoinSet::new();
    let client = Arc::new(client);
    let (status, asked) = (idle.clone(), Arc::clone(&client));
    waiting.spawn(async move { status.status().await.map(drop) });
    waiting.spawn(async move { idle.signal("go", &4).await });
    let id = run.id().to_owned();
    waiting.spawn(async move { asked.handle(&id).await.map(drop) });
    eventually("the store was asked", || async { faulty.count("runs") > 6 }).await;
    assert!(waiting.try_join_next().is_none());
    faulty.heal();
    while let Some(sent) = waiting.join_next().await {
        sent.unwrap().unwrap();
    }
    assert_eq!(result::<u32>(&run).await.unwrap(), 4);
    let journal = run.journal(0, 100).await.unwrap();
    let signals = journal.iter().filter(|it| it.event.event_type.action() == "signaled");
    assert_eq!(signals.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_wait_for_a_store_that_refuses() {
    let (engine, client, faulty) = harness(None).await;
    let run = engine.start("signaled", &()).await.unwrap();
    let handle = client.handle(run.id()).await.unwrap();
    faulty.on_call(|_| Some(Fault::Refuse(store_refuses())));
    let error = tokio::time::timeout(PATIENCE, handle.result::<u32>()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "STORE_BACKEND");
}

/// A handle remains usable after its engine has stopped.
#[tokio::test(flavor = "multi_thread")]
async fn should_hear_of_an_end_after_its_own_engine_has_stopped() {
    let store = store();
    let first = runtime(&store).workflow("signaled", signaled).start().await.unwrap();
    let run = first.start("signaled", &()).await.unwrap();
    let handle = run.clone();
    let waiting = tokio::spawn(async move { result::<u32>(&handle).await });
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    let second = runtime(&store).workflow("signaled", signaled).start().await.unwrap();
    second.handle(run.id()).await.unwrap().signal("go", &6).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 6);
}

/// Everything that waits for a runtime whose store is closed gets the same error.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_the_runtime_is_closed_to_callers_that_wait() {
    let store = sqlite().await;
    let engine = runtime(&store).workflow("signaled", signaled).start().await.unwrap();
    let run = engine.start("signaled", &()).await.unwrap();
    let handle = run.clone();
    let waiting = tokio::spawn(async move { result::<u32>(&handle).await });
    engine.shutdown(Duration::from_secs(5)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), "RUNTIME_CLOSED");
    assert_eq!(run.status().await.unwrap_err().code(), "RUNTIME_CLOSED");
    assert_eq!(run.cancel("late").await.unwrap_err().code(), "RUNTIME_CLOSED");
}

/// A signal may be accepted after the last wait of the code.
#[tokio::test]
async fn should_log_signals_that_a_completed_run_has_not_received() {
    let logged = Logged::here();
    let runtime = runtime(&store()).workflow("signaled", signaled).start().await.unwrap();
    let run = runtime.start("signaled", &()).await.unwrap();
    for (name, number) in [("other", 1), ("other", 2), ("go", 3)] {
        run.signal(name, &number).await.unwrap();
    }
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    let journal = run.journal(0, 100).await.unwrap();
    let last: serde_json::Value = journal.last().unwrap().event.data().unwrap();
    assert_eq!(last["untaken_signals"], serde_json::json!([1, 2]));
    let lines = logged.lines(&["without receiving all of its signals", "signals=2", run.id()]);
    assert_eq!(lines.len(), 1, "{lines:?}");
}
