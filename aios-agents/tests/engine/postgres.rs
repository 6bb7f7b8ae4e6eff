//! The guarantees of the engine, on a dedicated PostgreSQL server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_store::postgres::{PostgresOptions, PostgresStore, Retention};
use aios_tests::postgres::PostgresServer;

use crate::{
    engine::sizes::{LIMIT, takes_every_size},
    fleet::discovery::sees_signals,
    runtime::projection::check_restart,
    support::workflows::{PATIENCE, actions, eventually, postgres, result},
};

#[tokio::test(flavor = "multi_thread")]
async fn should_see_signals_of_other_processes_among_a_thousand_busy_runs_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    sees_signals(Arc::new(postgres(&server.url()).await), 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_apply_matching_events_once_and_in_order_across_restarts_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    check_restart(Arc::new(postgres(&server.url()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_or_block_with_a_code_when_data_is_too_large_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    let options = PostgresOptions::new(&server.url()).with_max_event_bytes(LIMIT);
    let options = options.with_schema(&server.new_name()).with_max_connections(4);
    takes_every_size(Arc::new(PostgresStore::connect_with(options).await.unwrap())).await;
}

/// Continues as another run until it has done so twice.
async fn chain(_: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
    match round {
        2 => Ok(round),
        _ => Err(WorkflowError::continue_as_new(&(round + 1))),
    }
}

/// A paused parent has not checked its child, which has continued as other runs and ended.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_a_continued_child_for_its_paused_parent_on_postgresql() {
    let Some(server) = PostgresServer::shared() else { return };
    let kept = postgres(&server.url()).await;
    let store: Arc<dyn Store> = Arc::new(kept.clone());
    let starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&starts);
    let child = move |context: WorkflowContext, round: u32| {
        counted.fetch_add(u32::from(round == 0), Ordering::SeqCst);
        chain(context, round)
    };
    let parent = |context: WorkflowContext, (): ()| async move {
        context.signal::<()>("begin").await?;
        context.child::<u32>("chain", &0).id("kid").await
    };
    let options = EngineOptions::new()
        .with_lease_time(Duration::from_secs(2))
        .with_child_poll_interval(Duration::from_millis(200));
    let runtime = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
        .workflow("chain", child)
        .workflow("parent", parent)
        .start()
        .await
        .unwrap();
    let run = runtime.start("parent", &()).id("dad").await.unwrap();
    run.signal("begin", &()).await.unwrap();
    eventually("it has begun", || async {
        actions(&run).await.iter().any(|action| action == "child_started")
    })
    .await;
    let paused = run.pause().await;
    eventually("the child has ended", || async {
        match runtime.handle("kid").await {
            Ok(kid) => kid.status().await.unwrap().status.is_final(),
            Err(_) => paused.is_err(),
        }
    })
    .await;
    for _ in 0..3 {
        kept.expire_runs(&Retention::new(Duration::ZERO)).await.unwrap();
    }
    if paused.is_ok() {
        run.resume().await.unwrap();
    }
    assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    assert_eq!(starts.load(Ordering::SeqCst), 1, "the child was started once");
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// The server is read-only for a while, as after a failover, and is killed and started again. Every
/// run ends, recorded work is not repeated, and the engine continues.
#[tokio::test(flavor = "multi_thread")]
async fn should_outlive_phases_in_which_the_server_is_read_only_or_gone() {
    let Some(server) = PostgresServer::start() else { return };
    let store: Arc<dyn Store> = Arc::new(postgres(&server.url()).await);
    async fn steps(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        for _ in 0..5 {
            context.sleep(Duration::from_millis(200)).await?;
            context.step("step", || async { Ok::<_, TaskError>(()) }).await?;
        }
        Ok(number)
    }
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(3));
    let runtime = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
        .workflow("steps", steps)
        .start()
        .await
        .unwrap();
    let mut runs = Vec::new();
    for number in 0..20_u32 {
        runs.push((number, runtime.start("steps", &number).await.unwrap()));
    }
    let reload = |value: &str| {
        server.sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        server.sql("SELECT pg_reload_conf()");
    };
    reload("on");
    #[allow(clippy::disallowed_methods, reason = "the real server is in this state meanwhile")]
    tokio::time::sleep(Duration::from_secs(1)).await;
    reload("off");
    server.kill();
    server.revive();
    for (number, run) in &runs {
        let ended = tokio::time::timeout(PATIENCE * 3, run.result::<u32>()).await.unwrap();
        assert_eq!(ended.unwrap(), *number);
        let done = actions(run).await.iter().filter(|it| *it == "step_completed").count();
        assert_eq!(done, 5);
    }
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}
