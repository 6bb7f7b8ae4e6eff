//! Messages of Anthropic.
//!
//! Bodies, errors and events as the real provider sends them, in the same order and with the same
//! fields.

use serde_json::{Value, json};

use super::openai::pieces;
use crate::model::{FinishReason, ModelResponse, Part};

/// The body of an error. Its type follows from the status.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
}

/// A whole response.
pub(super) fn body(response: &ModelResponse, request: &Value) -> Value {
    let content: Vec<_> = response.content.iter().filter_map(block).collect();
    json!({
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "content": content,
        "stop_reason": stop(&response.finish_reason),
        "stop_sequence": null,
        "usage": usage(response, response.usage.output_tokens),
    })
}

/// A part as a block; `None` if a model never sends it.
fn block(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Reasoning { text, signature } => {
            json!({"type": "thinking", "thinking": text, "signature": signature})
        }
        Part::ToolCall(call) => {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
        }
        _ => return None,
    })
}

/// Cached tokens are not part of the input tokens here.
fn usage(response: &ModelResponse, output_tokens: u64) -> Value {
    let usage = &response.usage;
    json!({
        "input_tokens": usage.input_tokens.saturating_sub(usage.cached_input_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": output_tokens,
    })
}

/// Why the response ended, in the words of the protocol.
fn stop(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop => "end_turn",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::Length => "max_tokens",
        FinishReason::Refusal => "refusal",
        FinishReason::Other(reason) => reason,
    }
}

/// A response as a stream. Texts and arguments come in small pieces, so that clients have to put
/// them together.
pub(super) fn events(response: &ModelResponse, request: &Value) -> Vec<String> {
    let mut message = body(response, request);
    if let Some(fields) = message.as_object_mut() {
        // The first event has the message without what follows.
        fields.insert("content".to_owned(), json!([]));
        fields.insert("stop_reason".to_owned(), Value::Null);
        fields.insert("usage".to_owned(), usage(response, 1));
    }
    let mut events = vec![event("message_start", &json!({"message": message}))];
    let mut index = 0;
    for part in &response.content {
        let (begin, deltas) = match part {
            Part::Text { text } => {
                let deltas = pieces(text).map(|text| json!({"type": "text_delta", "text": text}));
                (json!({"type": "text", "text": ""}), deltas.collect::<Vec<_>>())
            }
            Part::ToolCall(call) => {
                let delta = |json| json!({"type": "input_json_delta", "partial_json": json});
                let begin =
                    json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
                (begin, pieces(&call.arguments).map(delta).collect())
            }
            Part::Reasoning { text, signature } => {
                let delta = |text| json!({"type": "thinking_delta", "thinking": text});
                let mut deltas: Vec<_> = pieces(text).map(delta).collect();
                deltas.push(json!({"type": "signature_delta", "signature": signature}));
                (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
            }
            _ => continue,
        };
        let start = json!({"index": index, "content_block": begin});
        events.push(event("content_block_start", &start));
        for delta in deltas {
            events.push(event("content_block_delta", &json!({"index": index, "delta": delta})));
        }
        events.push(event("content_block_stop", &json!({"index": index})));
        index += 1;
    }
    let end = json!({
        "delta": {"stop_reason": stop(&response.finish_reason), "stop_sequence": null},
        "usage": usage(response, response.usage.output_tokens),
    });
    events.push(event("message_delta", &end));
    events.push(event("message_stop", &json!({})));
    events
}

/// An event with its name in both places.
fn event(name: &str, data: &Value) -> String {
    let mut data = data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.insert("type".to_owned(), name.into());
    }
    format!("event: {name}\ndata: {data}\n\n")
}
