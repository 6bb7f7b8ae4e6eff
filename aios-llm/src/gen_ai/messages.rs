//! Messages in the form of the JSON schemas of the conventions.

use serde_json::{Value, json};

use super::reason;
use crate::model::{ImageSource, Message, ModelResponse, Part, Role};

/// The instructions of a request.
pub(super) fn instructions(text: &str) -> Value {
    json!([{"type": "text", "content": text}])
}

/// The messages of a request.
pub(super) fn input(messages: &[Message]) -> Value {
    let message = |message: &Message| {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        json!({"role": role, "parts": parts(&message.content)})
    };
    messages.iter().map(message).collect()
}

/// The message of a response.
pub(super) fn output(response: &ModelResponse) -> Value {
    let finish_reason = reason(&response.finish_reason);
    let parts = parts(&response.content);
    json!([{"role": "assistant", "parts": parts, "finish_reason": finish_reason}])
}

/// The parts of a message.
fn parts(parts: &[Part]) -> Value {
    parts.iter().map(part).collect()
}

/// A part. The arguments of a call are a value if they are JSON.
fn part(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "content": text}),
        Part::Reasoning { text, .. } => json!({"type": "reasoning", "content": text}),
        Part::Image { source: ImageSource::Url(url) } => {
            json!({"type": "uri", "modality": "image", "uri": url})
        }
        Part::Image { source: ImageSource::Base64 { media_type, data } } => {
            json!({"type": "blob", "modality": "image", "mime_type": media_type, "content": data})
        }
        Part::File { reference, media_type } => {
            let modality = match media_type.split_once('/') {
                Some((kind @ ("image" | "video" | "audio"), _)) => kind,
                _ => "document",
            };
            let (kind, place) =
                if reference.contains("://") { ("uri", "uri") } else { ("file", "file_id") };
            json!({"type": kind, "modality": modality, "mime_type": media_type, place: reference})
        }
        Part::ToolCall(call) => {
            let arguments = serde_json::from_str(&call.arguments);
            let arguments = arguments.unwrap_or_else(|_| Value::from(call.arguments.as_str()));
            json!({"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments})
        }
        Part::ToolResult(result) => {
            json!({"type": "tool_call_response", "id": result.call_id, "response": result.content})
        }
    }
}
