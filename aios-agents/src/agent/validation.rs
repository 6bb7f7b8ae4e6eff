//! Checks the parameters of a task against type and schema, and reports every violation.
//!
//! Two passes are needed. The validator finds every violation of the schema, with a path for each;
//! serde stops at the first. Serde alone knows what the type accepts beyond its schema. Both report
//! JSON pointers, so a caller sees the same form of error in both cases.
//!
//! Schemas that accept everything, such as that of `serde_json::Value`, are not compiled: such
//! parameters are only decoded.

use aios_core::{agent::TaskError, event::Payload};
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::AgentError;

/// Keywords of a schema that accept every value.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "$defs",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "format",
];

/// A JSON Schema, compiled unless it accepts everything.
pub(super) struct Schema {
    /// As it was generated, for the read models and the API.
    schema: Value,
    /// `None` if the schema accepts everything.
    validator: Option<Validator>,
}

impl Schema {
    /// Compiles a schema. Only an invalid schema that was written by hand fails.
    pub(super) fn compile(schema: Value) -> Result<Self, AgentError> {
        if is_trivial(&schema) {
            return Ok(Self { schema, validator: None });
        }
        let validator = jsonschema::validator_for(&schema).map_err(|error| {
            AgentError::InvalidSchema { schema: "parameters", reason: error.to_string() }
        })?;
        Ok(Self { schema, validator: Some(validator) })
    }

    /// The schema as JSON.
    pub(super) fn as_value(&self) -> &Value {
        &self.schema
    }

    /// Decodes valid parameters; otherwise reports all violations.
    ///
    /// Decodes from the value that was checked. That is faster than parsing the text again, and
    /// both see the same value of a duplicate property. Only numbers beyond 64 bits need the text.
    pub(super) fn decode<T: DeserializeOwned>(&self, parameters: &Payload) -> Result<T, TaskError> {
        let Some(validator) = &self.validator else { return decode(parameters) };
        let value: Value = decode(parameters)?;
        if !validator.is_valid(&value) {
            let violations: Vec<_> =
                validator.iter_errors(&value).flat_map(|error| violations(&error)).collect();
            return Err(TaskError::invalid_parameters(&violations));
        }
        T::deserialize(&value).or_else(|_| decode(parameters))
    }
}

/// Every fault of a value, as path and description. Fails if the schema is not one.
pub(super) fn faults(schema: &Payload, value: &Payload) -> Result<Vec<(String, String)>, String> {
    let schema: Value = schema.decode().map_err(|error| error.to_string())?;
    let Some(validator) = Schema::compile(schema).map_err(|error| error.to_string())?.validator
    else {
        return Ok(Vec::new());
    };
    let value: Value = value.decode().map_err(|error| error.to_string())?;
    Ok(validator.iter_errors(&value).flat_map(|error| violations(&error)).collect())
}

/// Whether the schema accepts every value: `true`, or only annotations.
fn is_trivial(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(fields) => fields.keys().all(|key| ANNOTATIONS.contains(&key.as_str())),
        _ => false,
    }
}

/// Path and description of each violation in an error. For a missing or unknown property, the path
/// is that of the property, not only of the object that contains it.
fn violations(error: &ValidationError<'_>) -> Vec<(String, String)> {
    let path = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::Required { property: Value::String(name) } => {
            vec![(join_pointer(path, name), "is missing".to_owned())]
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected
            .iter()
            .map(|name| (join_pointer(path, name), "is not a known property".to_owned()))
            .collect(),
        _ => vec![(path.to_owned(), error.to_string())],
    }
}

/// The JSON pointer (RFC 6901) of a property.
fn join_pointer(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Decodes JSON. An error names the path of the invalid value. The path is determined only after
/// decoding has failed, because tracking it is slow.
pub(crate) fn decode<T: DeserializeOwned>(parameters: &Payload) -> Result<T, TaskError> {
    serde_json::from_str(parameters.as_str()).map_err(|error| locate_error::<T>(parameters, &error))
}

/// Decodes again, with tracking of the path, to find where the value is invalid.
fn locate_error<T: DeserializeOwned>(parameters: &Payload, first: &serde_json::Error) -> TaskError {
    let mut deserializer = serde_json::Deserializer::from_str(parameters.as_str());
    let violation = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => (String::new(), description(first)),
        Err(error) => (pointer(error.path()), description(error.inner())),
    };
    TaskError::invalid_parameters(&[violation])
}

/// The text of an error. The path says where an invalid value is, so line and column are left out; they
/// remain for text that is not JSON.
fn description(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(shorter) if error.is_data() => shorter.to_owned(),
        _ => text,
    }
}

/// The JSON pointer of a path of serde.
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |path, segment| match segment {
        Segment::Seq { index } => format!("{path}/{index}"),
        Segment::Map { key } => join_pointer(&path, key),
        Segment::Enum { variant } => join_pointer(&path, variant),
        Segment::Unknown => path,
    })
}
