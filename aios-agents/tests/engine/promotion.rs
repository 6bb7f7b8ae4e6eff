//! A standby takes the place of the PostgreSQL server on which an engine runs.

use std::{
    sync::{Arc, Mutex, atomic::AtomicU32},
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::MemoryBroker;
use aios_tests::postgres::PostgresServer;

use crate::support::workflows::{Doubler, PATIENCE, actions, eventually, postgres};

const RUNS: u32 = 10;

async fn steps(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    for round in 0..5_u64 {
        context.sleep(Duration::from_millis(300)).await?;
        context.task::<u64>("doubler", &round).await?;
        context.step("step", || async { Ok::<_, TaskError>(()) }).await?;
    }
    context.signal::<()>("end").await?;
    Ok(number)
}

fn engine(store: &Arc<dyn Store>) -> RuntimeBuilder {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(3));
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::new(MemoryBroker::new()))
        .engine_options(options)
        .agent("doubler", Doubler(Arc::new(AtomicU32::new(0))))
        .workflow("steps", steps)
}

/// The server dies. Its read-only standby listens in its place until it is promoted. Confirmed data
/// is kept, nothing is repeated, and every run ends.
#[tokio::test(flavor = "multi_thread")]
async fn should_continue_once_the_standby_is_promoted() {
    let Some(server) = PostgresServer::start() else { return };
    let store: Arc<dyn Store> = Arc::new(postgres(&server.url()).await);
    let mut standby = server.standby();
    let runtime = engine(&store).start().await.unwrap();
    let mut runs = Vec::new();
    for number in 0..RUNS {
        runs.push(runtime.start("steps", &number).await.unwrap());
    }
    eventually("a step is recorded", || async { actions(&runs[0]).await.len() > 5 }).await;
    server.kill();
    standby.take_place_of(&server);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    let signaled = runs[0].signal("end", &()).await;
    assert!(signaled.is_err_and(|error| error.is_retryable()));
    standby.promote();
    for (number, run) in (0..).zip(&runs) {
        eventually("signals are taken", || async { run.signal("end", &()).await.is_ok() }).await;
        let ended = tokio::time::timeout(PATIENCE * 3, run.result::<u32>()).await.unwrap();
        assert_eq!(ended.unwrap(), number);
        let done = actions(run).await.iter().filter(|it| *it == "step_completed").count();
        assert_eq!(done, 5);
    }
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A process does not start on a standby, and reports that the failure is temporary. Once the
/// standby is promoted, it starts, and its engine does what is left.
#[tokio::test(flavor = "multi_thread")]
async fn should_start_on_a_standby_once_it_is_promoted() {
    let Some(server) = PostgresServer::start() else { return };
    let store = aios_store::connect(&server.url()).await.unwrap();
    let first = engine(&store).start().await.unwrap();
    let run = first.start("steps", &7_u32).id("r").await.unwrap();
    eventually("a step is recorded", || async { actions(&run).await.len() > 5 }).await;
    let standby = server.standby();
    first.shutdown(PATIENCE).await.unwrap();
    server.stop("fast");
    let refused = aios_store::connect(&standby.url()).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    standby.promote();
    let store = aios_store::connect(&standby.url()).await.unwrap();
    let second = Mutex::new(None);
    eventually("it starts", || async {
        let started = engine(&store).start().await;
        started.is_ok_and(|runtime| second.lock().unwrap().replace(runtime).is_none())
    })
    .await;
    let second = second.into_inner().unwrap().unwrap();
    let run = second.handle("r").await.unwrap();
    run.signal("end", &()).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE * 3, run.result::<u32>()).await.unwrap().unwrap(), 7);
    assert_eq!(second.failure(), None);
    second.shutdown(PATIENCE).await.unwrap();
}
