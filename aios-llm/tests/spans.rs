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
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::{in_time, runtime, scripted, search_call, search_tool, start, text};

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
    let agent = LlmAgent::new(model).tool(search_tool()).max_output_tokens(9);
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
        (gen_ai::RESPONSE_FINISH_REASONS, "tool_call"),
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
    assert!(spans[0][gen_ai::INPUT_MESSAGES].contains("go"));
    assert!(spans[0][gen_ai::OUTPUT_MESSAGES].contains("a secret"));
    assert!(spans[1][gen_ai::TOOL_CALL_ARGUMENTS].contains("a secret"));
    assert_eq!(spans[1][gen_ai::TOOL_CALL_RESULT], "found a secret");
}
