//! What went wrong, as data that a journal can keep.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What went wrong, as data: a journal keeps it for ever, so it names no Rust type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name of the kind of failure, for example `TASK_TIMEOUT`.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// What a program may want to know besides.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Failure {
    /// Creates a failure without details.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: Value::Null }
    }

    /// Adds what a program may want to know besides.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// Writes an error and all its sources into one message.
    pub fn from_error(code: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self::new(code, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Failure {}
