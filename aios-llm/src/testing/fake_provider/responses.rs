//! Responses of `OpenAI`.
//!
//! Bodies and events as the real provider sends them: each item is announced, written in pieces,
//! and repeated as a whole; the last event has the whole response.

use serde_json::{Value, json};

use super::openai::pieces;
use crate::model::{FinishReason, ModelResponse, Part};

/// A whole response.
pub(super) fn body(response: &ModelResponse, request: &Value) -> Value {
    let output: Vec<_> = response.content.iter().enumerate().filter_map(item).collect();
    let incomplete = match &response.finish_reason {
        FinishReason::Length => json!({"reason": "max_output_tokens"}),
        FinishReason::Refusal => json!({"reason": "content_filter"}),
        FinishReason::Other(reason) => json!({ "reason": reason }),
        FinishReason::Stop | FinishReason::ToolCalls => Value::Null,
    };
    let usage = &response.usage;
    json!({
        "id": "resp_fake",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": if incomplete.is_null() { "completed" } else { "incomplete" },
        "error": null,
        "incomplete_details": incomplete,
        "instructions": request.get("instructions"),
        "metadata": {},
        "model": request.get("model"),
        "output": output,
        "parallel_tool_calls": true,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.total_tokens(),
        },
    })
}

/// A part as an item; `None` if a model never sends it.
fn item((place, part): (usize, &Part)) -> Option<Value> {
    Some(match part {
        Part::Text { text } => json!({
            "id": format!("msg_{place}"),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        }),
        Part::Reasoning { text, signature } => json!({
            "id": format!("rs_{place}"),
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text}],
            "encrypted_content": signature,
        }),
        Part::ToolCall(call) => json!({
            "id": format!("fc_{place}"),
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }),
        _ => return None,
    })
}

/// The events, each with its number.
#[derive(Default)]
struct Events(Vec<String>);

impl Events {
    /// Adds an event with its number.
    fn push(&mut self, kind: &str, mut data: Value) {
        if let Some(fields) = data.as_object_mut() {
            fields.insert("type".to_owned(), kind.into());
            fields.insert("sequence_number".to_owned(), self.0.len().into());
        }
        self.0.push(format!("event: {kind}\ndata: {data}\n\n"));
    }

    /// Adds the events of one item.
    fn push_item(&mut self, place: usize, part: &Part, done: &Value) {
        let begin = |field: &str, empty: Value| {
            // The announcement is the whole item without what the pieces bring.
            let mut begun = done.clone();
            if let Some(fields) = begun.as_object_mut() {
                fields.insert(field.to_owned(), empty);
                fields.insert("status".to_owned(), "in_progress".into());
            }
            json!({"output_index": place, "item": begun})
        };
        let id = done.get("id");
        match part {
            Part::Text { text } => {
                self.push("response.output_item.added", begin("content", json!([])));
                let at = |field: &str, value: Value| json!({"item_id": id, "output_index": place, "content_index": 0, field: value});
                let empty = json!({"type": "output_text", "text": "", "annotations": []});
                self.push("response.content_part.added", at("part", empty));
                for piece in pieces(text) {
                    let mut data = at("delta", piece.into());
                    if let Some(fields) = data.as_object_mut() {
                        fields.insert("logprobs".to_owned(), json!([]));
                    }
                    self.push("response.output_text.delta", data);
                }
                let whole = json!({"type": "output_text", "text": text, "annotations": []});
                self.push("response.content_part.done", at("part", whole));
            }
            Part::ToolCall(call) => {
                self.push("response.output_item.added", begin("arguments", "".into()));
                let at = |field: &str, value: &str| json!({"item_id": id, "output_index": place, field: value});
                for piece in pieces(&call.arguments) {
                    self.push("response.function_call_arguments.delta", at("delta", &piece));
                }
                let whole = at("arguments", &call.arguments);
                self.push("response.function_call_arguments.done", whole);
            }
            _ => self.push("response.output_item.added", begin("summary", json!([]))),
        }
        let done = json!({"output_index": place, "item": done});
        self.push("response.output_item.done", done);
    }
}

/// A response as a stream.
pub(super) fn events(response: &ModelResponse, request: &Value) -> Vec<String> {
    let whole = body(response, request);
    let mut begun = whole.clone();
    if let Some(fields) = begun.as_object_mut() {
        fields.insert("status".to_owned(), "in_progress".into());
        fields.insert("output".to_owned(), json!([]));
        fields.insert("usage".to_owned(), Value::Null);
        fields.insert("incomplete_details".to_owned(), Value::Null);
    }
    let mut events = Events::default();
    events.push("response.created", json!({ "response": begun }));
    let parts = response.content.iter().enumerate();
    let items = parts.filter_map(|(place, part)| Some((part, item((place, part))?)));
    for (place, (part, done)) in items.enumerate() {
        events.push_item(place, part, &done);
    }
    let is_complete = whole.get("status").and_then(Value::as_str) == Some("completed");
    let kind = if is_complete { "response.completed" } else { "response.incomplete" };
    events.push(kind, json!({ "response": whole }));
    events.0
}
