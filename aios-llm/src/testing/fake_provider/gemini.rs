//! The Gemini API of Google.
//!
//! Bodies, errors and events as the real provider sends them. Lines end with `\r\n` here, as those
//! of Google do.

use serde_json::{Value, json};

use super::openai::pieces;
use crate::model::{FinishReason, ModelResponse, Part};

/// The body of an error. Its status in words follows from the number.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        400..500 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": kind}})
}

/// A whole response.
pub(super) fn body(response: &ModelResponse) -> Value {
    let parts: Vec<_> = response.content.iter().flat_map(part).collect();
    chunk(response, &parts, true)
}

/// A response, or a piece of one. The last piece has the reason of the end.
fn chunk(response: &ModelResponse, parts: &[Value], is_last: bool) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(fields) = candidate.as_object_mut().filter(|_| is_last) {
        fields.insert("finishReason".to_owned(), finish(&response.finish_reason).into());
    }
    let usage = &response.usage;
    let shown = usage.output_tokens.saturating_sub(usage.reasoning_tokens);
    json!({
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": usage.input_tokens,
            "cachedContentTokenCount": usage.cached_input_tokens,
            "candidatesTokenCount": if is_last { shown } else { 1 },
            "thoughtsTokenCount": usage.reasoning_tokens,
            "totalTokenCount": usage.total_tokens(),
        },
        "modelVersion": "fake",
        "responseId": "fake",
    })
}

/// A part in the form of the protocol; nothing if a model never sends it.
fn part(part: &Part) -> Vec<Value> {
    match part {
        Part::Text { text } => vec![json!({ "text": text })],
        Part::Reasoning { text, .. } => vec![json!({"text": text, "thought": true})],
        Part::ToolCall(call) => {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            vec![json!({"functionCall": {"name": call.name, "args": arguments}})]
        }
        _ => Vec::new(),
    }
}

/// Why the response ended. Calls of tools end like texts.
fn finish(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => "STOP",
        FinishReason::Length => "MAX_TOKENS",
        FinishReason::Refusal => "SAFETY",
        FinishReason::Other(reason) => reason,
    }
}

/// A response as a stream. The last event has the last part and the reason.
pub(super) fn events(response: &ModelResponse) -> Vec<String> {
    let mut parts = Vec::new();
    for content in &response.content {
        match content {
            Part::Text { text } => parts.extend(pieces(text).map(|text| json!({ "text": text }))),
            other => parts.extend(part(other)),
        }
    }
    let last = parts.pop().unwrap_or_else(|| json!({"text": ""}));
    let pieces = parts.into_iter().map(|part| chunk(response, &[part], false));
    let all = pieces.chain([chunk(response, &[last], true)]);
    all.map(|chunk| format!("data: {chunk}\r\n\r\n")).collect()
}
