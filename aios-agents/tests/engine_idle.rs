//! The queries of engines that have nothing to do.

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    clock::{Clock, SystemClock},
    store::RunStatus,
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

use crate::workflow_support::{PATIENCE, eventually};

/// Queries that an idle engine may send per minute.
const MOST: u64 = 60;
/// How long queries are counted, as a part of a minute.
const PART: u64 = 3;

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

/// The transactions of all connections to a server. Every query of an idle engine is one.
fn transactions(server: &PostgresServer) -> u64 {
    let sum = "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database";
    server.sql(sum).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "53 to 68 a minute and engine were counted, including the pings of the pool"]
async fn should_send_few_queries_while_nothing_happens() {
    let Some(server) = PostgresServer::start() else { return };
    let broker = Arc::new(MemoryBroker::new());
    let engine = || async {
        let options = PostgresOptions::new(&server.url()).unwrap();
        let store = PostgresStore::connect_with(options).await.unwrap();
        let builder = Runtime::builder().store(Arc::new(store)).broker(Arc::clone(&broker) as _);
        builder.workflow("wait", wait).start().await.unwrap()
    };
    let engines = [engine().await, engine().await];
    let run = engines[0].start("wait", &()).await.unwrap();
    let waits = || async { run.status().await.unwrap().status == RunStatus::Running };
    eventually("the run waits", waits).await;
    // Notes of waiting runs, and statistics of the first queries, come with a delay.
    SystemClock.sleep(Duration::from_secs(15)).await;
    let first = transactions(&server);
    let before = transactions(&server);
    SystemClock.sleep(Duration::from_secs(60 / PART)).await;
    // The count costs some itself.
    let queries = (transactions(&server) - before).saturating_sub(before - first);
    let most = MOST / PART * 2;
    println!("{queries} queries of two engines in {} s", 60 / PART);
    assert!(queries <= most, "{queries} queries, more than {most}");
    for engine in engines {
        engine.shutdown(PATIENCE).await.unwrap();
    }
}
