//! The spans of model calls and tool calls.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use aios_llm::{
    LlmAgent,
    gen_ai::{self, TraceContent},
    model::Usage,
    testing::FunctionModel,
};
use serde_json::{Value, json};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::{in_time, runtime, scripted, search_call, search_tool, start, text, value};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of the spans of this crate.
#[derive(Clone, Default)]
struct Spans {
    next: Arc<AtomicU64>,
    all: Arc<Mutex<BTreeMap<u64, Fields>>>,
}

struct Visitor<'f>(&'f mut Fields);

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == gen_ai::TARGET
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let id = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        let mut fields = Fields::new();
        attributes.record(&mut Visitor(&mut fields));
        self.all.lock().unwrap().insert(id, fields);
        span::Id::from_u64(id)
    }

    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        let mut all = self.all.lock().unwrap();
        values.record(&mut Visitor(all.get_mut(&id.into_u64()).unwrap()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

async fn spans_of_a_run(content: TraceContent) -> Vec<Fields> {
    let spans = Spans::default();
    let _second = aios_tests::log::second_subscriber();
    let guard = tracing::subscriber::set_default(spans.clone());
    let model = scripted([search_call("a secret").with_model("acme:large"), text("done")]);
    let agent = LlmAgent::new(model).instructions("Be brief.");
    let agent = agent.tool(search_tool()).max_output_tokens(9);
    let runtime = runtime(agent.trace_content(content)).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    drop(guard);
    let all = spans.all.lock().unwrap();
    all.values().cloned().collect()
}

#[tokio::test]
async fn should_have_the_attributes_of_the_conventions_and_no_content() {
    let spans = spans_of_a_run(TraceContent::Off).await;
    let named: Vec<_> = spans.iter().map(|fields| fields["otel.name"].as_str()).collect();
    assert_eq!(named, ["chat scripted", "execute_tool search", "chat scripted"]);
    let expected = [
        (gen_ai::OPERATION_NAME, "chat"),
        (gen_ai::PROVIDER_NAME, "test"),
        (gen_ai::AGENT_NAME, "agent"),
        (gen_ai::REQUEST_MODEL, "scripted"),
        (gen_ai::REQUEST_MAX_TOKENS, "9"),
        (gen_ai::RESPONSE_MODEL, "large"),
        (gen_ai::RESPONSE_FINISH_REASONS, "[\"tool_call\"]"),
        (gen_ai::USAGE_INPUT_TOKENS, "10"),
        (gen_ai::USAGE_OUTPUT_TOKENS, "5"),
    ];
    for (name, value) in expected {
        assert_eq!(spans[0].get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(spans[0].contains_key(gen_ai::CONVERSATION_ID));
    assert_eq!(spans[1][gen_ai::TOOL_NAME], "search");
    let values = spans.iter().flat_map(BTreeMap::values);
    assert!(values.clone().all(|value| !value.contains("secret") && !value.contains("go")));
}

#[tokio::test]
async fn should_have_the_content_if_it_is_switched_on() {
    let spans = spans_of_a_run(TraceContent::On).await;
    let content = |span: usize, name: &str| value(&spans[span][name]);
    let of_user = json!({"role": "user", "parts": [{"type": "text", "content": "go"}]});
    assert_eq!(content(0, gen_ai::INPUT_MESSAGES), json!([of_user]));
    let instructions = json!([{"type": "text", "content": "Be brief."}]);
    assert_eq!(content(0, gen_ai::SYSTEM_INSTRUCTIONS), instructions);
    let arguments = json!({"words": "a secret"});
    let called = json!({"type": "tool_call", "id": "c", "name": "search", "arguments": arguments});
    let of_model = json!({"role": "assistant", "parts": [called]});
    let mut expected = of_model.clone();
    expected["finish_reason"] = json!("tool_call");
    assert_eq!(content(0, gen_ai::OUTPUT_MESSAGES), json!([expected]));
    let result = json!({"type": "tool_call_response", "id": "c", "response": "found a secret"});
    let of_tool = json!({"role": "tool", "parts": [result]});
    assert_eq!(content(2, gen_ai::INPUT_MESSAGES), json!([of_user, of_model, of_tool]));
    assert_eq!(content(1, gen_ai::TOOL_CALL_ARGUMENTS), arguments);
    assert_eq!(spans[1][gen_ai::TOOL_CALL_RESULT], "found a secret");
}

/// The attributes that the journal has for the spans of attempts, in the order of their ends.
async fn recorded<O>(agent: LlmAgent<O>) -> Vec<Value> {
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let _ = in_time(run.result::<String>()).await;
    let journal = run.journal(0, 1_000).await.unwrap();
    let of = |name| journal.iter().filter_map(|it| it.event.metadata.extra.value(name)).collect();
    let found: Vec<&aios_core::event::Payload> = of("span_attributes");
    found.into_iter().map(|it| value(it.as_str())).collect()
}

#[tokio::test]
async fn should_record_the_attributes_without_content_in_the_journal() {
    let usage = Usage { cached_input_tokens: 3, reasoning_tokens: 2, ..Usage::new(10, 5) };
    let first = search_call("a secret").with_model("bedrock:anthropic.claude-v1:0");
    let last = text("done").with_model("openai-responses:gpt-5");
    let model = scripted([first, last.with_usage(usage)]);
    let agent = LlmAgent::new(model).tool(search_tool()).temperature(0.5);
    let spans = recorded(agent.trace_content(TraceContent::On)).await;
    let [chat, tool, last] = spans.as_slice() else { panic!("{spans:#?}") };
    let run_id = chat[gen_ai::CONVERSATION_ID].clone();
    let expected = json!({
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "test",
        "gen_ai.agent.name": "agent",
        "gen_ai.conversation.id": run_id,
        "gen_ai.request.model": "scripted",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": "anthropic.claude-v1:0",
        "gen_ai.response.finish_reasons": ["tool_call"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
    });
    assert!(run_id.is_string());
    assert_eq!(*chat, expected);
    let expected = json!({
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.agent.name": "agent",
        "gen_ai.conversation.id": run_id,
        "gen_ai.tool.name": "search",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "c",
    });
    assert_eq!(*tool, expected);
    assert_eq!(last["gen_ai.response.model"], "gpt-5");
    assert_eq!(last["gen_ai.response.finish_reasons"], json!(["stop"]));
    assert_eq!(last["gen_ai.usage.cache_read.input_tokens"], 3);
    assert_eq!(last["gen_ai.usage.reasoning.output_tokens"], 2);
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Report {
    title: String,
}

#[tokio::test]
async fn should_say_that_output_has_a_schema() {
    let model = scripted([text(r#"{"title": "One"}"#)]);
    let spans = recorded(LlmAgent::new(model).output::<Report>()).await;
    assert_eq!(spans[0]["gen_ai.output.type"], "json");
}

#[tokio::test]
async fn should_name_providers_in_the_words_of_the_conventions() {
    let names = [
        ("openai:gpt-5", Some("openai"), "gpt-5"),
        ("openai-responses:gpt-5", Some("openai"), "gpt-5"),
        ("anthropic:claude", Some("anthropic"), "claude"),
        ("gemini:flash", Some("gcp.gemini"), "flash"),
        ("bedrock:anthropic.claude-v1:0", Some("aws.bedrock"), "anthropic.claude-v1:0"),
        ("ollama:llama3", Some("ollama"), "llama3"),
        ("mistral:large", Some("mistral_ai"), "large"),
        ("local", None, "local"),
    ];
    for (name, provider, model) in names {
        let function = FunctionModel::new(|_| async { Ok(text("done")) }).with_name(name);
        let spans = recorded(LlmAgent::new(function)).await;
        assert_eq!(spans[0].get(gen_ai::PROVIDER_NAME).and_then(Value::as_str), provider, "{name}");
        assert_eq!(spans[0][gen_ai::REQUEST_MODEL], model);
    }
}
