//! Secrets in prompts, tools, responses and keys are in no log line, no span and no error.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_core::{Chain, event::Payload};
use aios_llm::{
    LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt, Streaming,
    guardrail::{Guardrail, Verdict},
    model::{FinishReason, Message},
    providers::{AwsCredentials, ProviderOptions, connect},
    testing::{FakeProvider, FakeReply},
    tool::Tool,
};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{
    Query, builder, call, failure, in_time, scripted, search_tool, start, store, text,
};

/// Every planted secret contains this.
const MARK: &str = "s3cr3t";
const KEY: &str = "sk-s3cr3t-key";

/// All lines of the log, spans included.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn options(url: String) -> ProviderOptions {
    ProviderOptions::new("large")
        .with_api_key(KEY)
        .with_base_url(url)
        .with_timeout(Duration::from_secs(60))
        .with_region("eu-west-1")
}

/// Runs an agent that meets a fault, and returns what a person sees of it.
async fn seen(provider_name: &str, fault: FakeReply, lines: &Lines) -> Vec<String> {
    let arguments = json!({"words": format!("{MARK} argument")});
    let replies = [
        FakeReply::response(call("c", "look", &arguments)),
        fault,
        FakeReply::response(call("c", "fail", &arguments)),
        FakeReply::response(text(&format!("{MARK} answer"))),
    ];
    let provider = FakeProvider::start(replies).await.unwrap();
    let url = match provider_name {
        "openai" | "openai-responses" | "ollama" => provider.openai_url(),
        _ => provider.anthropic_url(),
    };
    let mut options = options(url);
    if provider_name == "bedrock" {
        options = options
            .with_aws_credentials(|| AwsCredentials::new("AKID", KEY).with_session_token(KEY));
    }
    let shown = format!("{options:?}");
    let model = connect(provider_name, options).unwrap();
    let look =
        |query: Query| async move { Ok::<_, TaskError>(format!("{MARK} result {}", query.words)) };
    let fail = |_: Query| async {
        Err::<String, _>(TaskError::terminal(Failure::new("NO_PAGE", "no page")))
    };
    let agent = LlmAgent::new(model)
        .instructions(format!("{MARK} instructions"))
        .tool(Tool::read("look", "Looks.", look))
        .tool(Tool::read("fail", "Fails.", fail))
        .streaming(Streaming::On)
        .model_retry(RetryPolicy::fixed(2, Duration::from_millis(1)));
    let shown_agent = format!("{agent:?}");
    let runtime = builder(&store()).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = runtime.start("agent", &format!("{MARK} prompt")).await.unwrap();
    let ended = in_time(run.result::<Value>()).await;
    runtime.shutdown(Duration::from_secs(10)).await.unwrap();
    let failed = ended.err().map(|error| format!("{error:?} {}", Chain(&error)));
    let mut seen = vec![shown, shown_agent, lines.text()];
    seen.extend(failed);
    seen
}

/// Runs code on one thread, whose subscriber sees everything that happens.
fn logged(lines: &Lines, code: impl Future<Output = ()>) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(lines.clone())
        .finish();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _second = aios_tests::log::second_subscriber();
    tracing::subscriber::with_default(subscriber, || tokio.block_on(code));
}

/// Asserts that a text has no planted secret.
fn check(text: &str, what: &str) {
    let near = text.find(MARK).map(|at| {
        let from = at.saturating_sub(300);
        text.get(from..(at + 40).min(text.len())).unwrap_or_default()
    });
    assert_eq!(near, None, "{what}");
}

#[test]
fn should_be_in_no_log_no_span_and_no_error() {
    let lines = Lines::default();
    logged(&lines, async {
        for provider in aios_llm::providers::PROVIDERS {
            let faults = [
                FakeReply::rate_limited(Duration::ZERO),
                FakeReply::malformed(),
                FakeReply::cut_off(text(&format!("{MARK} answer")), 1),
                FakeReply::context_overflow(),
                FakeReply::status(401, format!("Incorrect API key provided: {KEY}.")),
                FakeReply::status(400, format!("the field {} is wrong", "x".repeat(2000))),
            ];
            for fault in faults {
                let what = format!("{provider} {fault:?}").replace(MARK, "");
                for text in seen(provider, fault, &lines).await {
                    check(&text, &what);
                }
            }
        }
    });
    assert!(lines.text().contains("agent_model"), "something is logged: {}", lines.text());
}

/// An agent that fails because of what its model says or its code complains about, and the code of the
/// failure, whose message has a secret.
fn failing() -> Vec<(LlmAgent<Value>, &'static str)> {
    let failed = || TaskError::terminal(Failure::new("CHECK_FAILED", format!("{MARK} check")));
    let agent = |response: ModelResponse| {
        LlmAgent::new(scripted([response])).max_faults(0).output_text().tool(search_tool())
    };
    let schema = json!({
        "type": "object",
        "properties": {"amount": {"type": "integer"}},
        "required": ["amount"],
        "additionalProperties": false,
    });
    let invalid = text(&format!(r#"{{"amount": "{MARK}"}}"#));
    let refusal = text(&format!("{MARK} refusal")).with_finish_reason(FinishReason::Refusal);
    let wrong = call("c", "search", &json!({"words": {"a": MARK}}));
    let answer = || text(&format!("{MARK} answer"));
    let trip = |answer: Payload| async move { Ok::<_, TaskError>(Verdict::trip(answer.as_str())) };
    let fail = move |_: Payload| async move { Err::<Verdict, _>(failed()) };
    vec![
        (agent(invalid).output_schema("report", schema), "MODEL_FAULTS"),
        (agent(refusal), "MODEL_REFUSED"),
        (agent(wrong), "MODEL_FAULTS"),
        (agent(answer()).guardrail(Guardrail::output("trips", trip)), "GUARDRAIL_TRIPPED"),
        (agent(answer()).guardrail(Guardrail::output("fails", fail)), "CHECK_FAILED"),
    ]
}

#[test]
fn should_not_be_in_the_log_if_they_are_in_the_failure_of_a_run() {
    let lines = Lines::default();
    logged(&lines, async {
        for (agent, code) in failing() {
            let agent = agent.build("agent").unwrap();
            let agents = agent.agents().into_iter();
            let agents = agents.map(|it| it.with_layer(aios_agents::middleware::Trace::new()));
            let builder = builder(&store()).workflow_dyn(agent.workflow().unwrap());
            let builder = agents.fold(builder, aios_agents::RuntimeBuilder::agents);
            let runtime = builder.start().await.unwrap();
            let failure = failure(&start(&runtime).await).await;
            runtime.shutdown(Duration::from_secs(10)).await.unwrap();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(MARK), "{failure}");
            check(&lines.text(), code);
            assert!(lines.text().contains(code), "the code is logged: {}", lines.text());
        }
    });
}

#[tokio::test]
async fn should_not_be_in_errors_of_models() {
    for provider in aios_llm::providers::PROVIDERS {
        let options = options("http://127.0.0.1:1".to_owned());
        let model = connect(provider, options).unwrap();
        let request = ModelRequest::new(format!("{MARK} prompt"))
            .with_message(Message::assistant(format!("{MARK} answer")));
        let error = in_time(model.complete(&request)).await.unwrap_err();
        let shown = format!("{error:?} {} {:?}", Chain(&error), error.to_failure());
        assert!(!shown.contains(MARK), "{shown}");
    }
}
