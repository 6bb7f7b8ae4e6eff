//! Output streams of agents.

use std::{sync::Arc, time::Duration};

use aios_agents::{RunHandle, Runtime, output::OutputContent, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, event::Payload};
use aios_llm::{
    AgentUpdate, Compaction, Conversation, LanguageModel, LlmAgent, ModelError, ModelRequest,
    ModelResponse, Streaming, TOKENS,
    budget::Spent,
    model::{Capabilities, ModelErrorKind, ModelStream, Part, Usage},
    providers::{OpenAiModel, ProviderOptions},
    testing::{FakeProvider, FakeReply, ScriptedModel},
    tool::{Effect, Tool, ToolContext},
};
use async_trait::async_trait;
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{Query, call, in_time, runtime, scripted, search_call, start, text};

/// All updates; a reset is an update too.
async fn updates(run: &RunHandle) -> Vec<Option<AgentUpdate>> {
    let items = run.stream(TOKENS).read_from(0).map(|item| match item.unwrap().content {
        OutputContent::Item(update) => Some(update.decode().unwrap()),
        _ => None,
    });
    in_time(items.collect()).await
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Report {
    title: String,
}

async fn slow_search(context: ToolContext, query: Query) -> Result<String, TaskError> {
    context.progress(&json!({"percent": 50}))?;
    Ok(format!("found {}", query.words))
}

#[tokio::test]
async fn should_stream_responses_tools_and_partial_output() {
    let answer = r#"{"title": "A report about the storage of data"}"#;
    let model = scripted([search_call("sqlite"), text(answer)]);
    let tool = Tool::with_context("search", "Searches.", Effect::Read, slow_search);
    let agent = LlmAgent::new(model).tool(tool).output::<Report>().streaming(Streaming::On);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let updates = updates(&run).await.into_iter().flatten().collect::<Vec<_>>();
    let (id, tool) = (|| "c".to_owned(), || "search".to_owned());
    let json = |text: &str| Payload::from_text(text.to_owned()).unwrap();
    let (progress, value) = (json(r#"{"percent":50}"#), json(answer));
    assert_eq!(
        updates,
        [
            AgentUpdate::ToolCall {
                index: 0,
                id: id(),
                name: tool(),
                arguments: r#"{"words":"sqlite"}"#.to_owned()
            },
            AgentUpdate::ToolStarted { call_id: id(), tool: tool() },
            AgentUpdate::ToolProgress { call_id: id(), progress },
            AgentUpdate::ToolEnded { call_id: id(), is_error: false },
            AgentUpdate::Text { text: answer.to_owned() },
            AgentUpdate::Partial { value },
        ]
    );
    let report: Report = in_time(run.result()).await.unwrap();
    assert_eq!(report.title, "A report about the storage of data");
}

/// Models that answer as a whole give each part in one piece.
#[tokio::test]
async fn should_write_pieces_that_are_larger_than_an_item_may_be() {
    let words = "\u{1}ä".repeat(100_000);
    let answer = json!({ "title": words }).to_string();
    let thought = Part::Reasoning { text: words.clone(), signature: None };
    let answered = ModelResponse::new(vec![thought, Part::text(answer.as_str())]);
    let model = scripted([search_call(&words), answered.with_usage(Usage::new(1, 1))]);
    let tool = Tool::with_context("search", "Searches.", Effect::Read, slow_search);
    let agent = LlmAgent::new(model).tool(tool).max_argument_bytes(1 << 20);
    let runtime = runtime(agent.output::<Report>().streaming(Streaming::On)).await;
    let run = start(&runtime).await;
    let (mut arguments, mut thoughts, mut texts) = (String::new(), String::new(), String::new());
    let mut begun = Vec::new();
    for update in updates(&run).await.into_iter().flatten() {
        match update {
            AgentUpdate::ToolCall { index, id, name, arguments: more } => {
                arguments += &more;
                begun.extend((!id.is_empty()).then_some((index, name)));
            }
            AgentUpdate::Text { text } => texts += &text,
            AgentUpdate::Reasoning { text } => thoughts += &text,
            _ => {}
        }
    }
    assert_eq!(begun, [(0, "search".to_owned())]);
    let expected = json!({ "words": words }).to_string();
    assert!(arguments == expected, "{} bytes", arguments.len());
    assert!(thoughts == words, "{} bytes", thoughts.len());
    assert!(texts == answer, "{} bytes", texts.len());
}

#[tokio::test]
async fn should_write_nothing_unless_it_is_asked_to() {
    let runtime = runtime(LlmAgent::new(scripted([text("hello")]))).await;
    let run = start(&runtime).await;
    assert_eq!(updates(&run).await, []);
}

#[tokio::test]
async fn should_stream_a_repeated_request_as_another_writer() {
    let error = ModelError::new(ModelErrorKind::Overloaded, "later");
    let model = ScriptedModel::with_results([Err(error), Ok(text("hello"))]);
    let policy = RetryPolicy::fixed(2, std::time::Duration::from_millis(1));
    let agent = LlmAgent::new(model).streaming(Streaming::On).model_retry(policy);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let hello = AgentUpdate::Text { text: "hello".to_owned() };
    assert_eq!(updates(&run).await, [Some(AgentUpdate::Restarted), Some(hello)]);
}

/// A reader that collects text as the documentation of `AgentUpdate` does.
#[tokio::test]
async fn should_show_no_piece_of_a_failed_request_beside_the_repeated_one() {
    let cut = FakeReply::cut_off(text("Helsinki is the capital of Finland."), 2);
    let whole = FakeReply::response(text("Helsinki."));
    let provider = FakeProvider::start([cut, whole]).await.unwrap();
    let options = ProviderOptions::new("m").with_base_url(provider.openai_url());
    let model = OpenAiModel::new(options).unwrap();
    let policy = RetryPolicy::fixed(2, std::time::Duration::from_millis(1));
    let agent = LlmAgent::new(model).streaming(Streaming::On).model_retry(policy);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let (mut shown, mut was_shown) = (String::new(), false);
    for update in updates(&run).await {
        match update {
            Some(AgentUpdate::Text { text }) => shown += &text,
            Some(AgentUpdate::Restarted) | None => {
                was_shown |= !shown.is_empty();
                shown.clear();
            }
            _ => {}
        }
    }
    assert!(was_shown, "the first request wrote something");
    assert_eq!(
        (shown.as_str(), in_time(run.result::<String>()).await.unwrap().as_str()),
        ("Helsinki.", "Helsinki.")
    );
}

/// A summary is not part of the answer.
#[tokio::test]
async fn should_not_stream_a_summary() {
    let long = search_call("two").with_usage(Usage::new(1000, 5));
    let model = scripted([search_call("one"), long, text("a summary"), text("done")]);
    let agent = LlmAgent::new(model)
        .tool(crate::support::search_tool())
        .compaction(Compaction::above(500).with_kept_messages(2))
        .streaming(Streaming::On);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let texts = updates(&run).await.into_iter().filter_map(|update| match update {
        Some(AgentUpdate::Text { text }) => Some(text),
        _ => None,
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["done"]);
}

/// Writes one word and then nothing. Tells when a request was dropped.
struct Hanging {
    begun: Arc<Notify>,
    dropped: Arc<Notify>,
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl LanguageModel for Hanging {
    fn name(&self) -> &str {
        "test:hanging"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        aios_llm::model::collect(self.stream(request).await?).await
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
        let (begun, guard) = (Arc::clone(&self.begun), OnDrop(Arc::clone(&self.dropped)));
        let first = futures_util::stream::once(async {
            Ok(aios_llm::model::StreamEvent::Text("Once".to_owned()))
        });
        let rest = futures_util::stream::once(async move {
            let _guard = guard;
            begun.notify_one();
            std::future::pending().await
        });
        Ok(Box::pin(first.chain(rest)))
    }
}

#[tokio::test]
async fn should_abort_the_request_of_a_cancelled_run_and_settle_it() {
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let model = Hanging { begun: Arc::clone(&begun), dropped: Arc::clone(&dropped) };
    let runtime = runtime(LlmAgent::new(model).streaming(Streaming::On)).await;
    let run = start(&runtime).await;
    in_time(begun.notified()).await;
    run.cancel("enough").await.unwrap();
    assert!(in_time(run.result::<String>()).await.is_err());
    in_time(dropped.notified()).await;
    let spent = *Conversation::of(&run).await.unwrap().spent();
    assert_eq!(spent.requests, 1);
    assert!(spent.usage.input_tokens > 0 && spent.usage.output_tokens == 0, "{spent:?}");
    let mut updates = updates(&run).await;
    assert_eq!(updates.remove(0), Some(AgentUpdate::Text { text: "Once".to_owned() }));
}

#[tokio::test]
async fn should_settle_nothing_more_if_nothing_is_in_progress() {
    let model = scripted([call("c", "ask", &json!({"words": "x"}))]);
    let ask = Tool::read("ask", "Asks.", crate::support::search)
        .with_approval(aios_llm::tool::Approval::Required);
    let runtime = runtime(LlmAgent::new(model).tool(ask)).await;
    let run = start(&runtime).await;
    crate::support::one_pending(&run).await;
    run.cancel("enough").await.unwrap();
    assert!(in_time(run.result::<String>()).await.is_err());
    let spent = *Conversation::of(&run).await.unwrap().spent();
    // The tool call was reserved, and counts.
    let usage = Usage::new(10, 5);
    assert_eq!(spent, Spent { requests: 1, usage, tool_calls: 1, ..Spent::default() });
}

/// Ids of calls are distinct in the whole run, however a model names them.
#[tokio::test]
async fn should_show_each_call_under_an_id_of_its_own() {
    let unnamed =
        ["one", "two"].map(|words| Part::tool_call("", "search", &json!({"words": words})));
    let model = scripted([
        search_call("a"),
        search_call("b"),
        ModelResponse::new(unnamed.to_vec()),
        text("done"),
    ]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(crate::support::search_tool());
    let runtime = runtime(agent.streaming(Streaming::On)).await;
    let run = start(&runtime).await;
    let (mut shown, mut begun, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for update in updates(&run).await.into_iter().flatten() {
        match update {
            AgentUpdate::ToolCall { id, .. } if !id.is_empty() => shown.push(id),
            AgentUpdate::ToolStarted { call_id, .. } => begun.push(call_id),
            AgentUpdate::ToolEnded { call_id, .. } => ended.push(call_id),
            _ => {}
        }
    }
    begun.sort();
    ended.sort();
    shown.sort();
    assert_eq!(shown, ["c", "c-2", "call", "call-2"]);
    assert_eq!((&begun, &ended), (&shown, &shown));
    let sent = model.requests().pop().unwrap().messages;
    let parts = sent.iter().flat_map(|message| &message.content);
    let ids = parts.filter_map(|part| match part {
        Part::ToolResult(result) => Some(result.call_id.as_str()),
        _ => None,
    });
    assert_eq!(ids.collect::<Vec<_>>(), ["c", "c-2", "call", "call-2"]);
}

/// A value of JSON has numbers of 64 bits.
#[tokio::test]
async fn should_stream_numbers_as_they_were_written() {
    const LARGE: &str = "12345678901234567890123";

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Count {
        title: String,
        #[schemars(with = "serde_json::Value")]
        n: Payload,
    }

    async fn count(context: ToolContext, _: Query) -> Result<String, TaskError> {
        context.progress(&Payload::from_text(format!("[{LARGE}]"))?)?;
        Ok("counted".to_owned())
    }

    let answer = format!(r#"{{"n": {LARGE}, "title": "A long title"}}"#);
    let model = scripted([call("c", "count", &json!({"words": "x"})), text(&answer)]);
    let tool = Tool::with_context("count", "Counts.", Effect::Read, count);
    let agent = LlmAgent::new(model).tool(tool).output::<Count>().streaming(Streaming::On);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let items = run.stream(TOKENS).read_from(0).map(|item| match item.unwrap().content {
        OutputContent::Item(update) => update.as_str().to_owned(),
        _ => String::new(),
    });
    let items: Vec<_> = in_time(items.collect()).await;
    let shown = items.iter().filter(|it| it.contains("progress") || it.contains("partial"));
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown.len(), 2, "{items:?}");
    assert!(shown.iter().all(|it| it.contains(LARGE)), "{shown:?}");
    for item in &items {
        let update: AgentUpdate = serde_json::from_str(item).unwrap();
        assert_eq!(serde_json::to_string(&update).unwrap(), *item);
    }
}

/// Models of the providers that report usage before the end of a stream, behind a provider whose stream
/// stops after that.
async fn stalled() -> Vec<(FakeProvider, Arc<dyn LanguageModel>)> {
    let mut stalled = Vec::new();
    for protocol in [2, 3] {
        let replies = [FakeReply::stalled(text("a very long answer about many things"), 3)];
        let provider = FakeProvider::start(replies).await.unwrap();
        let model = crate::support::models(&provider).swap_remove(protocol);
        stalled.push((provider, model));
    }
    stalled
}

#[tokio::test]
async fn should_settle_the_usage_that_was_reported_before_the_timeout_of_the_agent() {
    for (_provider, model) in stalled().await {
        let what = model.name().to_owned();
        let agent = LlmAgent::new(model).streaming(Streaming::On);
        let agent = agent.model_timeout(Duration::from_secs(5)).model_retry(RetryPolicy::never());
        let runtime = runtime(agent).await;
        let run = start(&runtime).await;
        let failure = crate::support::failure(&run).await;
        assert_eq!(failure.code, "MODEL_TIMEOUT", "{what}: {failure}");
        let spent = *Conversation::of(&run).await.unwrap().spent();
        assert_eq!((spent.requests, spent.usage), (1, Usage::new(10, 1)), "{what}");
    }
}

#[tokio::test]
async fn should_settle_the_usage_that_another_process_knows_when_the_run_is_cancelled() {
    for (_provider, model) in stalled().await {
        let what = model.name().to_owned();
        let store = crate::support::store();
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let process = || Runtime::builder().store(Arc::clone(&store)).broker(Arc::clone(&broker));
        // As in two processes, each has an agent of its own.
        let built = || {
            let agent = LlmAgent::new(Arc::clone(&model)).streaming(Streaming::On);
            agent.build("agent").unwrap()
        };
        let host = process().client_only().agents(built().model_agent()).start().await.unwrap();
        let engine = process().workflow_dyn(built().workflow().unwrap()).start().await.unwrap();
        let run = start(&engine).await;
        let mut updates = run.stream(TOKENS).read_from(0);
        in_time(updates.next()).await.unwrap().unwrap();
        run.cancel("enough").await.unwrap();
        assert!(in_time(run.result::<String>()).await.is_err());
        let spent = *Conversation::of(&run).await.unwrap().spent();
        assert_eq!((spent.requests, spent.usage), (1, Usage::new(10, 1)), "{what}");
        drop(host);
    }
}

#[tokio::test]
async fn should_settle_the_usage_that_was_reported_before_the_run_was_cancelled() {
    for (_provider, model) in stalled().await {
        let what = model.name().to_owned();
        let runtime = runtime(LlmAgent::new(model).streaming(Streaming::On)).await;
        let run = start(&runtime).await;
        let mut updates = run.stream(TOKENS).read_from(0);
        in_time(updates.next()).await.unwrap().unwrap();
        run.cancel("enough").await.unwrap();
        assert!(in_time(run.result::<String>()).await.is_err());
        let spent = *Conversation::of(&run).await.unwrap().spent();
        assert_eq!((spent.requests, spent.usage), (1, Usage::new(10, 1)), "{what}");
    }
}
