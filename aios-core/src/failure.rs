//! A failure as data that a journal can store.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

/// A failure as data: a journal keeps it indefinitely, so it contains no Rust types.
///
/// # Examples
///
/// ```
/// use aios_core::failure::Failure;
/// use serde_json::json;
///
/// let failure = Failure::new("OUT_OF_STOCK", "no tea is left").with_details(json!({"left": 0}));
/// assert_eq!(failure.to_string(), "no tea is left (OUT_OF_STOCK)");
///
/// let error = "x".parse::<u8>().unwrap_err();
/// assert_eq!(Failure::from_error("INVALID_NUMBER", &error).message, error.to_string());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name of the kind of failure, for example `TASK_TIMEOUT`.
    pub code: String,
    /// A human-readable message.
    pub message: String,
    /// Additional details for programs. JSON that a [`Value`] can't represent, for example a number
    /// outside the range of a double, is read as a string with its text.
    #[serde(default, skip_serializing_if = "Value::is_null", deserialize_with = "details")]
    pub details: Value,
}

impl Failure {
    /// Creates a failure without details.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: Value::Null }
    }

    /// Adds details for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// Converts an error and all its sources into one message, without the code if that is at its end:
    /// a source may be a failure with the same code, which displays it.
    pub fn from_error(code: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let code = code.into();
        let text = crate::Chain(error).to_string();
        let message = text.strip_suffix(&format!(" ({code})")).unwrap_or(&text).to_owned();
        Self::new(code, message)
    }
}

/// Invalid details never cause the loss of a failure.
fn details<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(text.get()).unwrap_or_else(|_| Value::from(text.get())))
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_say_its_code_once() {
        let inner = Failure::new("INVALID_OUTPUT", "no position");
        assert_eq!(inner.to_string(), "no position (INVALID_OUTPUT)");
        assert_eq!(Failure::from_error("INVALID_OUTPUT", &inner), inner);
        let other = Failure::from_error("PROJECTION_STOPPED", &inner);
        assert_eq!(other.message, "no position (INVALID_OUTPUT)");
    }

    #[test]
    fn should_read_a_failure_whatever_its_details_hold() {
        let deep = "[".repeat(500) + &"]".repeat(500);
        for (details, read) in [
            ("[1,{\"a\":null}]", serde_json::json!([1, { "a": null }])),
            ("1e999", Value::from("1e999")),
            (&deep, Value::from(deep.as_str())),
        ] {
            let text = format!(r#"{{"code":"X","message":"m","details":{details}}}"#);
            let failure: Failure = serde_json::from_str(&text).unwrap();
            assert_eq!(failure, Failure::new("X", "m").with_details(read));
        }
    }
}
