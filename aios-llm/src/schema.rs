//! JSON Schemas: generation and validation with paths.
//!
//! Used for the arguments of tools and the output of agents. Faults are text for a model, so they
//! have a path and plain words, and their number is limited.

use aios_core::event::Payload;
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest number of faults that are reported.
const MAX_FAULTS: usize = 10;

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Schema {
    /// The schema, as it is sent to providers.
    pub(crate) value: Value,
    /// Compiled once, used for every value.
    validator: Validator,
}

impl Schema {
    /// Fails if the schema is not one.
    pub(crate) fn compile(value: Value) -> Result<Self, String> {
        let validator = jsonschema::validator_for(&value).map_err(|error| error.to_string())?;
        Ok(Self { value, validator })
    }

    /// Checks JSON.
    pub(crate) fn check_json(&self, json: &Payload) -> Result<(), String> {
        let value = decode_text::<Value>(json.as_str())?;
        self.check(&value)
    }

    /// Checks a value. The error has one line for each fault: its path, and what is wrong.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let faults: Vec<_> =
            self.validator.iter_errors(value).take(MAX_FAULTS).map(|error| fault(&error)).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// The schema of a type.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// A fault as one line. A missing property has a path of its own, so that a model sees what to add.
fn fault(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::Required { property: Value::String(name) } => {
            format!("{path}/{name}: is missing")
        }
        _ if path.is_empty() => error.to_string(),
        _ => format!("{path}: {error}"),
    }
}

/// Decodes JSON, whose numbers may be larger than those of a [`Value`]. The error names the path.
pub(crate) fn decode_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| with_path(&error))
}

/// The text of an error, with the place in the JSON.
fn with_path(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string() {
        path if path == "." => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    }
}
