//! The key of a provider.

use serde_json::Value;

/// A key, which providers quote in errors. It is never shown.
#[derive(Clone)]
pub(super) struct ApiKey(String);

impl ApiKey {
    /// The key of a provider; empty if it needs none.
    pub(super) fn new(key: String) -> Self {
        Self(key)
    }

    /// A text without the key.
    pub(super) fn hidden_in_text(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[key]") }
    }

    /// The body of an error without the key, in each of its texts.
    pub(super) fn hidden_in(&self, body: Value) -> Value {
        match body {
            Value::String(text) => self.hidden_in_text(&text).into(),
            Value::Array(values) => values.into_iter().map(|it| self.hidden_in(it)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, it)| (name, self.hidden_in(it))).collect()
            }
            other => other,
        }
    }
}
