//! Habits of servers that speak the chat completions of `OpenAI`.

use aios_llm::{
    LanguageModel, ModelRequest,
    model::{FinishReason, ModelStream, Part, StreamEvent, Usage, collect},
    providers::{OpenAiModel, ProviderOptions, connect},
    testing::{FakeProvider, FakeReply},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    providers::{STREAM, openai_at, raw},
    support::{in_time, text},
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

/// Some servers do not count reasoning as output. Their total shows it.
#[test]
fn should_count_reasoning_as_output() {
    let usage = |total: u64| {
        let body = json!({
            "choices": [{"message": {"content": "I"}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 10120,
                "completion_tokens": 3000,
                "total_tokens": total,
                "completion_tokens_details": {"reasoning_tokens": 2809},
            },
        });
        nowhere().read_response(&body.to_string()).unwrap().usage
    };
    let expected = |output| Usage { reasoning_tokens: 2809, ..Usage::new(10120, output) };
    assert_eq!(usage(10120 + 3000 + 2809), expected(5809));
    assert_eq!(usage(10120 + 3000), expected(3000));
}

/// Reasoning models of Mistral send a list.
#[tokio::test]
async fn should_read_content_that_is_a_list() {
    let thought =
        |text: &str| json!({"type": "thinking", "thinking": [{"type": "text", "text": text}]});
    let said = |text: &str| json!({"type": "text", "text": text});
    let content = json!([thought("Hm, "), thought("six by seven."), said("4"), said("2")]);
    let reasoning = Part::Reasoning { text: "Hm, six by seven.".to_owned(), signature: None };
    let expected = vec![reasoning, Part::text("42")];
    let body = json!({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]});
    assert_eq!(nowhere().read_response(&body.to_string()).unwrap().content, expected);

    let deltas = [
        (json!({"content": [thought("Hm, ")]}), Value::Null),
        (json!({"content": [thought("six by seven.")]}), Value::Null),
        (json!({"content": [said("4")]}), Value::Null),
        (json!({"content": "2"}), json!("stop")),
    ];
    let events: Vec<_> = in_time(stream_of(&deltas).await.collect::<Vec<_>>()).await;
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events[0], StreamEvent::Reasoning("Hm, ".to_owned()));
    assert_eq!(events[2..4], ["4", "2"].map(|text| StreamEvent::Text(text.to_owned())));
    let Some(StreamEvent::Finished(response)) = events.last() else { panic!("{events:?}") };
    assert_eq!(response.content, expected);
}

/// The address of Ollama is usually written without a path.
#[tokio::test]
async fn should_find_ollama_by_its_address() {
    let provider = FakeProvider::start(vec![FakeReply::response(text("ok")); 2]).await.unwrap();
    let with_path = provider.openai_url();
    for url in [with_path.trim_end_matches("/v1/"), with_path.as_str()] {
        let model = connect("ollama", ProviderOptions::new("m").with_base_url(url)).unwrap();
        in_time(model.complete(&ModelRequest::new("go"))).await.unwrap();
    }
}
