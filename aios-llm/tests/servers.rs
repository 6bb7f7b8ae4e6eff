//! Habits of real servers that the provider for tests does not have.

use std::sync::Arc;

use aios_llm::{
    LanguageModel, ModelRequest,
    model::{ModelErrorKind, Usage, collect},
    providers::{ProviderOptions, connect},
};
use serde_json::{Value, json};

use crate::{
    providers::{STREAM, openai_at, raw},
    support::in_time,
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
