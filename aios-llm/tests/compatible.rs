//! Habits of servers that speak the chat completions of `OpenAI`.

use aios_llm::{
    LanguageModel, ModelRequest,
    model::{FinishReason, ModelStream, collect},
    providers::OpenAiModel,
};
use serde_json::{Value, json};

use crate::{
    providers::{STREAM, openai_at, raw},
    support::in_time,
};

fn nowhere() -> OpenAiModel {
    openai_at("http://127.0.0.1:1/v1".to_owned())
}

/// A stream of these deltas.
async fn stream_of(deltas: &[(Value, Value)]) -> ModelStream {
    let mut body = STREAM.to_owned();
    for (delta, reason) in deltas {
        let event = json!({"choices": [{"delta": delta, "finish_reason": reason}]});
        body += &format!("data: {event}\n\n");
    }
    body += "data: [DONE]\n\n";
    openai_at(raw(vec![body.into_bytes()]).await).stream(&ModelRequest::new("go")).await.unwrap()
}

#[test]
fn should_know_each_word_for_a_response_that_is_cut_off() {
    for reason in ["length", "model_length", "max_tokens"] {
        let body = json!({"choices": [{"message": {"content": "I"}, "finish_reason": reason}]});
        let response = nowhere().read_response(&body.to_string()).unwrap();
        assert_eq!(response.finish_reason, FinishReason::Length, "{reason}");
    }
}

#[tokio::test]
async fn should_not_take_an_empty_text_for_a_reason() {
    let deltas = [
        (json!({"content": "Hello"}), json!("")),
        (json!({}), json!("stop")),
        (json!({}), json!("")),
    ];
    let response = in_time(collect(stream_of(&deltas).await)).await.unwrap();
    assert_eq!(response.finish_reason, FinishReason::Stop);
}
