//! Chat completions of `OpenAI`.
//!
//! Bodies, errors and events as the real provider sends them. The event with the usage is sent only
//! on request, and after the one with the reason.

use serde_json::{Value, json};

use crate::model::{FinishReason, ModelResponse, Part, ToolCall};

/// Longest piece of a text in a stream, in characters.
///
/// So short that words, numbers and keys of JSON are cut, which adapters have to join again.
const PIECE: usize = 4;

/// The body of an error. Its type follows from the status.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    let code = message.starts_with("prompt is too long").then_some("context_length_exceeded");
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// A whole response.
pub(super) fn body(response: &ModelResponse, request: &Value) -> Value {
    let calls: Vec<_> = response.tool_calls().map(call).collect();
    let text = response.output_text();
    let mut message = json!({"role": "assistant", "refusal": null, "annotations": []});
    if let Some(fields) = message.as_object_mut() {
        let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
        fields.insert("content".to_owned(), content);
        if !calls.is_empty() {
            fields.insert("tool_calls".to_owned(), calls.into());
        }
    }
    json!({
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request.get("model"),
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish(&response.finish_reason),
        }],
        "usage": usage(response),
    })
}

/// A call in the form of the protocol.
fn call(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

/// The numbers of tokens.
fn usage(response: &ModelResponse) -> Value {
    let usage = &response.usage;
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

/// Why the response ended, in the words of the protocol.
fn finish(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::Refusal => "content_filter",
        FinishReason::Other(reason) => reason,
    }
}

/// A response as a stream, with the marker of the end.
pub(super) fn events(response: &ModelResponse, request: &Value) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": request.get("model"),
            "choices": choices,
            "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Option<&str>| {
        let choice =
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        chunk(choice, Value::Null)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), None)];
    let mut calls = 0;
    for part in &response.content {
        match part {
            Part::Text { text } => {
                events.extend(pieces(text).map(|piece| delta(json!({"content": piece}), None)));
            }
            Part::ToolCall(call) => {
                let begin = json!({
                    "index": calls,
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": ""},
                });
                events.push(delta(json!({"tool_calls": [begin]}), None));
                events.extend(pieces(&call.arguments).map(|piece| {
                    let more = json!({"index": calls, "function": {"arguments": piece}});
                    delta(json!({"tool_calls": [more]}), None)
                }));
                // The index counts calls only, as in the real stream; texts between them have none.
                calls += 1;
            }
            _ => {}
        }
    }
    events.push(delta(json!({}), Some(finish(&response.finish_reason))));
    let includes_usage = request.pointer("/stream_options/include_usage");
    if includes_usage.and_then(Value::as_bool).unwrap_or(false) {
        events.push(chunk(json!([]), usage(response)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// The text in pieces of a few characters.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = String> {
    // By characters: an event is UTF-8, so a piece can't end within one.
    let letters: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = letters.chunks(PIECE).map(|piece| piece.iter().collect()).collect();
    pieces.into_iter()
}
