//! Habits of real servers that the provider for tests does not have.

use std::sync::Arc;

use aios_llm::{
    LanguageModel, LlmAgent, ModelRequest, ModelResponse,
    model::{
        FinishReason, ImageSource, Message, ModelErrorKind, Part, ToolCall, ToolResult, ToolSpec,
        Usage, collect,
    },
    providers::{AnthropicModel, OpenAiModel, ProviderOptions, connect},
    testing::{FakeProvider, FakeReply},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{
    providers::{STREAM, openai_at, raw},
    support::{call, in_time, models, runtime, search_call, search_tool, start, text, value},
};

/// A key as it appears in errors.
const KEY: &str = "sk-very-secret";

fn model_at(provider: &str, model: &str, url: String) -> Arc<dyn LanguageModel> {
    let options = ProviderOptions::new(model).with_api_key(KEY).with_region("eu-west-1");
    connect(provider, options.with_base_url(url)).unwrap()
}

fn events(events: &[Value]) -> Vec<u8> {
    let lines = events.iter().map(|event| format!("data: {event}\n\n"));
    lines.collect::<String>().into_bytes()
}

/// A body with the status of a success. It may be shorter than its head says.
pub(crate) fn whole(body: &str, length: usize) -> Vec<Vec<u8>> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    vec![head.into_bytes(), body.into()]
}

fn go() -> ModelRequest {
    ModelRequest::new("go")
}

fn calls(calls: impl IntoIterator<Item = ToolCall>) -> Message {
    let calls: Vec<_> = calls.into_iter().map(Part::ToolCall).collect();
    ModelResponse::new(calls).to_message()
}

fn call_of(id: &str, arguments: &str) -> ToolCall {
    let name = "search".to_owned();
    ToolCall { id: id.to_owned(), name, arguments: arguments.to_owned() }
}

fn result_of(id: &str) -> Message {
    Message::tool_results([ToolResult {
        call_id: id.to_owned(),
        name: "search".to_owned(),
        content: "found".to_owned(),
        is_error: false,
    }])
}

/// The provider bills what it has reported, whether the stream ends, breaks or reports an error.
#[tokio::test]
async fn should_keep_the_usage_of_a_stream_that_fails() {
    let block = json!({"type": "text", "text": ""});
    let delta = json!({"type": "text_delta", "text": "Once"});
    let begun = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 120}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
    ];
    let overloaded = json!({"type": "overloaded_error", "message": "Overloaded"});
    let overloaded = json!({"type": "error", "error": overloaded});
    let kinds = [ModelErrorKind::InvalidResponse, ModelErrorKind::Overloaded];
    for (last, kind) in [None, Some(overloaded)].into_iter().zip(kinds) {
        let sent: Vec<_> = begun.iter().cloned().chain(last).collect();
        let url = raw(vec![STREAM.into(), events(&sent)]).await;
        let model = model_at("anthropic", "m", url);
        let error = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap_err();
        assert_eq!((error.kind(), error.usage()), (kind, Some(Usage::new(120, 0))), "{error}");
    }

    let usage = json!({"promptTokenCount": 7, "candidatesTokenCount": 2});
    let chunk = events(&[json!({
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Once"}]}}],
        "usageMetadata": usage,
    })]);
    let chunk = String::from_utf8(chunk).unwrap();
    let model = model_at("gemini", "m", raw(whole(&chunk, chunk.len() + 100)).await);
    let error = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap_err();
    assert_eq!(error.usage(), Some(Usage::new(7, 2)), "{error}");

    // A provider that has reported nothing may bill something.
    let model = openai_at(raw(vec![STREAM.into()]).await);
    let error = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap_err();
    assert_eq!(error.usage(), None);
}

/// The arguments of all calls in a body.
fn arguments(body: &Value) -> Vec<Value> {
    match body {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match name.as_str() {
                "arguments" | "args" | "input" if !value.is_array() => vec![value.clone()],
                _ => arguments(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(arguments).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn should_send_back_arguments_that_are_objects_only() {
    let provider = FakeProvider::start([]).await.unwrap();
    let tool = ToolSpec {
        name: "search".to_owned(),
        description: "Searches.".to_owned(),
        parameters: json!({"type": "object"}),
    };
    for (written, is_kept) in [("{\"words\":", false), ("[1]", false), ("{ \"a\" : 1.0 }", true)] {
        let request = go().with_tool(tool.clone()).with_message(calls([call_of("c", written)]));
        let request = request.with_message(result_of("c"));
        for model in models(&provider) {
            provider.push(FakeReply::response(text("ok")));
            in_time(model.complete(&request)).await.unwrap();
            let body = provider.requests().pop().unwrap().body;
            let arguments = arguments(&body);
            assert_eq!(arguments.len(), 1, "{body}");
            for sent in arguments {
                let text = sent.as_str().map(str::to_owned);
                let parsed = text.as_ref().map_or(Some(sent), |it| serde_json::from_str(it).ok());
                assert!(parsed.is_some_and(|it| it.is_object()), "{body}");
                assert!(text.is_none_or(|it| (it == written) == is_kept), "{body}");
            }
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Report {
    title: String,
}

/// Older models of Gemini reject tools beside a schema for the output, and servers that enforce the
/// schema letter by letter never call a tool.
#[tokio::test]
async fn should_not_ask_for_tools_and_output_together_where_that_fails() {
    let provider = FakeProvider::respond_with(|request| {
        let body = request.body.to_string();
        FakeReply::response(if !body.contains("found rust") {
            search_call("rust")
        } else if body.contains("final_result") {
            call("r", "final_result", &json!({"title": "Rust"}))
        } else {
            text(r#"{"title":"Rust"}"#)
        })
    });
    let provider = provider.await.unwrap();
    let (google, openai) = (provider.gemini_url(), provider.openai_url());
    for (provider_name, model, url, is_native) in [
        ("gemini", "gemini-2.5-flash", google.clone(), false),
        ("gemini", "gemini-flash-latest", google.clone(), false),
        ("gemini", "gemini-3-pro-preview", google, true),
        ("ollama", "llama3.2", openai.clone(), false),
        ("openai", "qwen3", openai.clone(), false),
        ("openai-responses", "gpt-5", openai, true),
    ] {
        let before = provider.requests().len();
        let model = model_at(provider_name, model, url);
        let agent = LlmAgent::new(model).tool(search_tool()).output::<Report>();
        let runtime = runtime(agent).await;
        let result = in_time(start(&runtime).await.result::<Report>()).await.unwrap();
        assert_eq!(result, Report { title: "Rust".to_owned() });
        let requests = provider.requests().split_off(before);
        assert_eq!(requests.len(), 2);
        for request in requests {
            let body = &request.body;
            assert!(body.get("tools").is_some());
            let asks = body["generationConfig"].get("responseMimeType").is_some()
                || body.get("response_format").is_some()
                || body.get("text").is_some();
            assert_eq!(asks, is_native, "{provider_name}: {body}");
        }
    }
}

#[test]
fn should_not_take_an_interrupted_response_for_a_complete_one() {
    let model = openai_at("http://127.0.0.1:1/v1".to_owned());
    let body = |reason: &str| {
        json!({
            "choices": [{"message": {"content": "Once"}, "finish_reason": reason}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        })
    };
    for reason in ["abort", "error", "insufficient_system_resource"] {
        let error = model.read_response(&body(reason).to_string()).unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::InvalidResponse, "{reason}");
        assert_eq!(error.usage(), Some(Usage::new(9, 1)), "{reason}");
    }
    let finish = |reason| model.read_response(&body(reason).to_string()).unwrap().finish_reason;
    // An agent takes an answer that ended for any other reason for incomplete.
    for reason in ["stop", "eos", "eos_token", "stop_sequence", "end_turn"] {
        assert_eq!(finish(reason), FinishReason::Stop, "{reason}");
    }
    assert_eq!(finish("paused"), FinishReason::Other("paused".to_owned()));
}

#[tokio::test]
async fn should_not_take_failed_generation_of_bedrock_for_an_answer() {
    for reason in ["malformed_tool_use", "malformed_model_output"] {
        let body = json!({
            "stopReason": reason,
            "output": {"message": {"role": "assistant", "content": [{"text": "I"}]}},
            "usage": {"inputTokens": 9, "outputTokens": 1},
        });
        let body = body.to_string();
        let url = raw(whole(&body, body.len())).await;
        let error = in_time(model_at("bedrock", "m", url).complete(&go())).await.unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::InvalidResponse, "{reason}");
        assert_eq!(error.usage(), Some(Usage::new(9, 1)), "{reason}");
    }
}

#[tokio::test]
async fn should_recognise_an_error_that_has_the_status_of_a_success() {
    let model = AnthropicModel::new(ProviderOptions::new("m").with_api_key(KEY)).unwrap();
    let reason = json!({"type": "authentication_error", "message": "invalid x-api-key"});
    let body = json!({"type": "error", "error": reason}).to_string();
    let error = model.read_response(&body).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("invalid x-api-key"), "{error}");

    let reason = json!({"type": "overloaded_error", "message": format!("wait, {KEY}")});
    let body = json!({"type": "error", "error": reason});
    let printed = serde_json::to_string_pretty(&body).unwrap();
    for provider in ["openai", "openai-responses", "anthropic", "gemini", "bedrock"] {
        let model = model_at(provider, "m", raw(whole(&printed, printed.len())).await);
        let error = in_time(model.complete(&go())).await.unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::Overloaded, "{provider}: {error}");
        assert!(error.to_string().contains("wait, [key]"), "{provider}: {error}");
    }
    for provider in ["openai", "openai-responses", "anthropic", "gemini"] {
        let in_stream = vec![STREAM.into(), events(std::slice::from_ref(&body))];
        for sent in [whole(&printed, printed.len()), in_stream] {
            let model = model_at(provider, "m", raw(sent).await);
            let error = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap_err();
            assert_eq!(error.kind(), ModelErrorKind::Overloaded, "{provider}: {error}");
            assert!(error.to_string().contains("wait, [key]"), "{provider}: {error}");
        }
    }
}

/// A key is removed before a long message is shortened, so no part of it is left.
#[tokio::test]
async fn should_not_show_the_key_in_an_error_of_a_stream() {
    let quoted = format!("{}{KEY}", "x".repeat(495));
    let failed = json!({"status": "failed", "error": {"code": "server_error", "message": quoted}});
    for event in [
        json!({"error": {"message": quoted}}),
        json!({"type": "error", "code": "server_error", "message": quoted}),
        json!({"type": "response.failed", "response": failed}),
    ] {
        let url = raw(vec![STREAM.into(), events(&[event])]).await;
        let model = model_at("openai-responses", "m", url);
        let error = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap_err();
        assert!(error.to_string().contains("xxx"), "{error}");
        assert!(!error.to_string().contains("sk-"), "{error}");
    }
}

#[test]
fn should_limit_the_output_as_the_host_wants_it() {
    let mut request = go();
    request.max_output_tokens = Some(50);
    let openai = [
        "https://api.openai.com/v1",
        "https://eu.api.openai.com/v1/",
        "https://acme.openai.azure.com/openai/v1",
    ];
    let others = [
        "https://openai.com.example.org/v1",
        "https://notopenai.com/v1",
        "https://api.groq.com/openai/v1",
        "http://127.0.0.1:8000/v1",
    ];
    for (url, field) in openai
        .map(|url| (url, "max_completion_tokens"))
        .into_iter()
        .chain(others.map(|url| (url, "max_tokens")))
    {
        let body = value(&openai_at(url.to_owned()).request_body(&request));
        assert_eq!(body.get(field), Some(&json!(50)), "{url}: {body}");
    }
    let model = OpenAiModel::new(ProviderOptions::new("m")).unwrap();
    assert_eq!(value(&model.request_body(&request))["max_completion_tokens"], 50);
}

#[tokio::test]
async fn should_not_ask_openai_for_less_output_than_it_accepts() {
    let mut request = go();
    request.max_output_tokens = Some(5);
    let model = OpenAiModel::new(ProviderOptions::new("m")).unwrap();
    assert_eq!(value(&model.request_body(&request))["max_completion_tokens"], 16);
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
    for model in models(&provider) {
        in_time(model.complete(&request)).await.unwrap();
    }
    let requests = provider.requests();
    assert_eq!(requests[0].body["max_tokens"], 5);
    assert_eq!(requests[1].body["max_output_tokens"], 16);
}

/// A conversation that began with another provider has calls without a signature of Gemini.
#[tokio::test]
async fn should_send_gemini_calls_of_other_providers() {
    let provider = FakeProvider::start([]).await.unwrap();
    let other = Part::Reasoning { text: "Hm.".to_owned(), signature: Some("bedrock:x".to_owned()) };
    let signed = Part::Reasoning { text: String::new(), signature: Some("gemini:c2ln".to_owned()) };
    let call = |id: &str| Part::ToolCall(call_of(id, "{}"));
    let foreign = ModelResponse::new(vec![other, call("a"), call("b")]).to_message();
    let own = ModelResponse::new(vec![signed, call("c"), call("d")]).to_message();
    let request = go().with_message(foreign).with_message(result_of("a")).with_message(own);
    for (model, placeholder) in [
        ("gemini-3-pro-preview", Some("skip_thought_signature_validator")),
        ("gemini-2.5-pro", None),
    ] {
        provider.push(FakeReply::response(text("ok")));
        let model = model_at("gemini", model, provider.gemini_url());
        in_time(model.complete(&request)).await.unwrap();
        let body = provider.requests().pop().unwrap().body;
        let signatures = |turn: usize| -> Vec<_> {
            let parts = body["contents"][turn]["parts"].as_array().unwrap().iter();
            parts.map(|part| part.get("thoughtSignature").and_then(Value::as_str)).collect()
        };
        assert_eq!(signatures(1), [placeholder, None], "{body}");
        assert_eq!(signatures(3), [Some("c2ln"), None], "{body}");
    }
}

/// Two providers accept only some letters in the ids of calls.
#[tokio::test]
async fn should_send_ids_of_calls_as_the_provider_accepts_them() {
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
    let long = "x".repeat(65);
    let ids =
        ["functions.search:0", "functions.search:1", "functions-search-0", "ü", long.as_str()];
    let mut request = go().with_message(calls(ids.map(|id| call_of(id, "{}"))));
    let results = ids.map(|id| result_of(id).content);
    request.messages.push(Message {
        role: aios_llm::model::Role::Tool,
        content: results.into_iter().flatten().collect(),
    });
    request.tools.push(ToolSpec {
        name: "search".to_owned(),
        description: "Searches.".to_owned(),
        parameters: json!({"type": "object"}),
    });
    for model in models(&provider) {
        in_time(model.complete(&request)).await.unwrap();
    }
    let requests = provider.requests();
    for (request, [call, result]) in [
        (&requests[2], ["/id", "/tool_use_id"]),
        (&requests[4], ["/toolUse/toolUseId", "/toolResult/toolUseId"]),
    ] {
        let sent = |turn: usize, path: &str| -> Vec<String> {
            let parts = request.body["messages"][turn]["content"].as_array().unwrap().iter();
            let id = |part: &Value| part.pointer(path).unwrap().as_str().unwrap().to_owned();
            parts.map(id).collect()
        };
        let sent_ids = sent(1, call);
        assert_eq!(sent_ids, sent(2, result));
        assert_eq!(sent_ids[2], "functions-search-0");
        let distinct: std::collections::BTreeSet<_> = sent_ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{sent_ids:?}");
        for id in &sent_ids {
            let is_valid = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-');
            assert!(id.len() <= 64 && id.chars().all(is_valid), "{id}");
        }
    }
    assert!(requests[0].body.to_string().contains("functions.search:0"));
}

fn with_part(part: Part) -> ModelRequest {
    let mut request = go();
    request.messages[0].content.push(part);
    request
}

fn file(reference: &str, media_type: &str) -> Part {
    Part::File { reference: reference.to_owned(), media_type: media_type.to_owned() }
}

#[tokio::test]
async fn should_say_that_a_request_has_a_file_of_anthropic() {
    let provider = FakeProvider::start([]).await.unwrap();
    let model = models(&provider).swap_remove(2);
    for (reference, beta) in
        [("file_011", Some("files-api-2025-04-14")), ("https://example.org/a.pdf", None)]
    {
        let request = with_part(file(reference, "application/pdf"));
        provider.push(FakeReply::response(text("ok")));
        in_time(model.complete(&request)).await.unwrap();
        assert_eq!(provider.requests().pop().unwrap().header("anthropic-beta"), beta);
        provider.push(FakeReply::response(text("ok")));
        in_time(collect(model.stream(&request).await.unwrap())).await.unwrap();
        assert_eq!(provider.requests().pop().unwrap().header("anthropic-beta"), beta);
    }
}

#[tokio::test]
async fn should_name_the_formats_of_bedrock() {
    let provider = FakeProvider::start([]).await.unwrap();
    let model = models(&provider).swap_remove(4);
    let mut request = go();
    let word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    let sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
    let formats = [
        ("application/pdf", "pdf"),
        ("text/csv", "csv"),
        ("application/msword", "doc"),
        (word, "docx"),
        ("application/vnd.ms-excel", "xls"),
        (sheet, "xlsx"),
        ("text/html", "html"),
        ("text/plain; charset=utf-8", "txt"),
        ("text/markdown", "md"),
    ];
    for (media_type, _) in formats {
        request.messages[0].content.push(file("s3://bucket/a", media_type));
    }
    let image = |media_type: &str| Part::Image {
        source: ImageSource::Base64 { media_type: media_type.to_owned(), data: "eA==".to_owned() },
    };
    request.messages[0].content.push(image("image/jpg"));
    provider.push(FakeReply::response(text("ok")));
    in_time(model.complete(&request)).await.unwrap();
    let body = provider.requests().pop().unwrap().body;
    let content = body["messages"][0]["content"].as_array().unwrap();
    let sent = content.iter().filter_map(|part| part["document"]["format"].as_str());
    assert!(sent.eq(formats.map(|(_, format)| format)), "{body}");
    let names: Vec<_> = content.iter().filter_map(|it| it["document"]["name"].as_str()).collect();
    assert_eq!((names[0], names[8]), ("document 1", "document 9"));
    assert_eq!(content.last().unwrap()["image"]["format"], "jpeg");

    for part in [file("s3://bucket/a", "application/zip"), image("image/tiff")] {
        let error = in_time(model.complete(&with_part(part))).await.unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::InvalidRequest);
        assert!(error.to_string().contains("does not support"), "{error}");
    }
}

/// A response that was cut off in its reasoning has nothing that the reasoning belongs to.
#[tokio::test]
async fn should_not_send_reasoning_back_that_nothing_follows() {
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
    let model = models(&provider).swap_remove(1);
    let item = |id: &str| Part::Reasoning {
        text: String::new(),
        signature: Some(format!("openai@127.0.0.1:{}", json!({"type": "reasoning", "id": id}))),
    };
    let said = ModelResponse::new(vec![item("one"), Part::text("Hm."), item("two"), item("three")]);
    let cut = ModelResponse::new(vec![item("four")]);
    let request = go().with_message(said.to_message()).with_message(cut.to_message());
    in_time(model.complete(&request.with_message(Message::user("Continue.")))).await.unwrap();
    let body = provider.requests().pop().unwrap().body;
    let sent = body["input"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap());
    assert!(sent.eq(["message", "reasoning", "message", "message"]), "{body}");
}

/// Some servers send the arguments of a call as JSON, and not as a text.
#[tokio::test]
async fn should_round_no_number_of_arguments_that_are_not_texts() {
    let number = (1_u128 << 70) + 1;
    let arguments = format!(r#"{{"amount":{number}}}"#);
    let anthropic = r#"{"stop_reason":"tool_use","content":[{"type":"tool_use","id":"c","name":"pay","input":ARGUMENTS}]}"#;
    let openai = r#"{"choices":[{"finish_reason":"tool_calls","message":{"tool_calls":[{"id":"c","type":"function","function":{"name":"pay","arguments":ARGUMENTS}}]}}]}"#;
    let gemini = r#"{"candidates":[{"finishReason":"STOP","content":{"parts":[{"functionCall":{"name":"pay","args":ARGUMENTS}}]}}]}"#;
    let bedrock = r#"{"stopReason":"tool_use","output":{"message":{"role":"assistant","content":[{"toolUse":{"toolUseId":"c","name":"pay","input":ARGUMENTS}}]}}}"#;
    for (provider, body) in
        [("anthropic", anthropic), ("openai", openai), ("gemini", gemini), ("bedrock", bedrock)]
    {
        let body = body.replace("ARGUMENTS", &arguments);
        let url = raw(whole(&body, body.len())).await;
        let response = in_time(model_at(provider, "m", url).complete(&go())).await.unwrap();
        let written: Vec<_> = response.tool_calls().map(|call| call.arguments.as_str()).collect();
        assert_eq!(written, [arguments.as_str()], "{provider}");
    }
    let event = gemini.replace("ARGUMENTS", &arguments);
    let url = raw(vec![format!("{STREAM}data: {event}\n\n").into_bytes()]).await;
    let stream = model_at("gemini", "m", url).stream(&go()).await.unwrap();
    let response = in_time(collect(stream)).await.unwrap();
    let written: Vec<_> = response.tool_calls().map(|call| call.arguments.as_str()).collect();
    assert_eq!(written, [arguments.as_str()]);
}

/// Newer servers have renamed the field.
#[tokio::test]
async fn should_read_reasoning_under_both_names() {
    let message = |field: &str| json!({"role": "assistant", "content": "Tea.", field: "Hm."});
    for field in ["reasoning", "reasoning_content"] {
        let choice = json!({"message": message(field), "finish_reason": "stop"});
        let body = json!({"choices": [choice]}).to_string();
        let model = openai_at(raw(whole(&body, body.len())).await);
        let response = in_time(model.complete(&go())).await.unwrap();
        let thought = Part::Reasoning { text: "Hm.".to_owned(), signature: None };
        assert_eq!(response.content, [thought.clone(), Part::text("Tea.")], "{field}");

        let stop = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
        let pieces = [json!({"choices": [{"delta": message(field)}]}), stop];
        let mut sent = events(&pieces);
        sent.extend(b"data: [DONE]\n\n");
        let model = openai_at(raw(vec![STREAM.into(), sent]).await);
        let response = in_time(collect(model.stream(&go()).await.unwrap())).await.unwrap();
        assert_eq!(response.content, [thought, Part::text("Tea.")], "{field}");
    }
    // A server that sends both sends the same text.
    let both = json!({"content": "Tea.", "reasoning": "Hm.", "reasoning_content": "Hm."});
    let body = json!({"choices": [{"message": both, "finish_reason": "stop"}]}).to_string();
    let model = openai_at(raw(whole(&body, body.len())).await);
    let response = in_time(model.complete(&go())).await.unwrap();
    assert_eq!(response.content.len(), 2);
    assert_eq!(response.content[0], Part::Reasoning { text: "Hm.".to_owned(), signature: None });
}

/// Bedrock rejects an empty description, and tools may have none.
#[tokio::test]
async fn should_leave_out_a_description_that_is_blank() {
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
    for model in models(&provider) {
        let mut request = go();
        for (name, description) in [("a", ""), ("b", " "), ("c", "Searches.")] {
            let (name, description) = (name.to_owned(), description.to_owned());
            let parameters = json!({"type": "object"});
            request = request.with_tool(ToolSpec { name, description, parameters });
        }
        in_time(model.complete(&request)).await.unwrap();
    }
    let bedrock = &provider.requests()[4].body["toolConfig"]["tools"];
    assert!(bedrock[0]["toolSpec"].get("description").is_none(), "{bedrock}");
    assert_eq!(bedrock[2]["toolSpec"]["description"], "Searches.");
}

/// Another provider may have made an id that is longer than this one accepts.
#[tokio::test]
async fn should_shorten_ids_that_a_provider_does_not_accept() {
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
    let ids = ["a".repeat(40), "b".repeat(41), "c".repeat(64), "d".repeat(65)];
    let call = |id: &String| Part::tool_call(id.clone(), "search", &json!({}));
    let said = ModelResponse::new(ids.iter().map(call).collect()).to_message();
    let results = ids.iter().map(|id| ToolResult {
        call_id: id.clone(),
        name: "search".to_owned(),
        content: "found".to_owned(),
        is_error: false,
    });
    let request = go().with_message(said).with_message(Message::tool_results(results));
    for model in models(&provider) {
        in_time(model.complete(&request)).await.unwrap();
    }
    let requests = provider.requests();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let chat = &requests[0].body["messages"];
    let responses = &requests[1].body["input"];
    for (number, id) in ids.iter().enumerate() {
        let sent = text(&chat[1]["tool_calls"][number]["id"]);
        assert_eq!(sent, text(&chat[2 + number]["tool_call_id"]));
        assert_eq!((sent.len() <= 40, sent == *id), (true, id.len() <= 40), "{sent}");
        let sent = text(&responses[1 + number]["call_id"]);
        assert_eq!(sent, text(&responses[1 + ids.len() + number]["call_id"]));
        assert_eq!((sent.len() <= 64, sent == *id), (true, id.len() <= 64), "{sent}");
    }
}

fn with_search(request: ModelRequest) -> ModelRequest {
    let (name, description) = ("search".to_owned(), "Searches.".to_owned());
    request.with_tool(ToolSpec { name, description, parameters: json!({"type": "object"}) })
}

/// The text of the body of a request.
async fn sent_by(connect: impl AsyncFnOnce(String)) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = connection.read(&mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if body.len() >= length {
                    return body.to_owned();
                }
            }
        }
    });
    connect(url).await;
    in_time(received).await.unwrap()
}

/// A value of JSON has numbers of 64 bits.
#[tokio::test]
async fn should_send_arguments_back_as_the_model_wrote_them() {
    let written = r#"{"n": 12345678901234567890123, "price": 1.50}"#;
    let (id, name) = ("c".to_owned(), "search".to_owned());
    let call = ToolCall { id, name, arguments: written.to_owned() };
    let said = ModelResponse::new(vec![Part::ToolCall(call)]).to_message();
    let request = with_search(go()).with_message(said);
    for provider in ["openai", "openai-responses", "anthropic", "gemini", "bedrock", "ollama"] {
        for is_stream in [false, true] {
            let body = sent_by(async |url: String| {
                let model = model_at(provider, "m", url);
                // The connection is closed without an answer.
                let error = match is_stream {
                    true => in_time(model.stream(&request)).await.err(),
                    false => in_time(model.complete(&request)).await.err(),
                };
                assert!(error.is_some());
            });
            let body = in_time(body).await;
            let as_text = serde_json::to_string(written).unwrap();
            assert!(body.contains(written) || body.contains(&as_text), "{provider}: {body}");
        }
    }
}

/// No text of a person or a tool is taken for JSON.
#[tokio::test]
async fn should_send_texts_as_texts() {
    for hostile in ["\0json:{\"a\":1}", "{\"a\":1}", "\0"] {
        let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 6]).await.unwrap();
        let call = Part::tool_call("c", "search", &json!({"input": hostile, "args": hostile}));
        let said = ModelResponse::new(vec![Part::text(hostile), call]).to_message();
        let (call_id, name) = ("c".to_owned(), "search".to_owned());
        let content = hostile.to_owned();
        let result = ToolResult { call_id, name, content, is_error: false };
        let request = ModelRequest::new(hostile).with_message(said);
        let request = with_search(request).with_message(Message::tool_results([result]));
        let quoted = Value::from(hostile).to_string();
        for model in models(&provider) {
            in_time(model.complete(&request)).await.unwrap();
            let sent = provider.requests().pop().unwrap().body.to_string();
            assert!(sent.matches(&quoted).count() >= 3, "{}: {sent}", model.name());
        }
    }
}

/// Another client passes the text of a response on.
#[test]
fn should_read_arguments_of_a_response_as_the_model_wrote_them() {
    let written = r#"{"n": 12345678901234567890123, "price": 1.50}"#;
    let block = format!(r#"{{"type":"tool_use","id":"c","name":"search","input":{written}}}"#);
    let message = format!(r#"{{"content":[{block}],"stop_reason":"tool_use"}}"#);
    let anthropic = AnthropicModel::new(ProviderOptions::new("m")).unwrap();
    let response = anthropic.read_response(&message).unwrap();
    assert_eq!(response.tool_calls().next().unwrap().arguments, written);

    for arguments in [written.to_owned(), serde_json::to_string(written).unwrap()] {
        let function = format!(r#"{{"name":"search","arguments":{arguments}}}"#);
        let message = format!(r#"{{"tool_calls":[{{"id":"c","function":{function}}}]}}"#);
        let choice = format!(r#"{{"message":{message},"finish_reason":"tool_calls"}}"#);
        let openai = OpenAiModel::new(ProviderOptions::new("m")).unwrap();
        let response = openai.read_response(&format!(r#"{{"choices":[{choice}]}}"#)).unwrap();
        assert_eq!(response.tool_calls().next().unwrap().arguments, written);
    }
    let error = anthropic.read_response("{").unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::InvalidResponse);
}
