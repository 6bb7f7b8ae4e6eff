//! Descriptions of expected and of found values.
//!
//! The descriptions come from the JSON Schema, in words for people who edit files and who may not
//! know JSON Schema. A type can bring its own words in `x-aios-expected`.

use serde_json::Value;

use super::shape::Shape;

/// How many characters of a value are shown.
const SHOWN: usize = 40;

/// Description of the values of a shape: `an integer from 0 to 65535`.
pub(crate) fn describe(shape: &Shape<'_>) -> String {
    let mut descriptions: Vec<String> = Vec::new();
    let options: Vec<_> = shape.options().map(plain).collect();
    match options.as_slice() {
        [] => {}
        [only] => descriptions.push(only.clone()),
        options => descriptions.push(format!("one of {}", options.join(", "))),
    }
    for schema in shape.alternatives() {
        for description in describe_schema(schema) {
            if !descriptions.contains(&description) {
                descriptions.push(description);
            }
        }
    }
    match descriptions.is_empty() {
        true => "a value".to_owned(),
        false => descriptions.join(" or "),
    }
}

/// Describes one alternative: one text for each type that it allows.
fn describe_schema(schema: &Value) -> Vec<String> {
    if let Some(expected) = schema.get("x-aios-expected").and_then(Value::as_str) {
        return vec![expected.to_owned()];
    }
    if schema.get("enum").is_some() || schema.get("const").is_some() {
        return Vec::new();
    }
    if schema.get("writeOnly").is_some_and(|value| value == true) {
        return vec!["a secret".to_owned()];
    }
    let types: Vec<_> = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name.as_str()],
        _ if schema.get("properties").is_some() => vec!["object"],
        _ => Vec::new(),
    };
    types.into_iter().map(|name| describe_type(name, schema)).collect()
}

/// Describes a type with its limits.
fn describe_type(name: &str, schema: &Value) -> String {
    match name {
        "integer" => format!("an integer{}", range(schema, ["minimum", "maximum"], "")),
        "number" => format!("a number{}", range(schema, ["minimum", "maximum"], "")),
        "boolean" => "true or false".to_owned(),
        "array" => format!("a list{}", range(schema, ["minItems", "maxItems"], " items")),
        "object" => "a mapping".to_owned(),
        _ => {
            let length = range(schema, ["minLength", "maxLength"], " characters");
            let pattern =
                schema.get("pattern").map(|pattern| format!(" that matches {}", plain(pattern)));
            format!("a text{length}{}", pattern.unwrap_or_default())
        }
    }
}

/// Describes a range, with a space before it; nothing if there is none.
fn range(schema: &Value, [minimum, maximum]: [&str; 2], unit: &str) -> String {
    let limit = |keyword| schema.get(keyword).map(plain);
    let inclusive = match (limit(minimum), limit(maximum)) {
        (Some(minimum), Some(maximum)) if minimum == maximum => format!(" of {minimum}{unit}"),
        (Some(minimum), Some(maximum)) => format!(" from {minimum} to {maximum}{unit}"),
        (Some(minimum), None) => format!(" of at least {minimum}{unit}"),
        (None, Some(maximum)) => format!(" of at most {maximum}{unit}"),
        (None, None) => String::new(),
    };
    let above = limit("exclusiveMinimum").map(|limit| format!(" above {limit}"));
    let below = limit("exclusiveMaximum").map(|limit| format!(" below {limit}"));
    match unit {
        "" => inclusive + &above.unwrap_or_default() + &below.unwrap_or_default(),
        _ => inclusive,
    }
}

/// A found value, shortened.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() == 1 => "a list of 1 item".to_owned(),
        Value::Array(items) => format!("a list of {} items", items.len()),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => format!("{:?}", shortened(text)),
        scalar => scalar.to_string(),
    }
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A value without the quotes of a text.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
