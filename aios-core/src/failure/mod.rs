//! A failure as data that a journal can store.

mod details;

pub use self::details::Details;

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// Additional details for programs.
    #[serde(default, skip_serializing_if = "Details::is_null")]
    pub details: Details,
}

impl Failure {
    /// Creates a failure without details.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: Details::default() }
    }

    /// Adds details for programs.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Details>) -> Self {
        self.details = details.into();
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

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => formatter.write_str(&self.code),
            message => write!(formatter, "{message} ({})", self.code),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_be_its_code_without_a_message() {
        assert_eq!(Failure::new("RUN_CANCELLED", "").to_string(), "RUN_CANCELLED");
    }

    #[test]
    fn should_say_its_code_once() {
        let inner = Failure::new("INVALID_OUTPUT", "no position");
        assert_eq!(inner.to_string(), "no position (INVALID_OUTPUT)");
        assert_eq!(Failure::from_error("INVALID_OUTPUT", &inner), inner);
        let other = Failure::from_error("PROJECTION_STOPPED", &inner);
        assert_eq!(other.message, "no position (INVALID_OUTPUT)");
    }

    #[test]
    fn should_keep_its_details_character_by_character() {
        let deep = "[".repeat(500) + &"]".repeat(500);
        for details in [
            r#"[1,{"a":null}]"#,
            "1e999",
            "[12345678901234567890123,1e400,0.1000000000000000055,-0,1.00]",
            r#"{"b":1,"a":2,"b":3}"#,
            &deep,
        ] {
            let text = format!(r#"{{"code":"X","message":"m","details":{details}}}"#);
            let failure: Failure = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&failure).unwrap(), text);
        }
    }
}
