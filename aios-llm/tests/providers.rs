use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_llm::{
    LanguageModel, LlmAgent, ModelError, ModelRequest, ModelResponse,
    model::{
        FinishReason, Message, ModelErrorKind, OutputSchema, Part, StreamEvent, ToolChoice,
        ToolSpec, Usage, collect,
    },
    providers::{AnthropicModel, OpenAiModel, ProviderOptions},
    testing::{FakeProvider, FakeReply},
};
use futures_util::StreamExt;
use serde_json::json;

use crate::support::{in_time, runtime, search_call, search_tool, start, text};

/// A model of each protocol behind a provider.
fn models(provider: &FakeProvider) -> [Arc<dyn LanguageModel>; 2] {
    let options = |url: String| {
        ProviderOptions::new("large")
            .with_api_key("key")
            .with_base_url(url)
            .with_timeout(Duration::from_secs(10))
    };
    [
        Arc::new(OpenAiModel::new(options(provider.openai_url())).unwrap()),
        Arc::new(AnthropicModel::new(options(provider.anthropic_url())).unwrap()),
    ]
}

fn rich() -> ModelResponse {
    let usage = Usage {
        input_tokens: 120,
        cached_input_tokens: 100,
        output_tokens: 30,
        ..Usage::default()
    };
    ModelResponse::new(vec![
        Part::text("Let me look, ünïcode too."),
        Part::tool_call("call_1", "search", &json!({"words": "rust"})),
        Part::tool_call("call_2", "search", &json!({"words": "sqlite"})),
    ])
    .with_usage(usage)
}

fn request() -> ModelRequest {
    let parameters = json!({"type": "object", "properties": {"words": {"type": "string"}}});
    let (name, description) = ("search".to_owned(), "Searches.".to_owned());
    ModelRequest::new("What is new?").with_instructions("Be brief.").with_tool(ToolSpec {
        name,
        description,
        parameters,
    })
}

#[tokio::test]
async fn should_read_responses_whole_and_as_streams() {
    let replies = (0..4).map(|_| FakeReply::response(rich()));
    let provider = FakeProvider::start(replies).await.unwrap();
    for model in models(&provider) {
        let expected = rich().with_model(model.name());
        assert_eq!(in_time(model.complete(&request())).await.unwrap(), expected);
        let stream = in_time(model.stream(&request())).await.unwrap();
        let pieces: Vec<_> = in_time(stream.collect::<Vec<_>>()).await;
        let pieces: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!(pieces.last(), Some(&StreamEvent::Finished(expected)), "{}", model.name());
        let shown: String = pieces
            .iter()
            .filter_map(|piece| match piece {
                StreamEvent::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(shown, "Let me look, ünïcode too.");
        let mut arguments = [String::new(), String::new()];
        for piece in &pieces {
            if let StreamEvent::ToolCall { index, arguments: more, .. } = piece {
                arguments[*index].push_str(more);
            }
        }
        assert_eq!(arguments[1], json!({"words": "sqlite"}).to_string());
    }
    provider.assert_finished();
}

#[tokio::test]
async fn should_write_requests_as_the_protocol_says() {
    let replies = (0..2).map(|_| FakeReply::response(text("ok")));
    let provider = FakeProvider::start(replies).await.unwrap();
    let mut request = request();
    request.tool_choice = ToolChoice::Required;
    request.max_output_tokens = Some(50);
    request.stop = vec!["END".to_owned()];
    request.output =
        Some(OutputSchema { name: "Vec<Report>".to_owned(), schema: json!({"type": "object"}) });
    request.messages.push(rich().to_message());
    request.messages.push(Message::tool_results([aios_llm::model::ToolResult {
        call_id: "call_1".to_owned(),
        name: "search".to_owned(),
        content: "found".to_owned(),
        is_error: false,
    }]));
    for model in models(&provider) {
        in_time(model.complete(&request)).await.unwrap();
    }
    let requests = provider.requests();
    let (openai, anthropic) = (&requests[0], &requests[1]);
    assert_eq!(openai.header("authorization"), Some("Bearer key"));
    assert_eq!(openai.body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(openai.body["messages"][3]["tool_call_id"], "call_1");
    assert_eq!(openai.body["tool_choice"], "required");
    assert_eq!(openai.body["max_tokens"], 50);
    assert_eq!(openai.body["response_format"]["json_schema"]["name"], "VecReport");
    assert_eq!(anthropic.header("x-api-key"), Some("key"));
    assert_eq!(anthropic.body["system"], "Be brief.");
    assert_eq!(anthropic.body["messages"][1]["content"][1]["input"], json!({"words": "rust"}));
    assert_eq!(anthropic.body["messages"][2]["content"][0]["type"], "tool_result");
    assert_eq!(anthropic.body["tool_choice"], json!({"type": "any"}));
    assert_eq!(anthropic.body["stop_sequences"], json!(["END"]));
}

/// The error of a reply, for each protocol.
async fn errors(reply: FakeReply, timeout: Duration) -> Vec<ModelError> {
    let provider = FakeProvider::start([reply.clone(), reply]).await.unwrap();
    let options = |url: String| {
        ProviderOptions::new("large").with_api_key("key").with_base_url(url).with_timeout(timeout)
    };
    let openai = OpenAiModel::new(options(provider.openai_url())).unwrap();
    let anthropic = AnthropicModel::new(options(provider.anthropic_url())).unwrap();
    let first = in_time(openai.complete(&request())).await.unwrap_err();
    vec![first, in_time(anthropic.complete(&request())).await.unwrap_err()]
}

#[tokio::test]
async fn should_report_every_fault_with_its_kind() {
    use ModelErrorKind as Kind;
    let long = Duration::from_secs(10);
    let faults = [
        (FakeReply::rate_limited(Duration::from_secs(7)), Kind::RateLimited, true),
        (FakeReply::overloaded(), Kind::Overloaded, true),
        (FakeReply::context_overflow(), Kind::ContextOverflow, false),
        (FakeReply::malformed(), Kind::InvalidResponse, true),
        (FakeReply::cut_off(text("a long answer"), 3), Kind::InvalidResponse, true),
        (FakeReply::status(401, "wrong key"), Kind::Unauthorized, false),
        (FakeReply::status(404, "no such model"), Kind::InvalidRequest, false),
        (FakeReply::status(500, "internal"), Kind::Backend, true),
        (FakeReply::status(302, "elsewhere"), Kind::Backend, false),
    ];
    for (reply, kind, is_retryable) in faults {
        for error in errors(reply, long).await {
            assert_eq!((error.kind(), error.is_retryable()), (kind, is_retryable), "{error}");
            assert!(!error.to_failure().message.contains("What is new?"));
            let asked = (kind == Kind::RateLimited).then_some(Duration::from_secs(7));
            assert_eq!(error.retry_after(), asked);
        }
    }
    for error in errors(FakeReply::hang(), Duration::from_millis(50)).await {
        assert_eq!(error.kind(), Kind::Timeout);
    }
}

#[tokio::test]
async fn should_report_streams_that_are_cut_off() {
    for pieces in [0, 1, 3] {
        let replies = (0..2).map(|_| FakeReply::cut_off(rich(), pieces));
        let provider = FakeProvider::start(replies).await.unwrap();
        for model in models(&provider) {
            let stream = in_time(model.stream(&request())).await.unwrap();
            let error = in_time(collect(stream)).await.unwrap_err();
            assert_eq!(error.kind(), ModelErrorKind::InvalidResponse, "{error}");
        }
    }
}

#[tokio::test]
async fn should_report_a_provider_that_cannot_be_reached() {
    let options = ProviderOptions::new("m").with_base_url("http://127.0.0.1:1/v1");
    let error = OpenAiModel::new(options).unwrap().complete(&request()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ModelErrorKind::Unavailable, true));
    let options = ProviderOptions::new("m").with_base_url("no url");
    assert_eq!(OpenAiModel::new(options).unwrap_err().code(), "MODEL_INVALID_REQUEST");
    let options = ProviderOptions::new("m").with_api_key("line\nbreak");
    assert_eq!(AnthropicModel::new(options).unwrap_err().code(), "MODEL_INVALID_REQUEST");
}

#[tokio::test]
async fn should_run_an_agent_on_a_provider_through_its_faults() {
    let replies = [
        FakeReply::rate_limited(Duration::ZERO),
        FakeReply::response(search_call("rust")),
        FakeReply::overloaded(),
        FakeReply::response(text("done")),
    ];
    for protocol in 0..2 {
        let provider = FakeProvider::start(replies.clone()).await.unwrap();
        let model = Arc::clone(&models(&provider)[protocol]);
        let agent = LlmAgent::new(model)
            .tool(search_tool())
            .model_retry(RetryPolicy::fixed(3, Duration::from_millis(1)));
        let runtime = runtime(agent).await;
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
        provider.assert_finished();
        assert_eq!(provider.requests().len(), 4, "nothing else retries");
    }
}

#[tokio::test]
async fn should_know_why_a_response_ended() {
    for reason in [FinishReason::Length, FinishReason::Refusal] {
        let reply = FakeReply::response(text("I").with_finish_reason(reason.clone()));
        let provider = FakeProvider::start([reply.clone(), reply]).await.unwrap();
        for model in models(&provider) {
            let response = in_time(model.complete(&request())).await.unwrap();
            assert_eq!(response.finish_reason, reason);
        }
    }
}

#[tokio::test]
async fn should_answer_with_a_function() {
    let provider = FakeProvider::respond_with(|request| {
        let model = request.body["model"].as_str().unwrap_or_default();
        FakeReply::response(text(&format!("{model} at {}", request.path)))
    });
    let provider = provider.await.unwrap();
    for model in models(&provider) {
        let answer = in_time(model.complete(&request())).await.unwrap().output_text();
        assert!(answer.starts_with("large at /v1/"), "{answer}");
    }
}
