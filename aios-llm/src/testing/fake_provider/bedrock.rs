//! The Converse API of Amazon Bedrock.
//!
//! Bodies, errors and messages as the real provider sends them. The binary form is written here
//! with code of its own, so that an error in the reader is not hidden by the same error in the
//! writer.

use serde_json::{Value, json};

use super::openai::pieces;
use crate::{
    crc32::crc32,
    model::{FinishReason, ModelResponse, Part},
};

/// Type of the value of a header that is a text.
const TEXT: u8 = 7;

/// The body of an error.
pub(super) fn error(message: &str) -> Value {
    json!({ "message": message })
}

/// The type of an error, which is in a header.
pub(super) fn error_type(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        503 | 529 => "ServiceUnavailableException",
        400..500 => "ValidationException",
        _ => "InternalServerException",
    }
}

/// A whole response.
pub(super) fn body(response: &ModelResponse) -> Value {
    let content: Vec<_> = response.content.iter().filter_map(block).collect();
    json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop(&response.finish_reason),
        "usage": usage(response),
        "metrics": {"latencyMs": 1},
    })
}

/// A part as a block; `None` if a model never sends it.
fn block(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({ "text": text }),
        Part::Reasoning { text, signature } => {
            json!({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}})
        }
        Part::ToolCall(call) => {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            json!({"toolUse": {"toolUseId": call.id, "name": call.name, "input": input}})
        }
        _ => return None,
    })
}

/// Cached tokens are not part of the input tokens here.
fn usage(response: &ModelResponse) -> Value {
    let usage = &response.usage;
    json!({
        "inputTokens": usage.input_tokens.saturating_sub(usage.cached_input_tokens),
        "cacheReadInputTokens": usage.cached_input_tokens,
        "cacheWriteInputTokens": 0,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens(),
    })
}

/// Why the response ended, in the words of the protocol.
fn stop(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop => "end_turn",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::Length => "max_tokens",
        FinishReason::Refusal => "content_filtered",
        FinishReason::Other(reason) => reason,
    }
}

/// A response as a stream, each message in its binary form.
pub(super) fn events(response: &ModelResponse) -> Vec<Vec<u8>> {
    let mut events = vec![event("messageStart", &json!({"role": "assistant"}))];
    let mut index = 0;
    for part in &response.content {
        let deltas: Vec<_> = match part {
            Part::Text { text } => pieces(text).map(|text| json!({ "text": text })).collect(),
            Part::ToolCall(call) => {
                let use_of = json!({"toolUse": {"toolUseId": call.id, "name": call.name}});
                let start = json!({"contentBlockIndex": index, "start": use_of});
                events.push(event("contentBlockStart", &start));
                pieces(&call.arguments).map(|input| json!({"toolUse": {"input": input}})).collect()
            }
            Part::Reasoning { text, signature } => {
                let texts = pieces(text).map(|text| json!({"reasoningContent": {"text": text}}));
                let signature =
                    signature.iter().map(|it| json!({"reasoningContent": {"signature": it}}));
                texts.chain(signature).collect()
            }
            _ => continue,
        };
        for delta in deltas {
            let data = json!({"contentBlockIndex": index, "delta": delta});
            events.push(event("contentBlockDelta", &data));
        }
        events.push(event("contentBlockStop", &json!({"contentBlockIndex": index})));
        index += 1;
    }
    let stop = json!({"stopReason": stop(&response.finish_reason)});
    events.push(event("messageStop", &stop));
    let end = json!({"usage": usage(response), "metrics": {"latencyMs": 1}});
    events.push(event("metadata", &end));
    events
}

/// A message of an event stream.
fn event(kind: &str, data: &Value) -> Vec<u8> {
    let mut headers = Vec::new();
    let json = "application/json";
    for (name, value) in
        [(":message-type", "event"), (":event-type", kind), (":content-type", json)]
    {
        headers.extend(u8::try_from(name.len()).unwrap_or(u8::MAX).to_be_bytes());
        headers.extend(name.bytes());
        headers.push(TEXT);
        headers.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        headers.extend(value.bytes());
    }
    let payload = data.to_string().into_bytes();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    // The lengths, two checksums, the headers and the payload.
    let mut message = length(16 + headers.len() + payload.len()).to_vec();
    message.extend(length(headers.len()));
    message.extend(crc32(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload);
    message.extend(crc32(&message).to_be_bytes());
    message
}
