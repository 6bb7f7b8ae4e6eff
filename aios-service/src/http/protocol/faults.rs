//! All faults of a body, by the schema that the OpenAPI document has for it.

use std::borrow::Cow;

use jsonschema::{Validator, error::ValidationErrorKind};
use serde::Serialize;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

/// Most faults that are reported.
pub(super) const MAX_FAULTS: usize = 100;
/// Longest name of a field that is shown, in characters.
const MAX_NAME: usize = 100;

/// A fault of the body of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// Path of the value, as in `$.retry.max_attempts`; of the field, if it is missing or unknown.
    #[schema(example = "$.retry.max_attempts")]
    pub(crate) path: String,
    /// The reason why it is a fault.
    pub(crate) message: String,
}

/// Details of an error.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the schema of a value that has other fields too")]
pub(crate) struct ErrorDetails {
    /// If the body of the request is invalid: all its faults, up to 100.
    #[schema(required = false, max_items = 100)]
    faults: Vec<Fault>,
}

/// The faults of a body, in the order of the schema, as far as it tells them.
pub(super) fn faults(schema: &Value, body: &Value) -> Vec<Fault> {
    let mut found = Faults(Vec::new());
    found.check(schema, body, "$");
    found.0
}

/// The faults that were found. No more are added to [`MAX_FAULTS`].
struct Faults(Vec<Fault>);

impl Faults {
    fn is_full(&self) -> bool {
        self.0.len() >= MAX_FAULTS
    }

    fn push(&mut self, path: Cow<'_, str>, message: impl Into<String>) {
        if !self.is_full() {
            self.0.push(Fault { path: path.into_owned(), message: message.into() });
        }
    }

    /// Compares a value with its schema, whose references are resolved.
    fn check(&mut self, schema: &Value, value: &Value, path: &str) {
        let schema = alternative(schema, value);
        match (value, schema.get("properties"), schema.get("items")) {
            (Value::Object(fields), Some(Value::Object(known)), _) => {
                self.fields(schema, known, fields, path);
                self.value(
                    &without(schema, &["properties", "required", "additionalProperties"]),
                    value,
                    path,
                );
            }
            (Value::Array(items), _, Some(each)) => {
                let validator = validator(each);
                for (index, item) in items.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    if !validator.as_ref().is_some_and(|it| it.is_valid(item)) {
                        self.check(each, item, &format!("{path}[{index}]"));
                    }
                }
                self.value(&without(schema, &["items"]), value, path);
            }
            _ => self.value(schema, value, path),
        }
    }

    /// Compares the fields of an object.
    fn fields(
        &mut self,
        schema: &Value,
        known: &Map<String, Value>,
        fields: &Map<String, Value>,
        path: &str,
    ) {
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.push(field(path, name).into(), "is missing");
            }
        }
        let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        for (name, value) in fields {
            if self.is_full() {
                return;
            }
            match known.get(name) {
                Some(schema) => self.check(schema, value, &field(path, name)),
                None if is_closed => self.push(field(path, name).into(), unknown(name, known)),
                None => {}
            }
        }
    }

    /// Compares a value with a schema as a whole.
    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        let validator = validator(schema);
        let error = validator.as_ref().and_then(|validator| validator.validate(value).err());
        if let Some(error) = error {
            let message = match error.kind() {
                ValidationErrorKind::Type { .. } => {
                    format!("is {}, expected {}", kind(value), expected(schema))
                }
                ValidationErrorKind::Pattern { pattern } => {
                    format!("does not match the pattern {pattern}")
                }
                ValidationErrorKind::Not { .. } => {
                    "has a value, or values together, that the description excludes".to_owned()
                }
                _ => error.masked_with("the value").to_string(),
            };
            self.push(path.into(), message);
        }
    }
}

/// The alternative of a schema that a value is compared with. In bodies, one of two is `null`.
fn alternative<'s>(schema: &'s Value, value: &Value) -> &'s Value {
    let listed = schema.get("oneOf").and_then(Value::as_array);
    let is_null = |it: &Value| it.get("type").is_some_and(|it| it == "null");
    let mut alternatives = listed.into_iter().flatten();
    alternatives.find(|it| is_null(it) == value.is_null()).unwrap_or(schema)
}

/// A schema without some keywords.
fn without(schema: &Value, keywords: &[&str]) -> Value {
    let mut schema = schema.clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|keyword, _| !keywords.contains(&keyword.as_str()));
    }
    schema
}

/// The validator of a schema, which is a part of the OpenAPI document.
fn validator(schema: &Value) -> Option<Validator> {
    jsonschema::options().should_validate_formats(true).build(schema).ok()
}

/// The path of a field. A name that is not an identifier is quoted.
fn field(path: &str, name: &str) -> String {
    let shown: String = name.chars().take(MAX_NAME).collect();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || it == '_';
    match !shown.is_empty() && shown.chars().all(is_plain) {
        true => format!("{path}.{shown}"),
        false => format!("{path}[{}]", Value::from(shown)),
    }
}

/// The path at which reading has stopped.
pub(super) fn path_of(path: &serde_path_to_error::Path) -> String {
    path.iter().fold("$".to_owned(), |path, segment| match segment {
        Segment::Seq { index } => format!("{path}[{index}]"),
        Segment::Map { key } => field(&path, key),
        Segment::Enum { variant } => field(&path, variant),
        Segment::Unknown => path,
    })
}

/// The message about a field that an object does not have.
fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let shown: String = name.chars().take(MAX_NAME).collect();
    match crate::config::nearest(&shown, known.keys().map(String::as_str)) {
        Some(nearest) => format!("is unknown; did you mean `{nearest}`?"),
        None => "is unknown".to_owned(),
    }
}

/// The type of a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The types that a schema accepts.
fn expected(schema: &Value) -> String {
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let types: Vec<_> = types.iter().filter_map(Value::as_str).collect();
            types.join(" or ")
        }
        Some(Value::String(one)) => one.clone(),
        _ => "another type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn should_quote_names_that_are_not_identifiers() {
        assert_eq!(field("$", "run_id"), "$.run_id");
        assert_eq!(field("$.a", "b.c"), r#"$.a["b.c"]"#);
        assert_eq!(field("$", ""), r#"$[""]"#);
        assert_eq!(field("$", "a\"b"), r#"$["a\"b"]"#);
    }

    #[test]
    fn should_say_what_is_wrong() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["name", "size"],
            "properties": {
                "name": { "type": "string", "maxLength": 3, "pattern": "^[a-z]+$" },
                "size": { "type": ["integer", "null"], "minimum": 1 },
                "at": { "type": "string", "format": "date-time" },
                "next": { "oneOf": [{ "type": "null" }, { "type": "object", "properties": { "id": { "type": "string" } } }] },
            },
        });
        let body =
            json!({ "name": "A", "colour": 1, "names": 1, "at": "now", "next": { "id": 1 } });
        let found = faults(&schema, &body);
        let mut found: Vec<_> =
            found.iter().map(|it| format!("{} {}", it.path, it.message)).collect();
        found.sort();
        let expected = [
            r#"$.at the value is not a "date-time""#,
            "$.colour is unknown",
            "$.name does not match the pattern ^[a-z]+$",
            "$.names is unknown; did you mean `name`?",
            "$.next.id is a number, expected string",
            "$.size is missing",
        ];
        assert_eq!(found, expected);
        assert_eq!(faults(&schema, &json!({ "name": "a", "size": null, "next": null })), []);
        let none = faults(&schema, &json!({ "name": "a", "size": 0 }));
        assert_eq!(none[0].message, "the value is less than the minimum of 1");
    }
}
