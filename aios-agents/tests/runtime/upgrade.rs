//! Runs that an earlier version left in its database continue and end.

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_core::store::{PageRequest, RunFilter};
use aios_store::{postgres::PostgresStore, sqlite::SqliteStore};
use aios_tests::postgres::PostgresServer;

use crate::support::workflows::{Doubler, result, runtime};

const SQLITE: &str = include_str!("../../../aios-store/tests/fixture/old/sqlite.sql");
const POSTGRES: &str = include_str!("../../../aios-store/tests/fixture/old/postgres.sql");

/// Records the value that it drew, and compares it with the value drawn in a replay.
async fn waiter(context: WorkflowContext, number: u64) -> Result<String, WorkflowError> {
    context.set_progress("waits", &number)?;
    context.emit(Event::new("shop.order.placed".parse()?, "shop", &number)?)?;
    let doubled: u64 = context.task("doubler", &number).await?;
    let drawn = context.uuid().to_string();
    let draw = || async { Ok::<_, TaskError>(drawn.clone()) };
    let kept: String = context.step("draw", draw).await?;
    let said: String = context.signal("go").await?;
    let last: u64 = context.step("keep", || async { Ok::<_, TaskError>(1) }).await?;
    Ok(format!("{doubled} {} {said} {last}", kept == drawn))
}

async fn timed(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    context.sleep(Duration::from_secs(3)).await?;
    context.step("late", || async { Ok::<_, TaskError>(7) }).await
}

async fn asker(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task("late", &number).await
}

async fn parent(context: WorkflowContext, number: u64) -> Result<String, WorkflowError> {
    context.child("waiter", &number).await
}

async fn chain(context: WorkflowContext, left: u64) -> Result<String, WorkflowError> {
    match left {
        0 => context.signal("go").await,
        _ => Err(WorkflowError::continue_as_new(&(left - 1))),
    }
}

async fn quick(_: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    Ok(number)
}

async fn failing(_: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
    Err("as told".into())
}

async fn open(store: &Arc<dyn Store>) -> Runtime {
    runtime(store)
        .agent("doubler", Doubler::default())
        .agent("late", Doubler::default())
        .workflow("waiter", waiter)
        .workflow("timed", timed)
        .workflow("asker", asker)
        .workflow("parent", parent)
        .workflow("chain", chain)
        .workflow("quick", quick)
        .workflow("failing", failing)
        .start()
        .await
        .unwrap()
}

async fn check(store: Arc<dyn Store>) {
    let runtime = open(&store).await;
    let run = async |id: &str| runtime.handle(id).await.unwrap();
    run("paused").await.resume().await.unwrap();
    for (id, doubled) in [
        ("waits", 2),
        ("correlated", 4),
        ("paused", 6),
        ("0198c0de-0000-7000-8000-00000000abcd", 12),
        ("forked", 2),
    ] {
        let run = run(id).await;
        run.signal("go", "on").await.unwrap();
        assert_eq!(result::<String>(&run).await.unwrap(), format!("{doubled} true on 1"), "{id}");
    }
    assert_eq!(result::<u64>(&run("timed").await).await.unwrap(), 7);
    assert_eq!(result::<u64>(&run("asks").await).await.unwrap(), 8);
    run("parent.1").await.signal("go", "on").await.unwrap();
    assert_eq!(result::<String>(&run("parent").await).await.unwrap(), "10 true on 1");
    run("chain").await.signal("go", "on").await.unwrap();
    assert_eq!(result::<String>(&run("chain").await).await.unwrap(), "on");
    for (id, number) in [("done", 9), ("late-cancel", 8), ("late-pause", 8), ("late-resume", 8)] {
        let run = run(id).await;
        assert_eq!(result::<u64>(&run).await.unwrap(), number, "{id}");
        assert_eq!(run.signal("go", "on").await.unwrap_err().code(), "RUN_ENDED", "{id}");
        assert_eq!(run.cancel("late").await.unwrap_err().code(), "RUN_ENDED", "{id}");
    }
    let runs = store.runs(&RunFilter::default(), &PageRequest::first(100)).await.unwrap().rows;
    let open: Vec<_> = runs.iter().filter(|row| !row.status.is_final()).collect();
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(runs.len(), 19, "no run was started again");
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// The database that the earlier version left, in a folder.
async fn sqlite() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aios.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(SQLITE).unwrap();
    let store = SqliteStore::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    (folder, Arc::new(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_the_runs_of_an_earlier_version_on_sqlite() {
    let (_folder, store) = sqlite().await;
    check(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_the_runs_of_an_earlier_version_on_postgresql() {
    let Some(server) = PostgresServer::start() else { return };
    server.script(POSTGRES);
    check(Arc::new(PostgresStore::connect(&server.url()).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_cancel_and_fork_runs_of_an_earlier_version() {
    let (_folder, store) = sqlite().await;
    let runtime = open(&store).await;
    let run = async |id: &str| runtime.handle(id).await.unwrap();
    run("parent").await.cancel("enough").await.unwrap();
    for id in ["parent", "parent.1"] {
        let ended = result::<String>(&run(id).await).await;
        assert!(matches!(ended, Err(RunError::Cancelled { .. })), "{id}: {ended:?}");
    }
    let waits = run("waits").await;
    waits.signal("go", "on").await.unwrap();
    result::<String>(&waits).await.unwrap();
    let fork = waits.fork(6, "forked now").await.unwrap();
    assert_eq!(result::<String>(&fork).await.unwrap(), "2 true on 1");
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
}
