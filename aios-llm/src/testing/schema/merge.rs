//! Schemas that hold together.

use serde_json::{Map, Value};

/// The fields of a schema whose values both schemas accept, as far as that can be said in fields. Choices
/// of both are kept apart under `allOf`.
pub(super) fn merge(mut one: Map<String, Value>, other: &Map<String, Value>) -> Map<String, Value> {
    for (name, added) in other {
        let Some(known) = one.get(name).cloned() else {
            one.insert(name.clone(), added.clone());
            continue;
        };
        if ["anyOf", "oneOf"].contains(&name.as_str()) {
            let choice = Map::from_iter([(name.clone(), added.clone())]);
            let all = one.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
            all.as_array_mut().into_iter().for_each(|all| all.push(choice.clone().into()));
        } else {
            one.insert(name.clone(), both(name, known, added));
        }
    }
    one
}

/// One field of two schemas.
fn both(name: &str, known: Value, added: &Value) -> Value {
    match (name, known, added) {
        ("properties" | "patternProperties", Value::Object(mut known), Value::Object(added)) => {
            for (property, schema) in added {
                let merged = match (known.get(property), schema) {
                    (Some(Value::Object(one)), Value::Object(other)) => {
                        merge(one.clone(), other).into()
                    }
                    _ => schema.clone(),
                };
                known.insert(property.clone(), merged);
            }
            known.into()
        }
        ("items" | "additionalProperties", Value::Object(known), Value::Object(added)) => {
            merge(known, added).into()
        }
        ("required" | "allOf", Value::Array(mut known), Value::Array(added)) => {
            let new = added.iter().filter(|it| !known.contains(it)).cloned().collect::<Vec<_>>();
            known.extend(new);
            known.into()
        }
        ("enum", Value::Array(known), Value::Array(added)) => {
            known.into_iter().filter(|it| added.contains(it)).collect()
        }
        ("type", known, added) => shared_types(&known, added),
        (name, known, added) if name.to_lowercase().contains("min") => {
            if known.as_f64() > added.as_f64() { known } else { added.clone() }
        }
        (name, known, added) if name.to_lowercase().contains("max") => {
            if known.as_f64() < added.as_f64() { known } else { added.clone() }
        }
        (_, _, added) => added.clone(),
    }
}

/// The types that both schemas have.
fn shared_types(known: &Value, added: &Value) -> Value {
    let all = |types: &Value| match types {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let is_number = |kind: &Value| kind == "integer" || kind == "number";
    let (known, added) = (all(known), all(added));
    let shared: Vec<_> = added.iter().filter(|kind| known.contains(kind)).cloned().collect();
    let has_numbers = known.iter().any(is_number) && added.iter().any(is_number);
    match shared.is_empty() {
        true if has_numbers => "integer".into(),
        _ => shared.into(),
    }
}
