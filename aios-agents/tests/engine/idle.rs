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

use crate::support::workflows::{PATIENCE, eventually};

/// Statements that an idle engine may send per minute.
const MOST: usize = 60;
/// How long statements are counted, as a part of a minute.
const PART: usize = 2;

async fn wait(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal("go").await
}

/// The statements that clients have sent to a server, in the words of its log.
fn statements(server: &PostgresServer) -> Vec<String> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| {
        let (_, statement) = line.split_once(" LOG:  ")?;
        let is_one = statement.starts_with("statement: ") || statement.starts_with("execute ");
        is_one.then(|| statement.to_owned())
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_few_statements_while_nothing_happens() {
    let Some(server) = PostgresServer::start_with(&["log_statement=all"]) else { return };
    let broker = Arc::new(MemoryBroker::new());
    let engine = || async {
        let options = PostgresOptions::new(&server.url());
        let store = PostgresStore::connect_with(options).await.unwrap();
        let builder = Runtime::builder().store(Arc::new(store)).broker(Arc::clone(&broker) as _);
        builder.workflow("wait", wait).start().await.unwrap()
    };
    let engines = [engine().await, engine().await];
    let run = engines[0].start("wait", &()).await.unwrap();
    let waits = || async { run.status().await.unwrap().status == RunStatus::Running };
    eventually("the run waits", waits).await;
    // Shards move to the second engine, and the wait of the run is noted, after a while.
    SystemClock.sleep(Duration::from_secs(15)).await;
    let before = statements(&server).len();
    SystemClock.sleep(Duration::from_secs(60) / u32::try_from(PART).unwrap()).await;
    let sent = statements(&server).split_off(before);
    assert!(!sent.is_empty(), "the log has the statements");
    assert!(sent.len() <= MOST / PART * engines.len(), "{}: {sent:#?}", sent.len());
    for engine in engines {
        engine.shutdown(PATIENCE).await.unwrap();
    }
}
