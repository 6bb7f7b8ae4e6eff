//! A request, and its digest.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Message;

/// A request to a language model.
///
/// # Examples
///
/// ```
/// use aios_llm::model::{Message, ModelRequest};
///
/// let request = ModelRequest::new("What is the capital of France?")
///     .with_instructions("Answer in one word.")
///     .with_message(Message::assistant("Paris"))
///     .with_message(Message::user("And of Norway?"))
///     .with_max_output_tokens(10);
/// // Equal requests have equal digests in every process, so a digest is the key of a cache.
/// assert_eq!(request.digest(), request.clone().digest());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelRequest {
    /// Instructions that precede the conversation (the system prompt).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolSpec>,
    /// Whether the model may, must or must not call tools.
    pub tool_choice: ToolChoice,
    /// The schema that the response must have. For models with native structured output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSchema>,
    /// Maximum number of output tokens, including reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// How long the caller waits for the whole response. Not part of the request that a provider gets,
    /// and not recorded: an agent sets it to what is left of its
    /// [timeout](crate::LlmAgent::model_timeout), and [`Fallback`](crate::middleware::Fallback) divides
    /// it among its models.
    #[serde(skip)]
    pub timeout: Option<Duration>,
    /// Whether another model is asked if this one rejects the request, which then does not come back.
    #[serde(skip)]
    pub(crate) has_alternative: bool,
    /// Sampling temperature, as the provider defines it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Texts that end the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// The description of a tool for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolSpec {
    /// Name: 1 to 64 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// Description for the model.
    pub description: String,
    /// JSON Schema of the arguments, an object.
    pub parameters: Value,
}

/// Whether a model calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The model calls at least one tool.
    Required,
    /// The model calls no tool.
    None,
    /// The model calls this tool.
    Tool(String),
}

/// The schema of a structured response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputSchema {
    /// Name of the type.
    pub name: String,
    /// JSON Schema of the response, an object.
    pub schema: Value,
}

impl ModelRequest {
    /// A request with one message of the user.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { messages: vec![Message::user(text)], ..Self::default() }
    }

    /// Sets the instructions.
    #[must_use]
    pub fn with_instructions(mut self, instructions: impl Into<String>) -> Self {
        self.instructions = Some(instructions.into());
        self
    }

    /// Adds a message.
    #[must_use]
    pub fn with_message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn with_tool(mut self, tool: ToolSpec) -> Self {
        self.tools.push(tool);
        self
    }

    /// Sets the maximum number of output tokens.
    #[must_use]
    pub fn with_max_output_tokens(mut self, tokens: u32) -> Self {
        self.max_output_tokens = Some(tokens);
        self
    }

    /// Sets how long the caller waits for the whole response.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// SHA-256 of the request in hexadecimal. It does not depend on the order of object keys, so
    /// equal requests have equal digests in every process.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = String::new();
        write_canonical(&serde_json::to_value(self).unwrap_or_default(), &mut text);
        let hash = Sha256::digest(text.as_bytes());
        hash.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Writes JSON with sorted keys.
pub(crate) fn write_canonical(value: &Value, text: &mut String) {
    // Every value ends with a comma, also the last one: simpler to write, and as distinct.
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in sorted {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn should_have_the_same_digest_for_any_order_of_keys() {
        let request = |parameters: &str| {
            ModelRequest::new("hi").with_tool(ToolSpec {
                name: "search".into(),
                description: String::new(),
                parameters: serde_json::from_str(parameters).unwrap(),
            })
        };
        let one = request(r#"{"a":1,"b":[2]}"#);
        let two = request(r#"{"b":[2],"a":1}"#);
        assert_eq!(one.digest(), two.digest());
        assert_ne!(one.digest(), request(r#"{"a":1,"b":[3]}"#).digest());
        assert_eq!(one.digest().len(), 64);
    }

    #[test]
    fn should_survive_a_round_trip_through_json() {
        let request = ModelRequest::new("hi").with_instructions("be brief");
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<ModelRequest>(&text).unwrap(), request);
        let least: ModelRequest = serde_json::from_value(json!({})).unwrap();
        assert_eq!(least, ModelRequest::default());
    }
}
