//! Messages of a conversation, in a form that every adapter translates from and to.
//!
//! They are recorded in journals and sent between processes, so their JSON form only grows.
//! Arguments of tool calls stay text: a model may write anything. An object is sent back byte for byte
//! where the protocol has a text, and anything else as an empty object, because providers reject it;
//! the result of the call says what was wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user of the agent.
    User,
    /// The model.
    Assistant,
    /// The tools that the model called.
    Tool,
}

/// One message of a conversation.
///
/// # Examples
///
/// A question about an image:
///
/// ```
/// use aios_llm::model::{ImageSource, Message, Part};
///
/// let mut message = Message::user("What is in this picture?");
/// let source = ImageSource::Url("https://example.org/cat.png".to_owned());
/// message.content.push(Part::Image { source });
/// assert_eq!(message.text(), "What is in this picture?");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The parts, in order.
    pub content: Vec<Part>,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image {
        /// Where the image is.
        source: ImageSource,
    },
    /// A file by reference. The provider, or the adapter, resolves the reference.
    File {
        /// The reference: a URL, or an id that the provider has assigned.
        reference: String,
        /// Media type, for example `application/pdf`.
        media_type: String,
    },
    /// The model's reasoning.
    Reasoning {
        /// The text; empty if the provider hides it.
        text: String,
        /// The provider's signature, which has to be sent back unchanged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    /// The model calls a tool.
    ToolCall(ToolCall),
    /// A tool has answered.
    ToolResult(ToolResult),
}

/// The source of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// A URL that the provider loads.
    Url(String),
    /// The image itself.
    Base64 {
        /// Media type, for example `image/png`.
        media_type: String,
        /// The bytes, in base64.
        data: String,
    },
}

/// A call of a tool, as the model wrote it. Nothing in it is validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Id that the provider has assigned.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// The arguments as text, which may not be valid JSON.
    pub arguments: String,
}

/// The result of a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResult {
    /// Id of the call.
    pub call_id: String,
    /// Name of the tool.
    pub name: String,
    /// The result, or the description of the error, as text.
    pub content: String,
    /// Whether this is an error.
    #[serde(default)]
    pub is_error: bool,
}

impl Message {
    /// A user message with one text.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, content: vec![Part::text(text)] }
    }

    /// An assistant message with one text.
    #[must_use]
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: vec![Part::text(text)] }
    }

    /// The results of tool calls.
    #[must_use]
    pub fn tool_results(results: impl IntoIterator<Item = ToolResult>) -> Self {
        let content = results.into_iter().map(Part::ToolResult).collect();
        Self { role: Role::Tool, content }
    }

    /// All texts of the message, concatenated.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(&self.content)
    }
}

impl Part {
    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// A call of a tool. The arguments are any JSON.
    #[must_use]
    pub fn tool_call(
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: &serde_json::Value,
    ) -> Self {
        let id = id.into();
        let name = name.into();
        let arguments = arguments.to_string();
        Self::ToolCall(ToolCall { id, name, arguments })
    }
}

/// The texts of some parts. Other parts are left out.
pub(super) fn text_of(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}
