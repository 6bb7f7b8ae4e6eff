use std::sync::Arc;

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;

use crate::support::workflows::{PATIENCE, eventually, result, runtime, sqlite, store};

async fn patient(context: WorkflowContext, steps: u64) -> Result<u64, WorkflowError> {
    for number in 0..steps {
        context.step("count", || async move { Ok::<_, TaskError>(number) }).await?;
    }
    context.signal("go").await
}

/// Follows a run to its end.
async fn followed(run: &RunHandle, after: u64) -> Vec<(u64, String)> {
    let mut events = run.events(after);
    let mut all = Vec::new();
    let reading = async {
        while let Some(recorded) = events.next().await.unwrap() {
            all.push((recorded.version, recorded.event.event_type.action().to_owned()));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the events should end with the run");
    assert!(events.next().await.unwrap().is_none(), "the end stays the end");
    all
}

async fn check(store: Arc<dyn Store>) {
    let runtime = runtime(&store).workflow("patient", patient).start().await.unwrap();
    let other = runtime.start("patient", &3_u64).await.unwrap();
    let run = runtime.start("patient", &700_u64).id("r1").await.unwrap();
    let following = tokio::spawn({
        let run = run.clone();
        async move { followed(&run, 0).await }
    });
    // Another process without an engine follows it as well.
    let client = Runtime::builder()
        .store(Arc::clone(&store))
        .broker(Arc::new(MemoryBroker::new()))
        .client_only()
        .start()
        .await
        .unwrap();
    let distant = client.handle("r1").await.unwrap();
    let distant = tokio::spawn(async move { followed(&distant, 2).await });
    eventually("the steps should be recorded", || async {
        run.journal(0, 1000).await.unwrap().len() >= 701
    })
    .await;
    run.signal("go", &7_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 7);
    let all = following.await.unwrap();
    let versions: Vec<_> = all.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (1..=703).collect::<Vec<_>>());
    assert_eq!(all.first().unwrap().1, "started");
    assert_eq!(all.last().unwrap().1, "completed");
    assert_eq!(distant.await.unwrap(), all[2..]);
    // A run that has ended is read to its end from any position.
    for after in [0, 1, 702, 703, 9000] {
        let rest = all.iter().skip(after).cloned().collect::<Vec<_>>();
        assert_eq!(followed(&run, after as u64).await, rest, "after {after}");
    }
    other.cancel("enough").await.unwrap();
    assert_eq!(followed(&other, 0).await.last().unwrap().1, "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_one_run_to_its_end_in_memory() {
    check(store()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_one_run_to_its_end_on_sqlite() {
    check(sqlite().await).await;
}

async fn thrice(_: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    if number < 3 { Err(WorkflowError::continue_as_new(&(number + 1))) } else { Ok(number) }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_with_the_event_that_names_the_next_run() {
    let runtime = runtime(&store()).workflow("thrice", thrice).start().await.unwrap();
    let run = runtime.start("thrice", &1_u64).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 3);
    assert_eq!(followed(&run, 0).await.last().unwrap().1, "continued");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_a_run_that_does_not_exist() {
    let runtime = runtime(&store()).workflow("thrice", thrice).start().await.unwrap();
    let error = runtime.handle("missing").await.unwrap_err();
    assert_eq!(error.code(), "RUN_NOT_FOUND");
}
