//! Schemas of OpenAPI 3.0 from JSON Schema, as 3.1 has it.
//!
//! | JSON Schema | 3.0 |
//! |---|---|
//! | `true`, `false` | `{}`, `{"not": {}}` |
//! | a type list, or a choice, with `null` | `nullable` |
//! | `type: null` | `enum: [null]` |
//! | a type list with several others | no type |
//! | `const`, `examples` | `enum`, `example` |
//! | a number as `exclusiveMinimum` or `exclusiveMaximum` | `minimum` or `maximum`, exclusive |
//! | `prefixItems` | `items` of any of them |
//! | `patternProperties` where no others are allowed | `additionalProperties` of any of them |
//! | other keywords that 3.0 does not know | left out |
//!
//! A schema without the keywords that are left out accepts more, never less. Values of `default`, `example`, `examples`,
//! `const` and `enum` are data, and stay as they are.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// The types of the schemas that can be referred to, by their references.
pub(super) type Types = HashMap<String, Value>;

/// Keywords that 3.0 knows. Others begin with `x-`.
const KEYWORDS: &[&str] = &[
    "title",
    "description",
    "type",
    "format",
    "nullable",
    "enum",
    "default",
    "example",
    "multipleOf",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "discriminator",
    "readOnly",
    "writeOnly",
    "deprecated",
    "externalDocs",
    "xml",
];

/// Rewrites a schema and those in it.
pub(super) fn rewrite(schema: &mut Value, types: &Types) {
    match schema {
        Value::Bool(true) => *schema = json!({}),
        Value::Bool(false) => *schema = json!({ "not": {} }),
        Value::Object(fields) => {
            // Nothing may stand beside `$ref` in 3.0.
            if fields.contains_key("$ref") {
                fields.retain(|key, _| key == "$ref");
                return;
            }
            rewrite_types(fields);
            rewrite_choices(fields, types);
            rewrite_values(fields);
            rewrite_limit(fields, "minimum", "exclusiveMinimum", |limit, other| limit >= other);
            rewrite_limit(fields, "maximum", "exclusiveMaximum", |limit, other| limit <= other);
            rewrite_items(fields);
            rewrite_properties(fields);
            fields.retain(|key, _| key.starts_with("x-") || KEYWORDS.contains(&key.as_str()));
            rewrite_parts(fields, types);
        }
        _ => {}
    }
}

/// Rewrites the schemas in a schema, whose keywords are those of 3.0 by now.
fn rewrite_parts(fields: &mut Map<String, Value>, types: &Types) {
    for (keyword, part) in fields.iter_mut() {
        match (keyword.as_str(), part) {
            ("items" | "not", part) => rewrite(part, types),
            ("additionalProperties", part @ Value::Object(_)) => rewrite(part, types),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(|part| rewrite(part, types));
            }
            ("properties", Value::Object(parts)) => {
                parts.values_mut().for_each(|part| rewrite(part, types));
            }
            _ => {}
        }
    }
}

/// A value has one type in 3.0, and `null` is none.
fn rewrite_types(fields: &mut Map<String, Value>) {
    let mut types = match fields.remove("type") {
        Some(Value::Array(types)) => types,
        Some(of) => vec![of],
        None => return,
    };
    let count = types.len();
    types.retain(|of| *of != "null");
    if types.len() < count {
        fields.insert("nullable".to_owned(), json!(true));
    }
    if types.is_empty() {
        fields.insert("enum".to_owned(), json!([null]));
    }
    if let Ok([of]) = <[Value; 1]>::try_from(types) {
        fields.insert("type".to_owned(), of);
    }
}

/// Whether a member of `oneOf` or `anyOf` says that the value may be `null`.
fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|it| it == "null")
}

/// Makes a choice between `null` and others a nullable one between the others.
fn rewrite_choices(fields: &mut Map<String, Value>, types: &Types) {
    for key in ["oneOf", "anyOf"] {
        let Some(Value::Array(schemas)) = fields.get_mut(key) else { continue };
        let count = schemas.len();
        schemas.retain(|schema| !is_null(schema));
        if schemas.is_empty() || schemas.len() == count {
            if count > 0 && schemas.is_empty() {
                fields.remove(key);
                fields.insert("nullable".to_owned(), json!(true));
                fields.insert("enum".to_owned(), json!([null]));
            }
            continue;
        }
        let schemas = std::mem::take(schemas);
        fields.remove(key);
        fields.insert("nullable".to_owned(), json!(true));
        // `nullable` needs a type beside it.
        let reference = schemas.first().and_then(|it| it.get("$ref")?.as_str());
        if let (1, Some(of)) = (schemas.len(), reference.and_then(|it| types.get(it))) {
            fields.insert("type".to_owned(), of.clone());
        }
        // Nothing may stand beside `$ref` in 3.0.
        let key = if schemas.len() == 1 { "allOf" } else { key };
        fields.insert(key.to_owned(), Value::Array(schemas));
    }
}

/// Rewrites the keywords whose values are data.
fn rewrite_values(fields: &mut Map<String, Value>) {
    if let Some(value) = fields.remove("const") {
        fields.insert("enum".to_owned(), json!([value]));
    }
    if let Some(Value::Array(examples)) = fields.remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        fields.insert("example".to_owned(), first);
    }
    for keyword in ["enum", "required"] {
        if fields.get(keyword).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            fields.remove(keyword);
        }
    }
}

/// A limit is exclusive or not in 3.0; there is one. The stricter one stays.
fn rewrite_limit(
    fields: &mut Map<String, Value>,
    limit: &str,
    exclusive: &str,
    is_stricter: fn(f64, f64) -> bool,
) {
    let Some(value) = fields.get(exclusive).filter(|it| it.is_number()).cloned() else { return };
    let other = fields.get(limit).and_then(Value::as_f64);
    let is_kept = other.is_none_or(|other| is_stricter(value.as_f64().unwrap_or(other), other));
    if is_kept {
        fields.insert(limit.to_owned(), value);
        fields.insert(exclusive.to_owned(), json!(true));
    } else {
        fields.remove(exclusive);
    }
}

/// Lists have one schema for all items in 3.0, and they have one.
fn rewrite_items(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(mut items)) = fields.remove("prefixItems") {
        let count = items.len();
        let most = fields.get("maxItems").and_then(Value::as_u64);
        let are_all = most.is_some_and(|most| usize::try_from(most).is_ok_and(|it| it <= count));
        match fields.remove("items") {
            Some(Value::Bool(false)) if !are_all => {
                fields.insert("maxItems".to_owned(), json!(count));
            }
            rest if !are_all => items.push(rest.unwrap_or_else(|| json!({}))),
            _ => {}
        }
        fields.insert("items".to_owned(), json!({ "anyOf": items }));
    }
    if fields.get("type").is_some_and(|it| it == "array") {
        fields.entry("items").or_insert_with(|| json!({}));
    }
}

/// Properties are named one by one in 3.0.
fn rewrite_properties(fields: &mut Map<String, Value>) {
    let Some(Value::Object(patterns)) = fields.remove("patternProperties") else { return };
    let additional = fields.get("additionalProperties");
    if additional.is_some_and(|it| *it == json!(false)) && !patterns.is_empty() {
        let any: Vec<_> = patterns.into_iter().map(|(_, schema)| schema).collect();
        fields.insert("additionalProperties".to_owned(), json!({ "anyOf": any }));
    } else if additional.is_some_and(Value::is_object) {
        fields.remove("additionalProperties");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(mut schema: Value) -> Value {
        rewrite(&mut schema, &Types::new());
        schema
    }

    #[test]
    fn should_keep_the_stricter_limit() {
        let both = |limit: i32| json!({ "maximum": limit, "exclusiveMaximum": 10 });
        assert_eq!(rewritten(both(9)), json!({ "maximum": 9 }));
        let exclusive = json!({ "maximum": 10, "exclusiveMaximum": true });
        assert_eq!([rewritten(both(10)), rewritten(both(11))], [exclusive.clone(), exclusive]);
    }

    #[test]
    fn should_allow_all_items_of_a_tuple() {
        for (rest, expected) in [
            (json!({}), json!({ "items": { "anyOf": [{}, {}] } })),
            (json!({ "items": false }), json!({ "items": { "anyOf": [{}] }, "maxItems": 1 })),
            (json!({ "maxItems": 1 }), json!({ "items": { "anyOf": [{}] }, "maxItems": 1 })),
        ] {
            let mut schema = json!({ "prefixItems": [true] });
            schema.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            assert_eq!(rewritten(schema), expected, "{rest}");
        }
    }

    #[test]
    fn should_allow_all_properties_of_a_pattern() {
        let strict = json!({ "patternProperties": { "a": true }, "additionalProperties": false });
        assert_eq!(rewritten(strict), json!({ "additionalProperties": { "anyOf": [{}] } }));
        let others = json!({ "patternProperties": { "a": true }, "additionalProperties": { "type": "null" } });
        assert_eq!(rewritten(others), json!({}));
    }

    #[test]
    fn should_rewrite_choices_of_nothing_but_null() {
        let null = json!({ "nullable": true, "enum": [null] });
        assert_eq!(rewritten(json!({ "anyOf": [{ "type": "null" }] })), null);
        assert_eq!(rewritten(json!({ "type": ["null"] })), null);
    }
}
