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

use crate::{
    providers::{STREAM, openai_at, raw},
    support::{call, in_time, models, runtime, search_call, search_tool, start, text},
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
fn whole(body: &str, length: usize) -> Vec<Vec<u8>> {
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
        let error = model.read_response(&body(reason)).unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::InvalidResponse, "{reason}");
        assert_eq!(error.usage(), Some(Usage::new(9, 1)), "{reason}");
    }
    let other = model.read_response(&body("eos")).unwrap().finish_reason;
    assert_eq!(other, FinishReason::Other("eos".to_owned()));
}

#[tokio::test]
async fn should_recognise_an_error_that_has_the_status_of_a_success() {
    let model = AnthropicModel::new(ProviderOptions::new("m").with_api_key(KEY)).unwrap();
    let reason = json!({"type": "authentication_error", "message": "invalid x-api-key"});
    let error = model.read_response(&json!({"type": "error", "error": reason})).unwrap_err();
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
        let body = openai_at(url.to_owned()).request_body(&request);
        assert_eq!(body.get(field), Some(&json!(50)), "{url}: {body}");
    }
    let model = OpenAiModel::new(ProviderOptions::new("m")).unwrap();
    assert_eq!(model.request_body(&request)["max_completion_tokens"], 50);
}

#[tokio::test]
async fn should_not_ask_openai_for_less_output_than_it_accepts() {
    let mut request = go();
    request.max_output_tokens = Some(5);
    let model = OpenAiModel::new(ProviderOptions::new("m")).unwrap();
    assert_eq!(model.request_body(&request)["max_completion_tokens"], 16);
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
        signature: Some(format!("openai:{}", json!({"type": "reasoning", "id": id}))),
    };
    let said = ModelResponse::new(vec![item("one"), Part::text("Hm."), item("two"), item("three")]);
    let cut = ModelResponse::new(vec![item("four")]);
    let request = go().with_message(said.to_message()).with_message(cut.to_message());
    in_time(model.complete(&request.with_message(Message::user("Continue.")))).await.unwrap();
    let body = provider.requests().pop().unwrap().body;
    let sent = body["input"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap());
    assert!(sent.eq(["message", "reasoning", "message", "message"]), "{body}");
}
