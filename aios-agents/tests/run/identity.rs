//! The identity of runs: ids, children, idempotent starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aios_agents::{
    prelude::*,
    testing::{WorkflowTest, replay},
    workflow::{FnWorkflow, StepContext},
};
use aios_core::{
    event::{Event, EventId},
    store::{Append, EventStoreExt, StreamId},
};
use serde_json::json;

use crate::support::workflows::{PATIENCE, actions, eventually, result, runtime, store};

async fn child(_: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    Ok(number)
}

async fn secret(_: WorkflowContext, _: u32) -> Result<u32, WorkflowError> {
    Ok(1234)
}

/// Starts a child under a given id, or under a derived one.
async fn parent(context: WorkflowContext, id: Option<String>) -> Result<u32, WorkflowError> {
    let call = context.child("child", &7);
    match id {
        Some(id) => call.id(id).await,
        None => call.await,
    }
}

async fn grandparent(context: WorkflowContext, id: String) -> Result<u32, WorkflowError> {
    context.child("parent", &Some(id)).id("between").await
}

async fn again(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
    context.step("round", || async { Ok::<_, TaskError>(()) }).await?;
    if round < 3 { Err(WorkflowError::continue_as_new(&(round + 1))) } else { Ok(round) }
}

async fn all(store: &std::sync::Arc<dyn Store>) -> Runtime {
    runtime(store)
        .workflow("child", child)
        .workflow("secret", secret)
        .workflow("parent", parent)
        .workflow("grandparent", grandparent)
        .workflow("again", again)
        .start()
        .await
        .unwrap()
}

const INVALID: &str = "INVALID_RUN_ID";

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_reserved_ids_in_every_call() {
    let runtime = all(&store()).await;
    let run = runtime.start("child", &1).id("l".repeat(200)).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    for bad in ["", "a\0b", "a\nb", "job~r2", "job~2", "~", &"l".repeat(201), &"l".repeat(250)] {
        let refused = runtime.start("child", &1).id(bad).await.unwrap_err();
        assert_eq!(refused.code(), INVALID, "{bad:?}");
        assert!(refused.to_string().starts_with("a run id "), "{refused}");
        let refused = runtime.task("missing", &1).id(bad).await.unwrap_err();
        assert_eq!(refused.code(), INVALID, "{bad:?}");
        let refused = runtime.signal_with_start("child", bad, &1, "go", &1).await.unwrap_err();
        assert_eq!(refused.code(), INVALID, "{bad:?}");
        assert_eq!(run.fork(1, bad).await.unwrap_err().code(), INVALID, "{bad:?}");
        let parent = runtime.start("parent", &Some(bad)).await.unwrap();
        assert_eq!(result::<u32>(&parent).await.unwrap_err().code(), INVALID, "{bad:?}");
    }
    assert_eq!(runtime.handle("").await.unwrap_err().code(), INVALID);
    assert_eq!(runtime.handle("job~r2").await.unwrap_err().code(), "RUN_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_a_child_whose_id_belongs_to_another_run() {
    let store = store();
    let runtime = all(&store).await;
    for (workflow, id) in [("secret", "other workflow"), ("child", "no child")] {
        let other = runtime.start(workflow, &7).id(id).await.unwrap();
        result::<u32>(&other).await.unwrap();
    }
    let elder = runtime.start("parent", &Some("other parent")).await.unwrap();
    assert_eq!(result::<u32>(&elder).await.unwrap(), 7);
    for id in ["other workflow", "no child", "other parent", "itself"] {
        let run = runtime.start("parent", &Some(id)).id("itself").await;
        let run = match run {
            Ok(run) => run,
            Err(_) => runtime.start("parent", &Some(id)).id(format!("of {id}")).await.unwrap(),
        };
        assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_EXISTS", "{id}");
    }
    let run = runtime.start("grandparent", &"oldest").id("oldest").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_EXISTS");
    let run = runtime.start("parent", &Some("me")).id("me").await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap_err().code(), "RUN_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_find_its_own_child_after_a_restart() {
    async fn slow(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
        context.signal::<()>("go").await?;
        Ok(number)
    }
    let store = store();
    let build = || runtime(&store).workflow("child", slow).workflow("parent", parent);
    let first = build().start().await.unwrap();
    for id in [None, Some("chosen")] {
        first.start("parent", &id).id(id.unwrap_or("derived")).await.ok();
    }
    first.start("parent", &Some("chosen child")).id("with an id").await.unwrap();
    let begun = || async { first.handle("chosen child").await.is_ok() };
    eventually("the child begins", begun).await;
    let begun = || async { first.handle("derived~1").await.is_ok() };
    eventually("the child begins", begun).await;
    first.shutdown(PATIENCE).await.unwrap();
    let second = build().start().await.unwrap();
    for (parent, child) in [("derived", "derived~1"), ("with an id", "chosen child")] {
        second.handle(child).await.unwrap().signal("go", &()).await.unwrap();
        let parent = second.handle(parent).await.unwrap();
        assert_eq!(result::<u32>(&parent).await.unwrap(), 7);
    }
}

/// Nested far deeper than the length of an id allows.
#[tokio::test(flavor = "multi_thread")]
async fn should_derive_ids_for_children_at_any_depth() {
    async fn nested(context: WorkflowContext, depth: u32) -> Result<u32, WorkflowError> {
        match depth {
            0 => Ok(context.run_id().len().try_into().unwrap()),
            _ => context.child("nested", &(depth - 1)).await,
        }
    }
    let runtime = runtime(&store()).workflow("nested", nested).start().await.unwrap();
    let run = runtime.start("nested", &150).id("n".repeat(100)).await.unwrap();
    assert!(result::<u32>(&run).await.unwrap() <= 200);
}

/// Another program can write any event, but only the successor is taken for it.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_whose_successor_is_an_unrelated_run() {
    let store = store();
    let forged = Event::new(
        "workflows.again.started".parse().unwrap(),
        "forger",
        &json!({ "version": 1, "input": 3 }),
    );
    let append = Append::new(StreamId::of_run("job~r2").unwrap(), vec![forged.unwrap()]);
    store.append_one(append).await.unwrap();
    let runtime = all(&store).await;
    let run = runtime.start("again", &2).id("job").await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "RUN_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_a_run_that_continued_with_every_verb() {
    async fn twice(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        if round == 0 {
            return Err(WorkflowError::continue_as_new(&1));
        }
        context.set_status("second");
        Ok(context.signal::<u32>("go").await? + context.signal::<u32>("go").await?)
    }
    let runtime = runtime(&store()).workflow("twice", twice).start().await.unwrap();
    let run = runtime.start("twice", &0).id("job").await.unwrap();
    let status = || async { run.status().await.unwrap() };
    let is =
        |text: &'static str| async move { status().await.status_text.as_deref() == Some(text) };
    eventually("the second run begins", || is("second")).await;
    assert_eq!((run.id(), &*status().await.id), ("job", "job~r2"));
    run.pause().await.unwrap();
    assert_eq!(status().await.status.as_str(), "paused");
    run.resume().await.unwrap();
    run.signal("go", &1).await.unwrap();
    runtime.handle("job").await.unwrap().signal("go", &2).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    assert!(actions(&run).await.contains(&"completed".to_owned()));
    assert_eq!(run.signal("go", &3).await.unwrap_err().code(), "RUN_ENDED");

    let run = runtime.start("twice", &0).id("other").await.unwrap();
    run.cancel("enough").await.unwrap();
    assert!(matches!(result::<u32>(&run).await.unwrap_err(), RunError::Cancelled { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_see_the_end_of_a_child_that_continued_as_other_runs() {
    async fn keeper(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let derived: u32 = context.child("again", &0).await?;
        Ok(derived + context.child::<u32>("again", &0).id("named").await?)
    }
    let runtime = runtime(&store())
        .workflow("again", again)
        .workflow("keeper", keeper)
        .start()
        .await
        .unwrap();
    let run = runtime.start("keeper", &()).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_start_once_with_equal_inputs_in_any_notation() {
    async fn count(
        _: WorkflowContext,
        input: BTreeMap<String, serde_json::Value>,
    ) -> Result<usize, WorkflowError> {
        Ok(input.len())
    }
    let runtime = runtime(&store()).workflow("count", count).start().await.unwrap();
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    let first = raw(r#"{"a":1,"b":[{"c":2,"d":3}]}"#);
    let run = runtime.start("count", &first).id("same").await.unwrap();
    assert_eq!(result::<usize>(&run).await.unwrap(), 2);
    let other = raw(r#"{ "b": [{"d": 3, "c": 2}], "a": 1 }"#);
    runtime.start("count", &other).id("same").await.unwrap();
    for different in [r#"{"a":1.0,"b":[{"c":2,"d":3}]}"#, r#"{"a":1}"#, "{}"] {
        let refused = runtime.start("count", &raw(different)).id("same").await.unwrap_err();
        assert_eq!(refused.code(), "RUN_EXISTS", "{different}");
    }
}

async fn sum(context: WorkflowContext, start: u32) -> Result<u32, WorkflowError> {
    let mut sum = start;
    loop {
        match context.signal::<u32>("add").await? {
            0 => return Ok(sum),
            number => sum += number,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_a_signal_with_the_start_or_to_the_run_that_exists() {
    let store = store();
    let runtime =
        runtime(&store).workflow("sum", sum).workflow("child", child).start().await.unwrap();
    let run = runtime.signal_with_start("sum", "s", &1, "add", &10).await.unwrap();
    assert_eq!(actions(&run).await.get(..2).unwrap(), ["started", "signaled"]);
    runtime.signal_with_start("sum", "s", &5, "add", &100).await.unwrap();
    for _ in 0..3 {
        let start = runtime.start("sum", &1).id("s").signal("add", &1000);
        start.signal_id("once").await.unwrap();
    }
    let refused = runtime.signal_with_start("child", "s", &1, "add", &1).await.unwrap_err();
    assert_eq!(refused.code(), "RUN_EXISTS");
    run.signal("add", &0).await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 1111);
    let refused = runtime.signal_with_start("sum", "s", &1, "add", &1).await.unwrap_err();
    assert_eq!(refused.code(), "RUN_ENDED");
}

/// The ids of runs and of requests may contain what separates them in the id of an event.
#[tokio::test(flavor = "multi_thread")]
async fn should_tell_apart_requests_whose_joined_ids_are_equal() {
    let store = store();
    let runtime = runtime(&store).workflow("sum", sum).start().await.unwrap();
    let start = |run_id: &str| runtime.start("sum", &0).id(run_id).signal("add", &1);
    let runs = [
        start("a/signal/b").signal_id("c").await.unwrap(),
        start("a").signal_id("b/signal/c").await.unwrap(),
        start("a/request/b").await.unwrap(),
    ];
    let [_, short, long] = &runs;
    long.clone().with_request_id("c").signal("add", &10).await.unwrap();
    short.clone().with_request_id("b/request/c").signal("add", &10).await.unwrap();
    let mut sums = Vec::new();
    for run in &runs {
        run.signal("add", &0).await.unwrap();
        sums.push(result::<u32>(run).await.unwrap());
    }
    assert_eq!(sums, [1, 11, 11]);
}

/// Returns the key that it was given.
struct Keyed;

impl Agent for Keyed {
    type Parameters = ();
    type Output = String;

    async fn process_task(&self, context: &TaskContext, (): ()) -> Result<String, TaskError> {
        Ok(context.idempotency_key().to_owned())
    }
}

/// The values that a run draws and hands to external systems.
async fn draws(context: WorkflowContext, (): ()) -> Result<Vec<String>, WorkflowError> {
    let mut drawn = vec![context.uuid().to_string(), context.random().to_string()];
    let key =
        |step: StepContext| async move { Ok::<_, TaskError>(step.idempotency_key().to_owned()) };
    drawn.push(context.step_with("keyed", key).await?);
    drawn.push(context.step_with("keyed", key).await?);
    drawn.push(context.task("keyed", &()).await?);
    // A replay that draws other values requests another step.
    let name = format!("last {}", context.uuid());
    drawn.push(context.run(name.clone(), || async { name.clone() }).await?);
    Ok(drawn)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_draw_nothing_that_a_run_with_the_same_id_drew_before() {
    let (mut all, mut journals) = (BTreeSet::new(), Vec::new());
    // The file of the first store has been deleted.
    for store in [store(), store()] {
        let keyed = runtime(&store).agent("keyed", Keyed).workflow("draws", draws);
        let runtime = keyed.start().await.unwrap();
        let run = runtime.start("draws", &()).id("daily").await.unwrap();
        all.extend(result::<Vec<String>>(&run).await.unwrap());
        journals.push(run.journal(0, 100).await.unwrap());
    }
    assert_eq!(all.len(), 12, "{all:?}");
    for journal in journals {
        let events: Vec<_> = journal.into_iter().map(|recorded| recorded.event).collect();
        replay(Arc::new(FnWorkflow::new("draws", draws).unwrap()), &events).await.unwrap();
    }
    let run = WorkflowTest::new("draws", draws).unwrap();
    let run = run.agent("keyed", |()| Ok("key")).run(&()).await;
    let workflow = Arc::new(FnWorkflow::new("draws", draws).unwrap());
    replay(workflow, &run.events().unwrap()).await.unwrap();
}

/// The ids that an engine derives differ between successive runs that used the same id.
#[tokio::test(flavor = "multi_thread")]
async fn should_run_again_under_an_id_that_was_used_before() {
    async fn work(context: WorkflowContext, round: u32) -> Result<u32, WorkflowError> {
        let event = Event::new("orders.order.placed".parse().unwrap(), "shop", &round).unwrap();
        context.emit(event)?;
        context.child("child", &round).await
    }
    let memory = std::sync::Arc::new(aios_store::memory::MemoryStore::new());
    let store: std::sync::Arc<dyn Store> = memory.clone();
    let runtime =
        runtime(&store).workflow("work", work).workflow("child", child).start().await.unwrap();
    let mut emitted: Vec<EventId> = Vec::new();
    for round in 1..=3 {
        let run = runtime.start("work", &round).id("daily").await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), round);
        let journal = run.journal(0, 100).await.unwrap();
        let placed = journal.iter().find(|it| it.event.event_type.action() == "placed").unwrap();
        assert!(!emitted.contains(&placed.event.id));
        emitted.push(placed.event.id.clone());
        let expire = || async {
            result::<u32>(&runtime.start("child", &0).await.unwrap()).await.unwrap();
            let policy = aios_store::Retention::new(std::time::Duration::ZERO);
            memory.expire_runs(&policy).await.unwrap();
            runtime.handle("daily").await.is_err() && runtime.handle("daily~2").await.is_err()
        };
        eventually("the run is taken out", expire).await;
    }
}
