//! The JSON Schemas of registered agent types and workflows, as schemas of the OpenAPI document.
//!
//! They are added when the document is asked for, because registrations of other processes change
//! while this one runs. JSON Schema keeps its definitions inside a schema, OpenAPI keeps them all
//! in one place, so definitions are moved and references are rewritten.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::openapi_3_0::set;
use crate::http::{ApiError, resources::managed, state::Api};

/// Where the schemas of the document are.
const SCHEMAS: &str = "#/components/schemas/";
/// Where a JSON Schema has those that it refers to; in older ones, under the second name.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Adds the schemas of the types and workflows that are registered now. A process without a store knows
/// none.
pub(crate) async fn add(api: &Api, document: &mut Value) -> Result<(), ApiError> {
    if api.runtime.store().is_none() {
        return Ok(());
    }
    for known in managed(api)?.types().await? {
        let schemas = [
            ("AgentConfig", known.config_schema),
            ("AgentParameters", known.parameters_schema),
            ("AgentOutput", known.output_schema),
        ];
        for (kind, schema) in schemas {
            let Some(schema) = schema else { continue };
            // Of another process: what is no JSON Schema is left out.
            if let Ok(schema) = schema.decode::<Value>() {
                insert(document, &format!("{kind}.{}", known.agent_type), schema);
            }
        }
    }
    for known in api.runtime.workflow_schemas() {
        for (kind, schema) in [("WorkflowInput", known.input), ("WorkflowOutput", known.output)] {
            if let Some(schema) = schema {
                insert(document, &format!("{kind}.{}", known.workflow), schema);
            }
        }
    }
    Ok(())
}

/// Inserts a JSON Schema, and those that it defines as schemas of their own.
fn insert(document: &mut Value, name: &str, mut schema: Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for key in ["$schema", "$id"] {
        fields.remove(key);
    }
    let definitions: Vec<_> =
        DEFINITIONS.iter().filter_map(|key| definitions(fields.remove(*key)?)).collect();
    refer(&mut schema, name);
    set(document, &["components", "schemas", name], schema);
    for (defined, mut schema) in definitions.into_iter().flatten() {
        refer(&mut schema, name);
        set(document, &["components", "schemas", &name_of(name, &defined)], schema);
    }
}

/// The schemas that are defined in a schema.
fn definitions(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(definitions) => Some(definitions),
        _ => None,
    }
}

/// The name of a schema that another one defines. A component of OpenAPI is named with letters and digits of
/// ASCII, `.`, `_` and `-`; other characters are escaped.
fn name_of(name: &str, defined: &str) -> String {
    let mut full = format!("{name}.");
    for character in defined.chars() {
        match character {
            '0'..='9' | 'A'..='Z' | 'a'..='z' | '.' | '_' | '-' => full.push(character),
            other => full.push_str(&format!("_{:x}_", u32::from(other))),
        }
    }
    full
}

/// Lets references lead to the schemas of the document.
fn refer(schema: &mut Value, name: &str) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(|schema| refer(schema, name)),
        Value::Object(fields) => {
            refer_field(fields, name);
            fields.values_mut().for_each(|schema| refer(schema, name));
        }
        _ => {}
    }
}

/// Rewrites the reference of one schema, if it leads into the schema itself.
fn refer_field(fields: &mut Map<String, Value>, name: &str) {
    let Some(reference) = fields.get("$ref").and_then(Value::as_str) else { return };
    let Some(pointer) = reference.strip_prefix('#') else { return };
    if let Some(led) = led(pointer, name) {
        fields.insert("$ref".to_owned(), led.into());
    }
}

/// Where a JSON Pointer into a schema leads in the document.
fn led(pointer: &str, name: &str) -> Option<String> {
    if pointer.is_empty() {
        return Some(format!("{SCHEMAS}{name}"));
    }
    let path = pointer.strip_prefix('/')?;
    let mut parts = path.splitn(3, '/');
    let (first, second, rest) = (parts.next()?, parts.next(), parts.next());
    let of = match second {
        Some(defined) if DEFINITIONS.contains(&first) => {
            let defined = percent_decode_str(defined).decode_utf8().ok()?;
            name_of(name, &defined.replace("~1", "/").replace("~0", "~"))
        }
        _ => return Some(format!("{SCHEMAS}{name}/{path}")),
    };
    Some(match rest {
        Some(rest) => format!("{SCHEMAS}{of}/{rest}"),
        None => format!("{SCHEMAS}{of}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn should_give_definitions_a_name_of_their_own() {
        let mut document = json!({ "components": { "schemas": {} } });
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": { "items": { "type": "array", "items": { "$ref": "#/$defs/Item" } } },
            "$defs": { "Item": { "anyOf": [{ "type": "null" }, { "$ref": "#" }, { "$ref": "#/$defs/Item" }] } },
        });
        insert(&mut document, "WorkflowInput.order", schema);
        insert(&mut document, "WorkflowInput.any", json!(true));
        let item = "#/components/schemas/WorkflowInput.order.Item";
        let expected = json!({
            "WorkflowInput.order": {
                "type": "object",
                "properties": { "items": { "type": "array", "items": { "$ref": item } } },
            },
            "WorkflowInput.order.Item": {
                "anyOf": [
                    { "type": "null" },
                    { "$ref": "#/components/schemas/WorkflowInput.order" },
                    { "$ref": item },
                ],
            },
        });
        assert_eq!(document["components"]["schemas"], expected);
    }
}
