//! Journals that released versions wrote, replayed indefinitely against the code that wrote them.
//!
//! A journal here is never changed. New ones are added with a new version, in a separate folder.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aios_agents::{
    prelude::*,
    testing::{ReplayError, replay},
    workflow::{FnWorkflow, Workflow},
};
use aios_core::event::Event;

use crate::support::workflows::quick;

/// Uses every operation there is.
async fn everything(context: WorkflowContext, ends: String) -> Result<String, WorkflowError> {
    context.set_progress("beginning", &0.1)?;
    context.emit(Event::new("shop.order.placed".parse()?, "shop", &7)?)?;
    let doubled: u64 = context.task("doubler", &21).timeout(Duration::from_secs(60)).await?;
    context.compensate("refund", |context| async move {
        context.step("refund", || async { Ok::<_, TaskError>(()) }).await
    });
    let mut attempts = 0;
    let flaky =
        context.step("flaky", move || {
            attempts += 1;
            async move {
                if attempts < 2 { Err("not yet".into()) } else { Ok::<_, TaskError>(attempts) }
            }
        });
    flaky.retry(quick(3)).await?;
    context.sleep(Duration::from_millis(1)).await?;
    let said: String = context.signal("word").await?;
    let late = context.signal::<u32>("never").timeout(Duration::from_millis(1)).await;
    let child: u64 = context.child("child", &doubled).await?;
    let version = context.version("greeting", 1..=2)?;
    let drawn = (context.now(), context.uuid(), context.random());
    let winner = tokio::select! {
        biased;
        first = context.task::<u64>("doubler", &1) => first?,
        second = context.sleep(Duration::from_secs(3600)) => { second?; 0 }
    };
    let kept = format!("{said} {child} {version} {winner} {} {}", late.is_err(), drawn.1);
    match ends.as_str() {
        "failed" => Err("as told".into()),
        "cancelled" => context.signal("never").await,
        "continued" => Err(WorkflowError::continue_as_new("completed")),
        _ => Ok(kept),
    }
}

fn workflow() -> Arc<dyn Workflow> {
    Arc::new(FnWorkflow::new("everything", everything).unwrap())
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/journals")
}

fn journals() -> Vec<(String, Vec<Event>)> {
    let mut journals = Vec::new();
    for version in std::fs::read_dir(folder()).unwrap() {
        for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let lines = std::fs::read_to_string(&path).unwrap();
            let events = lines.lines().map(|line| Event::from_json(line).unwrap()).collect();
            journals.push((path.display().to_string(), events));
        }
    }
    journals
}

#[tokio::test]
async fn should_replay_the_journals_of_every_released_version() {
    let journals = journals();
    assert!(journals.len() >= 4, "{journals:?}");
    for (name, events) in &journals {
        replay(workflow(), events).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

#[tokio::test]
async fn should_notice_code_that_does_not_fit_the_journals_of_released_versions() {
    async fn other(context: WorkflowContext, _: String) -> Result<String, WorkflowError> {
        context.task("tripler", &21).await
    }
    for (name, events) in journals() {
        let other: Arc<dyn Workflow> = Arc::new(FnWorkflow::new("everything", other).unwrap());
        let error = replay(other, &events).await.unwrap_err();
        assert!(matches!(error, ReplayError::Blocked(_)), "{name}: {error:?}");
    }
}
