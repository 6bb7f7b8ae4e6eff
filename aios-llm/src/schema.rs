//! JSON Schemas: generation and validation with paths.
//!
//! Used for the arguments of tools and the output of agents. Faults are text for a model, so they
//! have a path and plain words, and their number is limited.

use aios_core::event::Payload;
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Largest number of faults that are reported.
const MAX_FAULTS: usize = 10;

/// The field of a schema that has definitions.
const DEFS: &str = "$defs";
/// Fields that providers reject at the root of the schema of a tool.
const NOT_AT_ROOT: [&str; 5] = ["oneOf", "anyOf", "allOf", "enum", "not"];
/// The field, and its former name.
const DEFINITIONS: [&str; 2] = [DEFS, "definitions"];

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

/// Whether providers accept the schema for the arguments of a tool: that of an object, not of a choice.
pub(crate) fn is_plain_object(schema: &Value) -> bool {
    let is_object = schema.get("type").is_some_and(|it| it == "object");
    is_object && !NOT_AT_ROOT.iter().any(|field| schema.get(field).is_some())
}

/// The schema of an object with a list of its properties, without which some providers reject it.
pub(crate) fn with_properties(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("properties").or_insert_with(|| json!({}));
    }
    schema
}

/// The definitions of a schema, and the rest of it, which can then be a part of another schema with these
/// definitions. A schema that refers to itself becomes one of them.
pub(crate) fn split(mut schema: Value) -> (Map<String, Value>, Value) {
    let mut moved = Map::new();
    for field in DEFINITIONS {
        let definitions = schema.as_object_mut().and_then(|fields| fields.remove(field));
        moved.extend(definitions.map(|definitions| (field.to_owned(), definitions)));
    }
    let name = free_name(moved.get(DEFS));
    let place = format!("#/{DEFS}/{name}");
    let in_moved = moved.values_mut().fold(false, |found, it| redirect(it, &place) | found);
    if redirect(&mut schema, &place) || in_moved {
        let root = std::mem::replace(&mut schema, json!({ "$ref": place }));
        let definitions = moved.entry(DEFS).or_insert_with(|| json!({}));
        definitions.as_object_mut().and_then(|definitions| definitions.insert(name, root));
    }
    (moved, schema)
}

/// A name that no definition has.
fn free_name(definitions: Option<&Value>) -> String {
    let is_free = |name: &String| definitions.and_then(|known| known.get(name)).is_none();
    let numbered = (2..).map(|number: u64| format!("output{number}"));
    std::iter::once("output".to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

/// Redirects references to the root to another place, apart from those to definitions. Returns whether
/// there are any.
fn redirect(schema: &mut Value, place: &str) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.iter_mut().fold(false, |found, (name, value)| match value {
                Value::String(reference) if name == "$ref" => {
                    let Some(path) = path_in_root(reference) else { return found };
                    *reference = format!("{place}{path}");
                    true
                }
                value => redirect(value, place) | found,
            })
        }
        Value::Array(values) => {
            values.iter_mut().fold(false, |found, value| redirect(value, place) | found)
        }
        _ => false,
    }
}

/// The path of a reference to the root or a part of it; `None` if it is to a definition, or elsewhere.
fn path_in_root(reference: &str) -> Option<&str> {
    let path = reference.strip_prefix('#')?;
    let first = path.split('/').nth(1).unwrap_or_default();
    let is_path = path.is_empty() || path.starts_with('/');
    (is_path && !DEFINITIONS.contains(&first)).then_some(path)
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
