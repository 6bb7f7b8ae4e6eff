//! User code that panics in unexpected places affects nothing else.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use aios_agents::{
    prelude::*,
    projection::{Batch, Projection},
};
use aios_core::store::{Append, StreamId};
use serde::{Deserialize, Serialize, Serializer};

use crate::support::workflows::{PATIENCE, eventually, quick, result, runtime, sqlite, store};

/// Panics when it is serialised.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
struct Grenade;

impl Serialize for Grenade {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("written")
    }
}

/// Panics when it is formatted.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("printed")
    }
}

impl std::error::Error for Unspeakable {}

async fn healthy(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.step("one", || async { Ok::<_, TaskError>(1) }).await
}

async fn ends(run: &RunHandle) -> (String, String) {
    let error = result::<serde_json::Value>(run).await.unwrap_err();
    (error.code().to_owned(), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_run_whose_values_panic_and_leave_others_alone() {
    async fn result_of_step(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        let call = context.step("boom", || async { Ok::<_, TaskError>(Grenade) });
        call.retry(quick(2)).await?;
        Ok(())
    }
    async fn result_of_run(_: WorkflowContext, (): ()) -> Result<Grenade, WorkflowError> {
        Ok(Grenade)
    }
    async fn error_of_step(context: WorkflowContext, (): ()) -> Result<(), WorkflowError> {
        let call = context.step("boom", || async { Err::<(), _>(Unspeakable) });
        call.retry(quick(2)).await
    }
    for store in [store(), sqlite().await] {
        let runtime = runtime(&store)
            .workflow("result_of_step", result_of_step)
            .workflow("result_of_run", result_of_run)
            .workflow("error_of_step", error_of_step)
            .workflow("healthy", healthy)
            .start()
            .await
            .unwrap();
        for (name, panic) in [
            ("result_of_step", "written"),
            ("result_of_run", "written"),
            ("error_of_step", "printed"),
        ] {
            let run = runtime.start(name, &()).await.unwrap();
            let (code, text) = ends(&run).await;
            assert!(text.contains(panic), "{name}: {code}: {text}");
            assert!(!run.status().await.unwrap().status.as_str().contains("running"), "{name}");
        }
        let run = runtime.start("healthy", &()).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 1);
        assert_eq!(runtime.failure(), None);
    }
}

struct Writes;

impl Agent for Writes {
    type Parameters = ();
    type Output = Grenade;

    async fn process_task(&self, _: &TaskContext, (): ()) -> Result<Grenade, TaskError> {
        Ok(Grenade)
    }
}

struct Fails;

impl Agent for Fails {
    type Parameters = ();
    type Output = ();

    async fn process_task(&self, _: &TaskContext, (): ()) -> Result<(), TaskError> {
        Err(Unspeakable.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_a_task_whose_values_panic() {
    let runtime = runtime(&store()).agent("writes", Writes).agent("fails", Fails);
    let runtime = runtime.start().await.unwrap();
    for (agent, panic) in [("writes", "written"), ("fails", "printed")] {
        let run = runtime.task(agent, &()).retry(quick(2)).await.unwrap();
        let (code, text) = ends(&run).await;
        assert!(text.contains(panic), "{agent}: {code}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_an_event_at_which_a_projection_panics() {
    let store = store();
    let runtime = runtime(&store).start().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let adding = Arc::clone(&seen);
    let apply = move |batch: Batch| {
        let numbers: Vec<u64> =
            batch.events().iter().map(|recorded| recorded.event.data().unwrap()).collect();
        assert!(!numbers.contains(&2), "two is bad");
        adding.lock().unwrap().extend(numbers);
        std::future::ready(Ok::<(), TaskError>(()))
    };
    fn projection(
        apply: impl Fn(Batch) -> std::future::Ready<Result<(), TaskError>> + Send + Sync + 'static,
    ) -> impl Projection {
        apply
    }
    let handle = runtime
        .projection("orders", projection(apply))
        .patterns(["orders.#".parse().unwrap()])
        .retry(quick(2))
        .await
        .unwrap();
    for number in 1..=3_u64 {
        let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &number).unwrap();
        let append = Append::new(StreamId::new("orders/1").unwrap(), vec![event]);
        store.append_one(append).await.unwrap();
    }
    eventually("it continues", || async { *seen.lock().unwrap() == [1, 3] }).await;
    let letters = handle.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(format!("{letters:?}").contains("two is bad"), "{letters:?}");
    runtime.shutdown(PATIENCE).await.unwrap();
}
