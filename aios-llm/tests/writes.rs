use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_llm::{
    LlmAgent, RuntimeBuilderExt,
    model::Part,
    testing::ScriptedModel,
    tool::{PendingDecision, Resolution, Tool},
};
use aios_store::memory::{MemoryOptions, MemoryStore};
use serde::Serialize;

use crate::{
    faulty::{self, Fault, FaultyStore},
    support::{Query, builder, in_time, one_pending, pending, scripted, search_call, store, text},
};

/// A `write` tool whose first `hanging` calls never end.
fn tool(calls: &Arc<AtomicU32>, hanging: u32) -> Tool {
    let calls = Arc::clone(calls);
    let write = move |query: Query| {
        let hangs = calls.fetch_add(1, Ordering::SeqCst) < hanging;
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, TaskError>(format!("paid {}", query.words))
        }
    };
    Tool::write("search", "Pays.", write)
        .with_timeout(Duration::from_millis(50))
        .with_retry(RetryPolicy::fixed(5, Duration::from_millis(1)))
}

/// Runs a call that hangs and is resolved. Returns the result that the model gets, and how often it ran.
async fn resolved(resolution: &Resolution) -> (String, bool, u32) {
    let (calls, store) = (Arc::new(AtomicU32::new(0)), store());
    let model = scripted([search_call("ten"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool(&calls, 1));
    let agent = agent.write_log(Arc::clone(&store));
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").await.unwrap();
    let pending = one_pending(&run).await;
    assert_eq!(pending.in_doubt.unwrap().code, "WRITE_IN_DOUBT");
    assert_eq!(calls.load(Ordering::SeqCst), 1, "it is not repeated");
    run.signal(&pending.signal, resolution).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let (content, is_error) = result(&model);
    (content, is_error, calls.load(Ordering::SeqCst))
}

fn result(model: &ScriptedModel) -> (String, bool) {
    match &model.requests()[1].messages[2].content[0] {
        Part::ToolResult(result) => (result.content.clone(), result.is_error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn should_ask_about_a_write_whose_outcome_is_unknown() {
    let done = Resolution::Done { result: "paid by hand".to_owned() };
    assert_eq!(resolved(&done).await, ("paid by hand".to_owned(), false, 1));
    let fail = Resolution::Fail { reason: "no money".to_owned() };
    assert_eq!(resolved(&fail).await, ("no money".to_owned(), true, 1));
    assert_eq!(resolved(&Resolution::Repeat).await, ("paid ten".to_owned(), false, 2));
}

#[tokio::test]
async fn should_not_repeat_a_write_that_failed() {
    let (calls, store) = (Arc::new(AtomicU32::new(0)), store());
    let counted = Arc::clone(&calls);
    let tool = Tool::write("search", "Pays.", move |_: Query| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<String, _>(std::io::Error::other("declined")) }
    });
    let model = scripted([search_call("ten"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool).write_log(Arc::clone(&store));
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let (content, is_error) = result(&model);
    assert!(is_error && content.contains("declined"), "{content}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn should_take_an_answer_for_one_doubt_only() {
    let (calls, store) = (Arc::new(AtomicU32::new(0)), store());
    let model = scripted([search_call("ten"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool(&calls, 2));
    let agent = agent.write_log(Arc::clone(&store));
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").await.unwrap();
    let first = one_pending(&run).await;
    for _ in 0..2 {
        run.signal(&first.signal, &Resolution::Repeat).await.unwrap();
    }
    let is_another = |it: &[PendingDecision]| it.len() == 1 && it[0].signal != first.signal;
    let second = pending(&run, is_another).await.remove(0);
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the second answer does not repeat it again");
    let done = Resolution::Done { result: "paid by hand".to_owned() };
    run.signal(&second.signal, &done).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// The store has recorded that a call begins or has ended, and its response is lost.
#[tokio::test]
async fn should_not_doubt_a_write_because_of_a_lost_response() {
    for action in ["begun", "ended"] {
        let (calls, store) = (Arc::new(AtomicU32::new(0)), store());
        let faulty = FaultyStore::new(Arc::clone(&store));
        let losses = AtomicU32::new(0);
        faulty.on_append(move |append| {
            let loses = faulty::holds(append, action) && losses.fetch_add(1, Ordering::SeqCst) == 0;
            loses.then(|| Fault::LoseResponse(faulty::store_unavailable()))
        });
        let model = scripted([search_call("ten"), text("done")]);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(tool(&calls, 0)).write_log(faulty);
        let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
        let run = runtime.start("agent", "go").await.unwrap();
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
        assert_eq!(result(&model), ("paid ten".to_owned(), false));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}

/// Runs a `write` tool once that has succeeded and returns this. Returns what the model gets, and how
/// many ends are in the write log.
async fn written<T: Serialize + Clone + Send + Sync + 'static>(
    result: T,
    most_bytes: usize,
    event_bytes: usize,
) -> (String, bool, u32) {
    let options = MemoryOptions::new().with_max_event_bytes(event_bytes);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let (faulty, ends) = (FaultyStore::new(Arc::clone(&store)), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&ends);
    faulty.on_append(move |append| {
        let is_small = append.events.iter().all(|it| it.payload.as_str().len() < event_bytes);
        counted.fetch_add(u32::from(is_small && faulty::holds(append, "ended")), Ordering::SeqCst);
        None
    });
    let tool = Tool::write("search", "Pays.", move |_: Query| {
        let result = result.clone();
        async move { Ok::<_, TaskError>(result) }
    });
    let model = scripted([search_call("ten"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool.with_max_result_bytes(most_bytes));
    let agent = agent.write_log(faulty);
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let (content, is_error) = self::result(&model);
    (content, is_error, ends.load(Ordering::SeqCst))
}

/// A model makes a call again that it reads as failed.
#[tokio::test]
async fn should_not_report_a_write_as_failed_whose_result_cannot_be_shown() {
    let (most, event) = (256 * 1024, 16 * 1024 * 1024);
    let (content, is_error, ends) = written("x".repeat(300 * 1024), most, event).await;
    assert!(!is_error && content.contains("307200 bytes"), "{content}");
    assert_eq!(ends, 1);

    // JSON has no such keys.
    let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
    let (content, is_error, ends) = written(odd, most, event).await;
    assert!(!is_error && content.contains("succeeded"), "{content}");
    assert_eq!(ends, 1);

    // The result is larger than an event may be.
    let (content, is_error, ends) = written("x".repeat(70_000), most, 65_536).await;
    assert!(!is_error && content.contains("succeeded"), "{content}");
    assert_eq!(ends, 1);
}

/// Runs an agent with a `write` tool whose outcome is unknown. Returns the code that a person sees.
async fn doubt(tool: Tool, log: Arc<dyn Store>) -> String {
    let model = scripted([search_call("ten"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(tool).write_log(log);
    let runtime = builder(&store()).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").await.unwrap();
    let pending = one_pending(&run).await;
    let done = Resolution::Done { result: "paid by hand".to_owned() };
    run.signal(&pending.signal, &done).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    assert_eq!(result(&model), ("paid by hand".to_owned(), false));
    pending.in_doubt.unwrap().code
}

/// The first attempt may have taken effect, so an error of the second one says nothing about the call.
#[tokio::test]
async fn should_doubt_a_write_whose_second_attempt_cannot_begin() {
    let store = store();
    let faulty = FaultyStore::new(Arc::clone(&store));
    let begun = AtomicU32::new(0);
    faulty.on_append(move |append| {
        let refuses = faulty::holds(append, "begun") && begun.fetch_add(1, Ordering::SeqCst) > 0;
        refuses.then(|| Fault::Refuse(faulty::store_refuses()))
    });
    let calls = Arc::new(AtomicU32::new(0));
    assert_eq!(doubt(tool(&calls, 1), faulty).await, "STORE_BACKEND");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// The function was stopped before it returned, or says itself that it does not know the outcome.
#[tokio::test]
async fn should_doubt_a_write_that_did_not_return_an_outcome() {
    for code in ["INTERRUPTED", "WRITE_IN_DOUBT"] {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let tool = Tool::write("search", "Pays.", move |_: Query| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let details = serde_json::json!({"is_of_tool": true});
                let failure = Failure::new(code, "stopped").with_details(details);
                Err::<String, _>(TaskError::retryable(failure))
            }
        });
        assert_eq!(doubt(tool, store()).await, code);
        assert_eq!(calls.load(Ordering::SeqCst), 1, "it is not repeated");
    }
}

/// A function may return any code, also one of the engine.
#[tokio::test]
async fn should_not_doubt_a_write_that_returned_a_failure() {
    for code in ["TASK_TIMEOUT", "HEARTBEAT_MISSED", "EVENT_TOO_LARGE", "AGENT_NOT_FOUND"] {
        let tool = Tool::write("search", "Pays.", move |_: Query| async move {
            let failure = Failure::new(code, "declined").with_details(serde_json::json!(["a"]));
            Err::<String, _>(TaskError::retryable(failure))
        });
        let model = scripted([search_call("ten"), text("done")]);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(tool).write_log(store());
        let runtime = crate::support::runtime(agent).await;
        let run = runtime.start("agent", "go").await.unwrap();
        in_time(run.result::<String>()).await.unwrap();
        assert_eq!(result(&model), (format!("declined ({code})"), true));
    }
}
