//! OpenAPI 3.0 from 3.1.
//!
//! Some generators of clients read 3.0 only. The API is described once, in 3.1, and the older form
//! is derived when it is asked for, so that both never differ.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::schema_3_0::{Types, rewrite};

/// Rewrites a document of OpenAPI 3.1 as one of 3.0: schemas get the form that 3.0 knows, and scopes of
/// schemes that are not OAuth2 move to `x-required-permissions`.
pub(crate) fn downgrade(document: &Value) -> Value {
    let mut document = document.clone();
    set(&mut document, &["openapi"], json!("3.0.3"));
    if let Some(license) = document.pointer_mut("/info/license").and_then(Value::as_object_mut) {
        license.remove("identifier");
    }
    let types = types(&document);
    find_schemas(&mut document, &types);
    let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut);
    for item in paths.into_iter().flat_map(Map::values_mut) {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            move_scopes(operation);
        }
    }
    document
}

/// Moves the scopes of an operation, which 3.0 allows for OAuth2 only.
fn move_scopes(operation: &mut Value) {
    let mut scopes = Vec::new();
    let security = operation.pointer_mut("/security").and_then(Value::as_array_mut);
    for scheme in security.into_iter().flatten() {
        for list in scheme.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let taken = std::mem::replace(list, json!([]));
            scopes.extend(taken.as_array().cloned().unwrap_or_default());
        }
    }
    scopes.sort_by_key(ToString::to_string);
    scopes.dedup();
    if !scopes.is_empty() {
        set(operation, &["x-required-permissions"], Value::Array(scopes));
    }
}

/// Rewrites the schemas of a part of the document. Values of examples are data.
fn find_schemas(part: &mut Value, types: &Types) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(|part| find_schemas(part, types)),
        Value::Object(fields) => {
            for (key, part) in fields.iter_mut() {
                match (key.as_str(), part) {
                    ("schema", schema) => rewrite(schema, types),
                    ("schemas", Value::Object(schemas)) => {
                        schemas.values_mut().for_each(|schema| rewrite(schema, types));
                    }
                    ("example" | "examples", _) => {}
                    (_, part) => find_schemas(part, types),
                }
            }
        }
        _ => {}
    }
}

/// Collects the types that references lead to.
fn types(document: &Value) -> Types {
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let types = schemas.into_iter().flatten().filter_map(|(name, schema)| {
        let of = schema.get("type").filter(|it| it.is_string())?;
        Some((format!("#/components/schemas/{name}"), of.clone()))
    });
    types.collect::<HashMap<_, _>>()
}

/// Sets the value at a path, and creates the objects on the way.
pub(crate) fn set(value: &mut Value, path: &[&str], new: Value) {
    let Some((key, rest)) = path.split_first() else {
        *value = new;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    if let Some(fields) = value.as_object_mut() {
        set(fields.entry(*key).or_insert(Value::Null), rest, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_write_what_3_0_knows() {
        let document = json!({
            "openapi": "3.1.0",
            "info": { "license": { "name": "MIT", "identifier": "MIT" } },
            "paths": { "/a": { "get": { "security": [{ "bearer": ["runs:read"] }] } } },
            "components": { "schemas": {
                "A": { "type": ["string", "null"], "examples": ["x"] },
                "B": { "oneOf": [
                    { "type": "null" },
                    { "$ref": "#/components/schemas/D", "description": "d" },
                ] },
                "C": { "const": 1, "exclusiveMinimum": 0 },
                "D": { "type": "object" },
            } },
        });
        let document = downgrade(&document);
        assert_eq!(document["openapi"], "3.0.3");
        assert_eq!(document["info"]["license"], json!({ "name": "MIT" }));
        let get =
            json!({ "security": [{ "bearer": [] }], "x-required-permissions": ["runs:read"] });
        assert_eq!(document["paths"]["/a"]["get"], get);
        let schemas = json!({
            "A": { "type": "string", "nullable": true, "example": "x" },
            "B": {
                "nullable": true,
                "type": "object",
                "allOf": [{ "$ref": "#/components/schemas/D" }],
            },
            "C": { "enum": [1], "minimum": 0, "exclusiveMinimum": true },
            "D": { "type": "object" },
        });
        assert_eq!(document["components"]["schemas"], schemas);
    }
}
