//! Unusual results, decisions and journals.

use std::sync::Arc;

use aios_agents::{RunHandle, output::OutputContent, prelude::*};
use aios_core::event::Event;
use aios_llm::{
    AgentUpdate, Compaction, Conversation, LanguageModel, LlmAgent, ModelError, ModelRequest,
    ModelResponse, RuntimeBuilderExt, Streaming, TOKENS,
    middleware::Fallback,
    model::{Capabilities, ModelErrorKind, Part, Usage},
    testing::{FunctionModel, Recorded, ScriptedModel},
    tool::{Approval, Decision, Tool},
};
use serde_json::{Value, json};

use crate::support::{
    Query, builder, call, in_time, one_pending, runtime, scripted, search_call, search_tool, start,
    store, text,
};

/// The result that the model gets for a call of a tool with this result.
async fn tool_result(result: Result<Value, TaskError>) -> (String, bool) {
    let give = move |_: Query| {
        let result = result.clone();
        async move { result }
    };
    let model = scripted([search_call("x"), text("done")]);
    let tool = Tool::read("search", "Searches.", give).with_retry(RetryPolicy::never());
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(tool)).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let request = model.requests().pop().unwrap();
    let Part::ToolResult(result) = &request.messages.last().unwrap().content[0] else { panic!() };
    (result.content.clone(), result.is_error)
}

#[tokio::test]
async fn should_tell_the_model_any_result_of_a_tool() {
    for result in ["a\u{0}b", "\u{1f600} \u{202e}e\u{301} \u{10ffff}", "", "\\\"\n\t", "null"] {
        assert_eq!(tool_result(Ok(json!(result))).await, (result.to_owned(), false));
    }
    let number = "123456789012345678901234567890.5e-7";
    let number: Value = serde_json::from_str(number).unwrap();
    assert_eq!(tool_result(Ok(number.clone())).await, (number.to_string(), false));
    let (content, is_error) = tool_result(Ok(json!("x".repeat(8 * 1024 * 1024)))).await;
    assert!(is_error && content.len() < 1000, "{} bytes", content.len());
    let failure = Failure::new("ODD", format!("\u{0}{}", "y".repeat(8 * 1024 * 1024)));
    let (content, is_error) = tool_result(Err(TaskError::terminal(failure))).await;
    assert!(is_error && content.len() < 1024 * 1024, "{} bytes", content.len());
}

/// An agent whose tool needs approval.
fn careful() -> LlmAgent {
    let tool = search_tool().with_approval(Approval::Required);
    LlmAgent::new(scripted([search_call("x"), text("done")])).tool(tool)
}

async fn results(run: &RunHandle) -> Vec<(String, bool)> {
    let conversation = Conversation::of(run).await.unwrap();
    let turns = conversation.turns().last().unwrap().messages.clone();
    let parts = turns.into_iter().flat_map(|message| message.content);
    let results = parts.filter_map(|part| match part {
        Part::ToolResult(result) => Some((result.content, result.is_error)),
        _ => None,
    });
    results.collect()
}

#[tokio::test]
async fn should_take_the_first_decision_and_ignore_signals_with_other_names() {
    let runtime = runtime(careful()).await;
    let run = start(&runtime).await;
    let pending = one_pending(&run).await;
    run.signal("approval-9-9", &Decision::Approve).await.unwrap();
    let reject = Decision::Reject { reason: "no".to_owned() };
    run.signal(&pending.signal, &reject).await.unwrap();
    // The run may have ended.
    let _late = run.signal(&pending.signal, &Decision::Approve).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert_eq!(results(&run).await, [("A person rejected this call: no".to_owned(), true)]);
}

#[tokio::test]
async fn should_refuse_a_decision_after_the_run_was_cancelled() {
    let runtime = runtime(careful()).await;
    let run = start(&runtime).await;
    let pending = one_pending(&run).await;
    run.cancel("no longer").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap_err().code(), "RUN_CANCELLED");
    let late = run.signal(&pending.signal, &Decision::Approve).await.unwrap_err();
    assert_eq!(late.code(), "RUN_ENDED");
    let journal = run.journal(0, 1000).await.unwrap();
    let is_call = |event: &Event| event.event_type.as_str() == "agents.agent_tools.task_assigned";
    assert!(!journal.iter().any(|it| is_call(&it.event)), "nothing ran");
}

/// An agent with everything: a handover, an agent as a tool, compaction and streams.
async fn everything(
    store: &Arc<dyn Store>,
    models: [Arc<dyn LanguageModel>; 3],
) -> aios_agents::Runtime {
    let [main, searcher, closer] = models;
    let closer = LlmAgent::new(closer).streaming(Streaming::On).tool(search_tool());
    let agent = LlmAgent::new(main)
        .streaming(Streaming::On)
        .compaction(Compaction::above(20).with_kept_messages(1))
        .tool(Tool::agent("ask", "Asks.", "searcher"))
        .handover("closer", "Closes.", closer);
    let searcher = LlmAgent::new(searcher).tool(search_tool()).streaming(Streaming::On);
    let builder = builder(store).llm_agent("agent", agent).unwrap();
    builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap()
}

#[tokio::test]
async fn should_answer_from_the_journals_of_a_run_with_everything() {
    let long = |response: aios_llm::ModelResponse| response.with_usage(Usage::new(30, 5));
    let main = scripted([
        call("c", "ask", &json!({"task": "find"})),
        long(call("d", "ask", &json!({"task": "find more"}))),
        text("a summary"),
        call("h", "handover_to_closer", &json!({"reason": "r"})),
    ]);
    let searcher = scripted([search_call("a"), text("one"), search_call("b"), text("two")]);
    let closer = scripted([search_call("c"), text("the end")]);
    let store = store();
    let recorded = everything(&store, [main.clone(), searcher.clone(), closer.clone()]).await;
    let run = recorded.start("agent", "go").id("run").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "the end");
    for model in [&main, &searcher, &closer] {
        model.assert_finished();
    }
    let mut of_children = Vec::new();
    let journal = run.journal(0, 1000).await.unwrap();
    for started in journal.iter().filter(|it| it.event.event_type.action() == "child_started") {
        let started: Value = started.event.data().unwrap();
        let child = recorded.handle(started["run_id"].as_str().unwrap()).await.unwrap();
        of_children.extend(child.journal(0, 1000).await.unwrap());
    }
    let own = || journal.iter().map(|it| &it.event);
    let model = |events: Vec<&Event>| -> Arc<dyn LanguageModel> {
        Arc::new(Recorded::from_journal(events).unwrap())
    };
    let of_children: Vec<_> = of_children.iter().map(|it| &it.event).collect();
    let own = model(own().collect());
    let replayed =
        everything(&crate::support::store(), [own.clone(), model(of_children), own]).await;
    let again = replayed.start("agent", "go").id("again").await.unwrap();
    assert_eq!(in_time(again.result::<String>()).await.unwrap(), "the end");
    let sums = [
        *Conversation::of(&run).await.unwrap().spent(),
        *Conversation::of(&again).await.unwrap().spent(),
    ];
    assert_eq!(sums[0], sums[1]);
}

/// The texts that a reader of the stream of a run sees.
async fn read(run: RunHandle) -> String {
    let mut items = run.stream(TOKENS).read_from(0);
    let mut read = String::new();
    while let Some(item) = in_time(items.next()).await {
        if let OutputContent::Item(update) = item.unwrap().content
            && let AgentUpdate::Text { text } = update.decode().unwrap()
        {
            read += &text;
        }
    }
    read
}

#[tokio::test]
async fn should_stream_a_fork_to_several_readers() {
    let model = scripted([search_call("x"), text("first"), text("second")]);
    let agent = LlmAgent::new(model).tool(search_tool()).streaming(Streaming::On);
    let runtime = runtime(agent).await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    let early: Vec<_> = (0..3).map(|_| tokio::spawn(read(run.clone()))).collect();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "first");
    let journal = run.journal(0, 1000).await.unwrap();
    let last = journal.iter().rev().find_map(|it| {
        let data: Value = it.event.data().unwrap();
        let of_model = it.event.event_type.as_str() == "agents.agent_model.task_assigned";
        of_model.then(|| data["task_id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
    });
    let fork = run.fork(last.unwrap().parse().unwrap(), "fork").await.unwrap();
    let of_fork: Vec<_> = (0..3).map(|_| tokio::spawn(read(fork.clone()))).collect();
    assert_eq!(in_time(fork.result::<String>()).await.unwrap(), "second");
    for reader in early {
        assert_eq!(reader.await.unwrap(), "first");
    }
    for reader in of_fork {
        assert_eq!(reader.await.unwrap(), "second");
    }
    assert_eq!(read(run).await, "first", "a later reader sees the same");
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Report {
    title: String,
}

/// A model that answers as its request asks for the output, after a search if it has that tool.
async fn reports(request: ModelRequest) -> Result<ModelResponse, ModelError> {
    let has = |name: &str| request.tools.iter().any(|tool| tool.name == name);
    let report = json!({"title": "Rust"});
    Ok(if has("search") && request.messages.len() == 1 {
        search_call("rust")
    } else if has("final_result") {
        call("f", "final_result", &report)
    } else {
        text(&report.to_string())
    })
}

/// Whatever the recorded model supports, its journal is enough to answer.
#[tokio::test]
async fn should_ask_a_recorded_model_for_output_as_it_was_asked_before() {
    let none = Capabilities::none();
    for capabilities in [
        none,
        none.with_tools(true),
        none.with_native_output(true),
        none.with_native_output(true).with_tools(true),
        none.with_native_output(true).with_native_output_with_tools(true),
        Capabilities::all(),
    ] {
        for has_tools in [false, true] {
            let with_tools = |agent: LlmAgent| match has_tools {
                true => agent.tool(search_tool()),
                false => agent,
            };
            let model = FunctionModel::new(reports).with_capabilities(capabilities);
            let agent = with_tools(LlmAgent::new(model)).output::<Report>();
            let runtime = crate::support::runtime(agent).await;
            let run = start(&runtime).await;
            let report: Report = in_time(run.result()).await.unwrap();
            let journal = run.journal(0, 1000).await.unwrap();
            let recorded = Recorded::from_journal(journal.iter().map(|it| &it.event)).unwrap();
            let agent = with_tools(LlmAgent::new(recorded)).output::<Report>();
            let runtime = crate::support::runtime(agent).await;
            let again: Report = in_time(start(&runtime).await.result()).await.unwrap();
            assert_eq!(again, report);
        }
    }
}

/// The models of a journal, in the order in which they were asked.
#[tokio::test]
async fn should_name_the_models_of_a_journal() {
    let busy = ModelError::new(ModelErrorKind::Overloaded, "busy").with_usage(Usage::new(1, 1));
    let first = ScriptedModel::with_results([Err(busy), Ok(text("done"))]).with_name("test:first");
    let second = ScriptedModel::new([search_call("a")]).with_name("test:second");
    let model = Fallback::new(first).or(second);
    let runtime = crate::support::runtime(LlmAgent::new(model).tool(search_tool())).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    let journal = run.journal(0, 1000).await.unwrap();
    let recorded = Recorded::from_journal(journal.iter().map(|it| &it.event)).unwrap();
    assert_eq!(
        (recorded.name(), recorded.names()),
        ("test:first", vec!["test:first", "test:second"])
    );
}
