//! A response, and what it costs.
//!
//! `usage` is the sum for the caller. If other models were asked before, `billed` says which part
//! of it is theirs, because their prices may differ.

use std::ops::{Add, AddAssign, Sub};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Message, Part, Role, ToolCall, message::text_of};

/// The response of a language model.
///
/// # Examples
///
/// Scripts of test models consist of responses:
///
/// ```
/// use aios_llm::model::{FinishReason, ModelResponse, Part};
/// use serde_json::json;
///
/// let call = ModelResponse::new(vec![
///     Part::text("Let me look."),
///     Part::tool_call("call-1", "search", &json!({"words": "rust"})),
/// ]);
/// assert_eq!(call.finish_reason, FinishReason::ToolCalls);
/// assert_eq!(call.tool_calls().next().map(|call| call.name.as_str()), Some("search"));
///
/// let cut_off = ModelResponse::text("Once upon a").with_finish_reason(FinishReason::Length);
/// assert_eq!(cut_off.output_text(), "Once upon a");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ModelResponse {
    /// Name of the model that answered, as in price tables.
    pub model: String,
    /// The parts of the response, in order.
    pub content: Vec<Part>,
    /// Why the response ended.
    pub finish_reason: FinishReason,
    /// The tokens that the provider reports, and those of `billed`.
    pub usage: Usage,
    /// The part of `usage` that models are billed for which were asked before and failed, in the order of
    /// the requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub billed: Vec<ModelUsage>,
}

/// The usage that a model is billed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ModelUsage {
    /// Name of the model, as in price tables.
    pub model: String,
    /// The tokens that its provider reports.
    pub usage: Usage,
}

/// Why a response ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The response is complete.
    Stop,
    /// The model waits for the results of its tool calls.
    ToolCalls,
    /// The response reached the maximum number of tokens and is cut off.
    Length,
    /// The model or the provider refused to answer.
    Refusal,
    /// Another reason, in the provider's words. An agent takes such a response for incomplete.
    Other(String),
}

/// The number of tokens of one or several requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Input tokens, including cached ones.
    pub input_tokens: u64,
    /// Input tokens that came from the provider's cache; a part of `input_tokens`.
    pub cached_input_tokens: u64,
    /// Output tokens, including reasoning.
    pub output_tokens: u64,
    /// Output tokens of reasoning; a part of `output_tokens`.
    pub reasoning_tokens: u64,
}

impl Usage {
    /// Usage without cached tokens and reasoning.
    #[must_use]
    pub const fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self { input_tokens, cached_input_tokens: 0, output_tokens, reasoning_tokens: 0 }
    }

    /// Input and output tokens.
    #[must_use]
    pub const fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.saturating_add(other.cached_input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }
}

impl Sub for Usage {
    type Output = Self;

    /// The difference; 0 where `other` is larger.
    fn sub(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_sub(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.saturating_sub(other.cached_input_tokens),
            output_tokens: self.output_tokens.saturating_sub(other.output_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_sub(other.reasoning_tokens),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl ModelResponse {
    /// A complete response with one text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(vec![Part::text(text)])
    }

    /// A response with these parts. It ended for tool calls if it has any, and completely if not.
    #[must_use]
    pub fn new(content: Vec<Part>) -> Self {
        let calls = content.iter().any(|part| matches!(part, Part::ToolCall(_)));
        let finish_reason = if calls { FinishReason::ToolCalls } else { FinishReason::Stop };
        Self {
            model: String::new(),
            content,
            finish_reason,
            usage: Usage::default(),
            billed: Vec::new(),
        }
    }

    /// The part of `usage` that the model itself is billed for.
    #[must_use]
    pub fn own_usage(&self) -> Usage {
        self.billed.iter().fold(self.usage, |rest, failed| rest - failed.usage)
    }

    /// Sets the usage, all of which the model itself is billed for.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self.billed.clear();
        self
    }

    /// Sets why the response ended.
    #[must_use]
    pub fn with_finish_reason(mut self, finish_reason: FinishReason) -> Self {
        self.finish_reason = finish_reason;
        self
    }

    /// Sets the name of the model.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }

    /// All texts of the response, concatenated.
    #[must_use]
    pub fn output_text(&self) -> String {
        text_of(&self.content)
    }

    /// The tool calls of the response, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.content.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            _ => None,
        })
    }

    /// Whether the last call may lack a part of its arguments, because the response has reached its
    /// maximum number of tokens, or ended for a reason that does not say that it is complete.
    pub(crate) fn is_call_cut_off(&self) -> bool {
        let is_last = matches!(self.content.last(), Some(Part::ToolCall(_)));
        is_last && matches!(self.finish_reason, FinishReason::Length | FinishReason::Other(_))
    }

    /// The response as a message of the conversation.
    #[must_use]
    pub fn to_message(&self) -> Message {
        Message { role: Role::Assistant, content: self.content.clone() }
    }
}
