use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_llm::{
    Compaction, LanguageModel, LlmAgent, ModelError, ModelRequest, ModelResponse,
    model::{
        Capabilities, FinishReason, ImageSource, Message, ModelErrorKind, OutputSchema, Part,
        StreamEvent, ToolCall, ToolChoice, ToolResult, ToolSpec, Usage, collect,
    },
    providers::{
        AnthropicModel, BedrockModel, OpenAiModel, ProviderOptions, connect, read_retry_after,
        status_error,
    },
    testing::{FakeProvider, FakeReply},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    in_time, models, models_with_timeout, runtime, search_call, search_tool, start, text, value,
};

/// Number of the models of [`models`].
const MODELS: usize = 6;

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

/// The response with the ids of calls in another one, because Gemini has none.
fn with_ids_of(other: &ModelResponse, mut response: ModelResponse) -> ModelResponse {
    let ids: Vec<_> = other.tool_calls().map(|call| call.id.clone()).collect();
    let calls = response.content.iter_mut().filter_map(|part| match part {
        Part::ToolCall(call) => Some(call),
        _ => None,
    });
    for (call, id) in calls.zip(ids) {
        call.id = id;
    }
    response
}

#[tokio::test]
async fn should_read_responses_whole_and_as_streams() {
    let replies = (0..2 * MODELS).map(|_| FakeReply::response(rich()));
    let provider = FakeProvider::start(replies).await.unwrap();
    for model in models(&provider) {
        let expected = rich().with_model(model.name());
        let whole = in_time(model.complete(&request())).await.unwrap();
        let expected = with_ids_of(&whole, expected);
        assert_eq!(whole, expected);
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

/// A request with everything that all protocols have.
fn conversation() -> ModelRequest {
    let mut request = request();
    request.tool_choice = ToolChoice::Required;
    request.max_output_tokens = Some(50);
    request.output =
        Some(OutputSchema { name: "Vec<Report>".to_owned(), schema: json!({"type": "object"}) });
    request.messages.push(rich().to_message());
    request.messages.push(Message::tool_results([ToolResult {
        call_id: "call_1".to_owned(),
        name: "search".to_owned(),
        content: "found".to_owned(),
        is_error: false,
    }]));
    request
}

#[tokio::test]
async fn should_write_requests_as_the_protocol_says() {
    let replies = (0..MODELS).map(|_| FakeReply::response(text("ok")));
    let provider = FakeProvider::start(replies).await.unwrap();
    for model in models(&provider) {
        in_time(model.complete(&conversation())).await.unwrap();
    }
    let requests = provider.requests();
    let [openai, responses, anthropic, gemini, bedrock, ollama] = requests.as_slice() else {
        panic!("{} requests", requests.len())
    };
    assert_eq!(openai.header("authorization"), Some("Bearer key"));
    assert_eq!(openai.body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(openai.body["messages"][3]["tool_call_id"], "call_1");
    assert_eq!(openai.body["tool_choice"], "required");
    assert_eq!(openai.body["max_tokens"], 50);
    assert_eq!(openai.body["response_format"]["json_schema"]["name"], "VecReport");
    assert_eq!(openai.body, ollama.body);

    assert_eq!(responses.path, "/v1/responses");
    assert_eq!(responses.body["instructions"], "Be brief.");
    assert_eq!(responses.body["input"][0]["content"][0]["type"], "input_text");
    assert_eq!(responses.body["input"][2]["name"], "search");
    assert_eq!(responses.body["input"][4]["output"], "found");
    assert_eq!(responses.body["text"]["format"]["name"], "VecReport");
    assert_eq!(
        (&responses.body["store"], &responses.body["max_output_tokens"]),
        (&json!(false), &json!(50))
    );

    assert_eq!(anthropic.header("x-api-key"), Some("key"));
    assert_eq!(anthropic.body["system"], "Be brief.");
    assert_eq!(anthropic.body["messages"][1]["content"][1]["input"], json!({"words": "rust"}));
    assert_eq!(anthropic.body["messages"][2]["content"][0]["type"], "tool_result");
    assert_eq!(anthropic.body["tool_choice"], json!({"type": "any"}));

    assert_eq!(gemini.path, "/v1beta/models/large:generateContent");
    assert_eq!(gemini.header("x-goog-api-key"), Some("key"));
    assert_eq!(gemini.body["systemInstruction"]["parts"][0]["text"], "Be brief.");
    assert_eq!(
        gemini.body["contents"][1]["parts"][1]["functionCall"]["args"],
        json!({"words": "rust"})
    );
    assert_eq!(gemini.body["contents"][2]["parts"][0]["functionResponse"]["name"], "search");
    assert_eq!(gemini.body["toolConfig"]["functionCallingConfig"]["mode"], "ANY");
    assert_eq!(gemini.body["generationConfig"]["responseMimeType"], "application/json");

    assert_eq!(bedrock.path, "/model/large/converse");
    let signed = bedrock.header("authorization").unwrap();
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{signed}");
    assert_eq!(bedrock.header("x-amz-security-token"), Some("token"));
    assert_eq!(bedrock.body["system"], json!([{"text": "Be brief."}]));
    assert_eq!(bedrock.body["messages"][2]["content"][0]["toolResult"]["status"], "success");
    assert_eq!(bedrock.body["toolConfig"]["toolChoice"], json!({"any": {}}));
    assert_eq!(bedrock.body["inferenceConfig"], json!({"maxTokens": 50}));
}

/// Providers reject an empty list of tools, a choice among none, and some calls without tools. A
/// conversation may have calls of tools that its agent no longer has.
#[tokio::test]
async fn should_leave_out_tools_if_there_are_none() {
    let replies = (0..2 * MODELS).map(|_| FakeReply::response(text("ok")));
    let provider = FakeProvider::start(replies).await.unwrap();
    let mut without_tools = conversation();
    without_tools.tools.clear();
    for choice in [ToolChoice::Auto, ToolChoice::Required] {
        without_tools.tool_choice = choice;
        for model in models(&provider) {
            in_time(model.complete(&without_tools)).await.unwrap();
        }
    }
    for request in provider.requests() {
        for field in ["tools", "tool_choice", "toolConfig"] {
            assert!(request.body.get(field).is_none(), "{} of {}", field, request.path);
        }
    }
    let bedrock = provider.requests()[4].body["messages"].to_string();
    assert!(bedrock.contains("found") && !bedrock.contains("toolResult"), "{bedrock}");
}

#[tokio::test]
async fn should_run_an_agent_without_tools_on_every_provider() {
    let replies = (0..MODELS).map(|_| FakeReply::response(text("hello")));
    let provider = FakeProvider::start(replies).await.unwrap();
    for model in models(&provider) {
        let runtime = runtime(LlmAgent::new(model)).await;
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "hello");
    }
    provider.assert_finished();
}

#[tokio::test]
async fn should_refuse_what_a_protocol_does_not_have() {
    let provider = FakeProvider::start([]).await.unwrap();
    let models = models(&provider);
    let (responses, bedrock) = (&models[1], &models[4]);
    let mut stop = request();
    stop.stop = vec!["END".to_owned()];
    let image = Part::Image { source: ImageSource::Url("https://example.com/a.png".to_owned()) };
    let mut linked = request();
    linked.messages[0].content.push(image);
    for (model, request) in [(responses, &stop), (bedrock, &linked)] {
        let error = in_time(model.complete(request)).await.unwrap_err();
        assert_eq!(error.code(), "MODEL_INVALID_REQUEST");
        assert!(error.to_string().contains("does not support"), "{error}");
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn should_refuse_providers_that_it_cannot_create() {
    let refused = |provider: &str| {
        let refused = connect(provider, ProviderOptions::new("m")).err().unwrap();
        assert_eq!(refused.code(), "MODEL_INVALID_REQUEST");
        refused.to_string()
    };
    assert!(refused("acme").contains("openai-responses"));
    assert!(refused("bedrock").contains("with_region"));
    let names: Vec<_> = ["anthropic", "gemini", "ollama", "openai", "openai-responses"]
        .map(|provider| connect(provider, ProviderOptions::new("m")).unwrap().name().to_owned())
        .into();
    assert_eq!(names, ["anthropic:m", "gemini:m", "ollama:m", "openai:m", "openai:m"]);
}

/// Reasoning is sent back to the provider that signed it, and to no other.
#[tokio::test]
async fn should_send_reasoning_back_to_its_provider_only() {
    let thought = |text: &str| Part::Reasoning {
        text: text.to_owned(),
        signature: Some("c2lnbmVk".to_owned()),
    };
    let reply = ModelResponse::new(vec![thought("Hm."), Part::text("ok")]);
    let provider = FakeProvider::start([]).await.unwrap();
    let models = models(&provider);
    for (which, model) in models.iter().enumerate().filter(|(which, _)| [1, 2, 4].contains(which)) {
        let mut signed = Vec::new();
        for streams in [false, true] {
            provider.push(FakeReply::response(reply.clone()));
            let response = if streams {
                in_time(collect(model.stream(&request()).await.unwrap())).await.unwrap()
            } else {
                in_time(model.complete(&request())).await.unwrap()
            };
            let Part::Reasoning { text, signature } = &response.content[0] else {
                panic!("{response:?}")
            };
            assert_eq!(text, "Hm.");
            assert!(signature.is_some());
            signed.push(response.to_message());
        }
        assert_eq!(signed[0], signed[1]);
        for (other, next) in models.iter().enumerate() {
            provider.push(FakeReply::response(text("ok")));
            let request = ModelRequest::new("again").with_message(signed[0].clone());
            in_time(next.complete(&request)).await.unwrap();
            let sent = provider.requests().pop().unwrap().body.to_string();
            assert_eq!(sent.contains("c2lnbmVk"), other == which, "{which} to {other}: {sent}");
        }
    }
}

/// Anthropic encrypts some reasoning. It is sent back as it came, and to no other provider.
#[tokio::test]
async fn should_send_redacted_reasoning_back_as_it_came() {
    let block = json!({"type": "redacted_thinking", "data": "ZW5jcnlwdGVk"});
    let events = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "ok"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        json!({"type": "message_stop"}),
    ];
    let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let url = raw(vec![STREAM.into(), events.into_bytes()]).await;
    let options = ProviderOptions::new("m").with_api_key("key").with_base_url(url);
    let model = AnthropicModel::new(options).unwrap();
    let streamed = in_time(collect(model.stream(&request()).await.unwrap())).await.unwrap();
    let body =
        json!({"content": [block, {"type": "text", "text": "ok"}], "stop_reason": "end_turn"});
    let whole = model.read_response(&body.to_string()).unwrap();
    assert_eq!(streamed.output_text(), "ok");
    assert_eq!(streamed.content, whole.content);

    let again = ModelRequest::new("again").with_message(whole.to_message());
    assert_eq!(value(&model.request_body(&again))["messages"][1]["content"][0], block);
    let provider = FakeProvider::start([]).await.unwrap();
    for other in models(&provider).iter().filter(|model| !model.name().starts_with("anthropic")) {
        provider.push(FakeReply::response(text("ok")));
        in_time(other.complete(&again)).await.unwrap();
        let sent = provider.requests().pop().unwrap().body.to_string();
        assert!(!sent.contains("ZW5jcnlwdGVk"), "{}: {sent}", other.name());
    }
}

/// A claim about a model that is newer than what is known here.
#[tokio::test]
async fn should_request_native_output_of_models_that_are_said_to_support_it() {
    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[allow(dead_code, reason = "only the schema is used")]
    struct City {
        name: String,
    }
    let provider = FakeProvider::start([]).await.unwrap();
    let native = Capabilities::none().with_native_output(true).with_tools(true);
    let options = |url: String| {
        let options = ProviderOptions::new("m").with_api_key("key").with_region("eu-west-1");
        options.with_base_url(url).with_capabilities(native)
    };
    let anthropic = AnthropicModel::new(options(provider.anthropic_url())).unwrap();
    let bedrock = BedrockModel::new(options(provider.bedrock_url())).unwrap();
    let output =
        OutputSchema { name: "City".to_owned(), schema: schemars::schema_for!(City).to_value() };
    let mut wanted = request();
    wanted.output = Some(output);
    let models: [&dyn LanguageModel; 2] = [&anthropic, &bedrock];
    for model in models {
        provider.push(FakeReply::response(text("{}")));
        in_time(model.complete(&wanted)).await.unwrap();
    }
    let [anthropic, bedrock] = &provider.requests()[..] else { panic!() };
    let format = &anthropic.body["output_config"]["format"];
    assert_eq!(format["type"], "json_schema");
    assert_eq!(format["schema"]["properties"]["name"]["type"], "string");
    assert_eq!(format["schema"]["additionalProperties"], false);
    let format = &bedrock.body["outputConfig"]["textFormat"];
    assert_eq!(format["type"], "json_schema");
    let schema = &format["structure"]["jsonSchema"];
    assert_eq!(schema["name"], "City");
    assert_eq!(value(schema["schema"].as_str().unwrap())["additionalProperties"], false);
}

/// Gemini signs the parts that follow hidden reasoning.
#[tokio::test]
async fn should_sign_the_part_that_gemini_has_signed() {
    let provider = FakeProvider::start([FakeReply::response(text("ok"))]).await.unwrap();
    let model = models(&provider).swap_remove(3);
    let hidden =
        Part::Reasoning { text: String::new(), signature: Some("gemini:c2lnbmVk".to_owned()) };
    let call = Part::tool_call("x-0", "search", &json!({"words": "a"}));
    let said = ModelResponse::new(vec![Part::text("Hm."), hidden, call]).to_message();
    in_time(model.complete(&ModelRequest::new("go").with_message(said))).await.unwrap();
    let parts = &provider.requests()[0].body["contents"][1]["parts"];
    assert_eq!(parts[0], json!({"text": "Hm."}));
    assert_eq!(parts[1]["thoughtSignature"], "c2lnbmVk");
    assert_eq!(parts[1]["functionCall"]["name"], "search");
}

/// The error of a reply, for each protocol.
async fn errors(reply: FakeReply, timeout: Duration) -> Vec<ModelError> {
    let provider = FakeProvider::start(vec![reply; MODELS]).await.unwrap();
    let mut errors = Vec::new();
    for model in models_with_timeout(&provider, timeout) {
        errors.push(in_time(model.complete(&request())).await.unwrap_err());
    }
    errors
}

#[tokio::test]
async fn should_report_every_fault_with_its_kind() {
    use ModelErrorKind as Kind;
    let long = Duration::from_secs(60);
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
        let replies = (0..MODELS).map(|_| FakeReply::cut_off(rich(), pieces));
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
    for protocol in 0..MODELS {
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
        let provider = FakeProvider::start(vec![reply; MODELS]).await.unwrap();
        for model in models(&provider) {
            let response = in_time(model.complete(&request())).await.unwrap();
            assert_eq!(response.finish_reason, reason);
        }
    }
}

/// Generation that failed is no answer, and is paid for.
#[tokio::test]
async fn should_tell_failed_generation_from_an_answer() {
    let failed = [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "OTHER",
        "FINISH_REASON_UNSPECIFIED",
    ];
    let refused = ["SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"];
    for reason in failed.into_iter().chain(refused) {
        let body = json!({
            "candidates": [{"content": {"parts": [{"text": "I"}]}, "finishReason": reason}],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3},
        });
        for (head, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", body.to_string()),
            ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n", format!("data: {body}\n\n")),
        ] {
            let is_stream = body.starts_with("data");
            let reply =
                format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let url = raw(vec![reply.into_bytes()]).await;
            let options = ProviderOptions::new("m").with_api_key("key").with_base_url(url);
            let model = aios_llm::providers::GeminiModel::new(options).unwrap();
            let response = match is_stream {
                true => match in_time(model.stream(&request())).await {
                    Ok(stream) => in_time(aios_llm::model::collect(stream)).await,
                    Err(error) => Err(error),
                },
                false => in_time(model.complete(&request())).await,
            };
            match response {
                Ok(response) => {
                    assert!(refused.contains(&reason), "{reason}");
                    assert_eq!(response.finish_reason, FinishReason::Refusal, "{reason}");
                }
                Err(error) => {
                    assert!(failed.contains(&reason), "{reason}: {error}");
                    assert_eq!(error.kind(), ModelErrorKind::InvalidResponse, "{error}");
                    assert_eq!(error.usage(), Some(Usage::new(7, 3)), "{error}");
                    assert!(error.is_retryable() && error.to_string().contains(reason), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn should_answer_with_a_function() {
    let provider = FakeProvider::respond_with(|request| {
        FakeReply::response(text(&format!("at {}", request.path)))
    });
    let provider = provider.await.unwrap();
    for model in models(&provider) {
        let answer = in_time(model.complete(&request())).await.unwrap().output_text();
        assert!(answer.starts_with("at /"), "{answer}");
    }
}

/// Providers reject messages without content, texts without a letter, and names of tools that models
/// invent. Two of them want the roles to alternate.
#[tokio::test]
async fn should_send_back_only_what_providers_accept() {
    let provider =
        FakeProvider::start(vec![FakeReply::response(text("ok")); MODELS]).await.unwrap();
    let said = |parts| ModelResponse::new(parts).to_message();
    let (id, name) = ("c".to_owned(), "functions.search".to_owned());
    let invented =
        Part::ToolCall(ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() });
    let (content, is_error) = ("There is no such tool.".to_owned(), true);
    let result = ToolResult { call_id: id, name, content, is_error };
    let request = request()
        .with_message(said(Vec::new()))
        .with_message(Message::user("The answer is empty."))
        .with_message(said(vec![Part::text("\n"), invented]))
        .with_message(Message::tool_results([result]))
        .with_message(Message::user("Well?"));
    for model in models(&provider) {
        in_time(model.complete(&request)).await.unwrap();
    }
    for request in provider.requests() {
        assert!(!request.body.to_string().contains("functions.search"), "{}", request.body);
    }
    let bodies: Vec<_> = provider.requests().into_iter().map(|request| request.body).collect();
    let turns = |messages: &Value| -> Vec<(String, usize)> {
        let parts = |it: &Value| it["content"].as_array().or(it["parts"].as_array()).unwrap().len();
        let turn = |it: &Value| (it["role"].as_str().unwrap().to_owned(), parts(it));
        messages.as_array().unwrap().iter().map(turn).collect()
    };
    let expected =
        [("user", 2), ("assistant", 1), ("user", 2)].map(|(role, parts)| (role.to_owned(), parts));
    assert_eq!(turns(&bodies[2]["messages"]), expected);
    assert_eq!(turns(&bodies[4]["messages"]), expected);
    let parts: Vec<_> = turns(&bodies[3]["contents"]).into_iter().map(|(_, parts)| parts).collect();
    assert_eq!(parts, [1, 1, 2, 1, 1]);
}

#[tokio::test]
async fn should_compact_a_conversation_on_a_provider_without_a_choice_of_no_tool() {
    let replies = [search_call("one"), search_call("two"), text("They searched."), text("done")];
    let provider = FakeProvider::start(replies.map(FakeReply::response)).await.unwrap();
    let agent = LlmAgent::new(models(&provider).swap_remove(4)).tool(search_tool());
    let agent = agent.compaction(Compaction::above(14).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let summary = provider.requests()[2].body.clone();
    assert!(summary.get("toolConfig").is_none());
    let sent = summary["messages"].to_string();
    assert!(!sent.contains("toolUse") && !sent.contains("toolResult"), "{sent}");
    assert!(sent.contains("found one"), "{sent}");
}

/// A server that answers every request with these bytes, cut into pieces.
pub(crate) async fn raw(pieces: Vec<Vec<u8>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 65536];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            for piece in &pieces {
                connection.write_all(piece).await.unwrap();
                connection.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    format!("http://{address}/v1")
}

pub(crate) fn openai_at(url: String) -> OpenAiModel {
    let options = ProviderOptions::new("m").with_api_key("key").with_base_url(url);
    OpenAiModel::new(options).unwrap()
}

pub(crate) const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn should_read_a_stream_in_pieces_of_one_byte_whose_last_line_has_no_end() {
    let body = concat!(
        ": ping\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"ünï 🦀\"}}]}\r\n\r\n",
        "data:{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]",
    );
    let mut pieces = vec![STREAM.as_bytes().to_vec()];
    pieces.extend(body.bytes().map(|byte| vec![byte]));
    let model = openai_at(raw(pieces).await);
    let response = in_time(collect(model.stream(&request()).await.unwrap())).await.unwrap();
    assert_eq!(response.output_text(), "ünï 🦀");
}

#[tokio::test]
async fn should_say_what_an_error_of_a_server_says() {
    let body = r#"{"error": "model 'm' not found"}"#;
    let length = body.len();
    let head =
        format!("HTTP/1.1 404 Not Found\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let model = openai_at(raw(vec![head.into_bytes(), body.into()]).await);
    let error = in_time(model.complete(&request())).await.unwrap_err();
    assert!(error.to_string().contains("model 'm' not found"), "{error}");
}

#[tokio::test]
async fn should_report_an_error_that_has_the_status_of_a_success() {
    for (error, code) in [
        (json!({"message": "slow down", "code": 429}), "MODEL_RATE_LIMITED"),
        (json!({"message": "slow down", "code": "rate_limit_exceeded"}), "MODEL_RATE_LIMITED"),
        (json!("slow down"), "MODEL_BACKEND"),
    ] {
        let model = openai_at("http://127.0.0.1:1/v1".to_owned());
        let error = model.read_response(&json!({"error": error}).to_string()).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains("slow down"), "{error}");
    }
}

#[test]
fn should_read_each_form_of_a_delay() {
    let seconds = |text: &str| read_retry_after(text).map(|delay| delay.as_secs());
    assert_eq!(seconds(" 7 "), Some(7));
    assert_eq!(seconds("0.5"), Some(0));
    for invalid in ["", "-1", "NaN", "inf", "1e30", "soon", "Wed, 99 Foo 2015 07:28:00 GMT"] {
        assert_eq!(seconds(invalid), None, "{invalid}");
    }
    assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
    let century = 100 * 365 * 24 * 60 * 60;
    assert!(seconds("Fri, 31 Dec 9999 23:59:59 GMT").unwrap() > century);
}

#[tokio::test]
async fn should_tell_calls_apart_however_a_server_numbers_them() {
    let part = |number: u32, id: &str, name: &str, arguments: &str| {
        let function = json!({"name": name, "arguments": arguments});
        json!([{"index": number, "id": id, "function": function}])
    };
    for numbers in [[0, 1], [1, 2], [0, 0]] {
        let parts = [
            part(numbers[0], "a", "search", "{\"words\":"),
            part(numbers[0], "", "", "\"one\"}"),
            part(numbers[1], "b", "search", "{\"words\":"),
            part(numbers[1], "b", "", "\"two\"}"),
        ];
        let mut body = STREAM.to_owned();
        for calls in parts {
            let event = json!({"choices": [{"delta": {"tool_calls": calls}}]});
            body += &format!("data: {event}\n\n");
        }
        body += "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
        let model = openai_at(raw(vec![body.into_bytes()]).await);
        let response = in_time(collect(model.stream(&request()).await.unwrap())).await.unwrap();
        let calls: Vec<_> =
            response.tool_calls().map(|it| (it.id.as_str(), it.arguments.as_str())).collect();
        assert_eq!(
            calls,
            [("a", r#"{"words":"one"}"#), ("b", r#"{"words":"two"}"#)],
            "{numbers:?}"
        );
    }
}

#[tokio::test]
async fn should_read_arguments_that_are_no_text() {
    let model = openai_at("http://127.0.0.1:1/v1".to_owned());
    let function = json!({"name": "search", "arguments": {"words": "one"}});
    let message = json!({"role": "assistant", "tool_calls": [{"id": "a", "function": function}]});
    let body = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    let response = model.read_response(&body.to_string()).unwrap();
    let calls: Vec<_> = response.tool_calls().map(|it| it.arguments.as_str()).collect();
    assert_eq!(calls, [r#"{"words":"one"}"#]);
}

/// An agent shortens the conversation, or asks a model with a longer context.
#[tokio::test]
async fn should_know_a_request_that_is_too_long_however_a_provider_says_it() {
    let anthropic = "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000";
    let body = json!({"error": {"type": "invalid_request_error", "message": anthropic}});
    let error = status_error("anthropic:m", 400, None, &body.to_string());
    assert_eq!(error.kind(), ModelErrorKind::ContextOverflow);

    let too_long = "prompt is too long: 210000 tokens > 200000 maximum";
    let model = openai_at("http://127.0.0.1:1/v1".to_owned());
    for error in [json!({"type": "invalid_request_error", "message": too_long}), json!(too_long)] {
        let error = model.read_response(&json!({"error": error}).to_string()).unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::ContextOverflow);
        assert!(!error.is_retryable());
    }
}
