//! The details of failures keep every character, whatever they pass through.

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_core::{
    event::Payload,
    store::{PageRequest, TaskFilter},
};

use crate::support::workflows::{eventually, result, runtime, sqlite, store};

/// Numbers that no Rust type represents, and the ways to write others.
const DETAILS: &str = r#"{"order":12345678901234567890123,"far":1e400,"near":0.1000000000000000055,"one":1.00,"z":-0}"#;

fn failure() -> Failure {
    let details = Payload::from_text(DETAILS.to_owned()).unwrap();
    Failure::new("SOLD_OUT", "no tea is left").with_details(details)
}

struct Seller;

impl Agent for Seller {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, _: &TaskContext, (): ()) -> Result<(), TaskError> {
        Err(TaskError::terminal(failure()))
    }
}

/// Fails in one of the ways in which a run can fail.
async fn fails(context: WorkflowContext, way: String) -> Result<(), WorkflowError> {
    match way.as_str() {
        "code" => Err(WorkflowError::failed(failure())),
        "task" => context.task("seller", &()).await,
        "step" => {
            let step = || async { Err::<(), _>(TaskError::terminal(failure())) };
            context.step("sell", step).await
        }
        "child" => context.child("fails", "task").await,
        "compensation" | "field" => {
            context.compensate("undo", move |context| async move {
                if way == "field" {
                    return context.set_failure_detail("more", &failure().details);
                }
                context.task("seller", &()).await
            });
            Err(WorkflowError::failed(failure()))
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_keep_the_details_of_failures_character_by_character() {
    for store in [store(), sqlite().await] {
        let build = || runtime(&store).workflow("fails", fails).agent("seller", Seller);
        let runtime = build().start().await.unwrap();
        for way in ["code", "task", "step", "child", "compensation", "field"] {
            let run = runtime.start("fails", way).id(way).await.unwrap();
            let failed = result::<()>(&run).await.unwrap_err();
            let nested = |whole: String| match way {
                "compensation" => {
                    assert!(whole.starts_with(&format!(r#"{{"cause":{DETAILS},"#)), "{whole}");
                    let failed = r#""failed_compensations":[{"compensation":"undo","failure":"#;
                    assert!(whole.contains(failed), "{whole}");
                    whole.matches(DETAILS).count() == 2
                }
                "field" => {
                    whole == format!(r#"{},"more":{DETAILS}}}"#, &DETAILS[..DETAILS.len() - 1])
                }
                _ => whole == DETAILS,
            };
            assert!(nested(failed.failure().unwrap().details.to_string()), "{way}: {failed:?}");
            let row = run.status().await.unwrap();
            assert!(nested(row.failure.unwrap().details.to_string()), "{way}");
            let journal = run.journal(0, 100).await.unwrap();
            let end = journal.last().unwrap().event.payload.as_str().to_owned();
            assert!(end.contains(DETAILS) || way == "field", "{way}: {end}");
        }
        let tasks = store.tasks(&TaskFilter::default(), &PageRequest::default()).await.unwrap();
        assert_eq!(tasks.rows.len(), 3);
        for task in tasks.rows {
            assert_eq!(task.failure.unwrap().details.as_str(), DETAILS);
        }
        store.rebuild().await.unwrap();
        let row = runtime.handle("child").await.unwrap().status().await.unwrap();
        assert_eq!(row.failure.unwrap().details.as_str(), DETAILS);
    }
}

/// A run whose blocked code can't be represented by a value is cancelled with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_failure_of_a_blocked_run_that_is_cancelled() {
    let store: Arc<dyn Store> = store();
    let code = |_: WorkflowContext, (): ()| async { aios_agents::workflow::block(failure()) };
    let block = move |context, input| async move {
        let outcome: Result<(), WorkflowError> = code(context, input).await;
        outcome
    };
    let runtime = runtime(&store).workflow("blocks", block).start().await.unwrap();
    let run = runtime.start("blocks", &()).await.unwrap();
    let error = result::<()>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap(), &failure());
    run.cancel("hopeless").await.unwrap();
    eventually("it is cancelled", || async {
        run.status().await.unwrap().status.as_str() == "cancelled"
    })
    .await;
    let details = run.status().await.unwrap().failure.unwrap().details;
    let blocked = format!(
        r#"{{"blocked":{{"code":"SOLD_OUT","message":"no tea is left","details":{DETAILS}}}}}"#
    );
    assert_eq!(details.as_str(), blocked);
}
