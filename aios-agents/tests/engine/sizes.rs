//! Data at and beyond the size limits of store and broker, at each place where it enters. It is
//! refused at the call, or the operation fails, or the run is blocked. The code is always the same,
//! and the engine continues.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    agent::TaskClient,
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_broker::memory::{MemoryBroker, MemoryOptions as BrokerOptions};
use aios_core::{
    clock::SystemClock,
    event::Metadata,
    failure::Failure,
    store::{PageRequest, RunFilter},
};
use aios_store::{
    memory::{MemoryOptions, MemoryStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::workflows::{PATIENCE, quick, result};

/// The largest event that the store accepts, in bytes.
pub(crate) const LIMIT: usize = 8_000;
/// Sizes of a text: well below the limit, around it, and beyond.
const SIZES: [usize; 7] =
    [LIMIT / 2, LIMIT - 600, LIMIT - 300, LIMIT - 100, LIMIT, LIMIT + 1, LIMIT * 3];
const TOO_LARGE: &str = "EVENT_TOO_LARGE";

/// Where a text enters a run.
const PLACES: [&str; 16] = [
    "step",
    "step_name",
    "step_error",
    "step_retried",
    "task",
    "task_result",
    "task_error",
    "emit",
    "status",
    "progress",
    "version",
    "child",
    "child_result",
    "child_error",
    "result",
    "error",
];

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    place: String,
    size: usize,
}

fn text(size: usize) -> String {
    "x".repeat(size)
}

fn failure(size: usize) -> Failure {
    Failure::new("LARGE", text(size))
}

async fn handles(context: WorkflowContext, order: Order) -> Result<String, WorkflowError> {
    let Order { place, size } = order;
    let step = |retryable: bool| {
        let code = move || async move {
            match retryable {
                true => Err::<String, _>(TaskError::retryable(failure(size))),
                false => Err(TaskError::terminal(failure(size))),
            }
        };
        context.step("fails", code).retry(quick(2))
    };
    let ask = |kind: &str| json!({ "kind": kind, "size": size });
    match &*place {
        "step" => drop(context.run("large", || async { text(size) }).await?),
        "step_name" => context.run(text(size), || async {}).await?,
        "step_error" => drop(step(false).await?),
        "step_retried" => drop(step(true).await?),
        "task" => drop(context.task::<String>("texts", &json!({ "pad": text(size) })).await?),
        "task_result" => drop(context.task::<String>("texts", &ask("result")).await?),
        "task_error" => drop(context.task::<String>("texts", &ask("error")).await?),
        "emit" => context.emit(Event::new("shop.order.placed".parse()?, "test", &text(size))?)?,
        "status" => context.set_status(text(size)),
        "progress" => context.set_progress("half", &text(size))?,
        "version" => drop(context.version(text(size), 1..=1)?),
        "child" => drop(context.child::<String>("echo", &text(size)).await?),
        "child_result" | "child_error" => {
            let place = place.trim_start_matches("child_").to_owned();
            drop(context.child::<String>("handles", &Order { place, size }).await?);
        }
        "error" => return Err(WorkflowError::failed(failure(size))),
        _ => return Ok(text(size)),
    }
    context.run("after", || async {}).await?;
    Ok("done".to_owned())
}

async fn echo(_: WorkflowContext, text: String) -> Result<String, WorkflowError> {
    Ok(text)
}

struct Texts;

impl Agent for Texts {
    type Parameters = serde_json::Value;
    type Output = String;

    async fn process_task(
        &self,
        _: &TaskContext,
        asked: serde_json::Value,
    ) -> Result<String, TaskError> {
        let size = asked["size"].as_u64().and_then(|size| size.try_into().ok()).unwrap_or_default();
        match asked["kind"].as_str() {
            Some("error") => Err(TaskError::terminal(failure(size))),
            _ => Ok(text(size)),
        }
    }
}

fn build(store: &Arc<dyn Store>, broker: &Arc<dyn Broker>) -> RuntimeBuilder {
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(4));
    Runtime::builder()
        .store(Arc::clone(store))
        .broker(Arc::clone(broker))
        .engine_options(options)
        .agent("texts", Texts)
        .workflow("handles", handles)
        .workflow("echo", echo)
}

async fn ended(run: &RunHandle) -> String {
    match result::<String>(run).await {
        Ok(_) => "OK".to_owned(),
        Err(RunError::Blocked { failure, .. }) => format!("blocked {}", failure.code),
        Err(error) => error.code().to_owned(),
    }
}

/// How a run may end whose data is small, and one whose data is too large.
fn outcomes(place: &str) -> (&'static str, &'static str) {
    match place {
        // What remains of the reason fits.
        "step_error" | "step_retried" | "task_error" | "error" | "child_error" => {
            ("LARGE", "LARGE")
        }
        "task" | "emit" | "status" | "progress" | "version" | "child" => {
            ("OK", "blocked EVENT_TOO_LARGE")
        }
        _ => ("OK", TOO_LARGE),
    }
}

/// Every place and every size, on a store that takes events of [`LIMIT`] bytes.
pub(crate) async fn takes_every_size(store: Arc<dyn Store>) {
    let runtime = build(&store, &(Arc::new(MemoryBroker::new()) as _)).start().await.unwrap();
    let mut wrong = Vec::new();
    for place in PLACES {
        let (small, large) = outcomes(place);
        for size in SIZES {
            let order = Order { place: place.to_owned(), size };
            let run = runtime.start("handles", &order).await.unwrap();
            let ended = ended(&run).await;
            let expected: &[&str] = match size {
                _ if size <= LIMIT / 2 => &[small],
                _ if size > LIMIT => &[large],
                // The start of a child is larger than its record in the parent's journal.
                _ => &[small, large, TOO_LARGE],
            };
            if !expected.contains(&&*ended) {
                wrong.push(format!("{place} of {size} bytes: {ended}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// The reason of a block names what is too large, and the operation that it belongs to.
#[tokio::test(flavor = "multi_thread")]
async fn should_say_which_operation_is_too_large() {
    let runtime = build(&memory(), &(Arc::new(MemoryBroker::new()) as _)).start().await.unwrap();
    for (place, subject) in [
        ("task", "the task of operation 1"),
        ("emit", "event shop.order.placed of operation 1"),
        ("status", "the status of operation 1"),
        ("version", "the version of a change"),
        ("child", "the child of operation 1"),
        ("step", "the result of operation 1"),
        ("task_result", "the result of operation 1"),
        ("result", "the result"),
    ] {
        let order = Order { place: place.to_owned(), size: LIMIT * 3 };
        let run = runtime.start("handles", &order).await.unwrap();
        let error = result::<String>(&run).await.unwrap_err();
        let message = &error.failure().unwrap().message;
        assert!(message.contains(&format!("{subject} is ")), "{place}: {message}");
    }
}

fn memory() -> Arc<dyn Store> {
    let options = MemoryOptions::new().with_max_event_bytes(LIMIT);
    Arc::new(MemoryStore::connect_with(options).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_or_block_with_a_code_when_data_is_too_large() {
    takes_every_size(memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_or_block_with_a_code_when_data_is_too_large_on_sqlite() {
    let options = SqliteOptions::memory().with_max_event_bytes(LIMIT);
    takes_every_size(Arc::new(SqliteStore::connect_with(options).await.unwrap())).await;
}

/// The limit of the broker is below that of the store.
#[tokio::test(flavor = "multi_thread")]
async fn should_fail_what_the_broker_finds_too_large() {
    let options = BrokerOptions::new().with_max_event_bytes(LIMIT);
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::connect_with(options).unwrap());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = build(&store, &broker).start().await.unwrap();
    let caller = TaskClient::new(Arc::clone(&broker), Arc::new(SystemClock), "test").await.unwrap();
    for place in ["task", "task_result", "task_error", "emit", "step"] {
        for size in SIZES {
            let order = Order { place: place.to_owned(), size };
            let run = runtime.start("handles", &order).await.unwrap();
            let ended = ended(&run).await;
            let small = if place == "task_error" { "LARGE" } else { "OK" };
            let large = match place {
                "task" | "task_result" => TOO_LARGE,
                // Shortened.
                "task_error" => small,
                _ => "OK",
            };
            let expected: &[&str] = match size {
                _ if size <= LIMIT / 2 => &[small],
                _ if size > LIMIT => &[large],
                _ => &[small, large],
            };
            assert!(expected.contains(&&*ended), "{place} of {size} bytes: {ended}");
        }
    }
    let error = caller.task("texts", &json!({ "pad": text(LIMIT) })).await.unwrap_err();
    assert_eq!((error.failure.code.as_str(), error.retryable), (TOO_LARGE, false));
    let error = caller.task("texts", &json!({ "kind": "x", "size": LIMIT })).await.unwrap_err();
    assert_eq!((error.failure.code.as_str(), error.retryable), (TOO_LARGE, false));
    assert_eq!(runtime.failure(), None);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// Every event of a run carries the metadata of its start. Metadata that would leave no room for
/// other data is refused at the start.
#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_metadata_that_leaves_no_room() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = build(&store, &(Arc::new(MemoryBroker::new()) as _)).start().await.unwrap();
    let with = |size: usize| {
        let mut metadata = Metadata::default();
        metadata.extra.insert("tenant", &text(size)).unwrap();
        metadata
    };
    let order = Order { place: "step".to_owned(), size: 10 };
    for size in [1, 1_000, 60_000] {
        let run = runtime.start("handles", &order).metadata(with(size)).await.unwrap();
        assert_eq!(ended(&run).await, "OK", "{size}");
    }
    for size in [65_536, 1 << 20, 17 << 20] {
        let error = runtime.start("handles", &order).metadata(with(size)).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_RUNTIME_CONFIGURATION", "{size}");
        assert!(error.to_string().contains("65536"), "{error}");
    }
    let (all, first) = (RunFilter::default(), PageRequest::first(100));
    assert_eq!(store.runs(&all, &first).await.unwrap().rows.len(), 3, "nothing else was started");
    runtime.shutdown(PATIENCE).await.unwrap();
}
