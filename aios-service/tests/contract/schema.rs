//! Whether a schema accepts every value of another one.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::compatibility::Break;

/// Keywords that say nothing about which values are valid.
const ANNOTATIONS: [&str; 9] = [
    "title",
    "description",
    "example",
    "examples",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
];
/// Keywords that have a rule of their own below. All others have to be equal.
const RULED: [&str; 18] = [
    "type",
    "enum",
    "const",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "oneOf",
    "anyOf",
    "minimum",
    "exclusiveMinimum",
    "minLength",
    "minItems",
    "minProperties",
    "maximum",
    "exclusiveMaximum",
    "maxLength",
    "maxItems",
];
/// Limits of which a smaller one accepts more.
const LOWER: [&str; 5] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
/// Limits of which a greater one accepts more.
const UPPER: [&str; 5] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];

/// The sender of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Clients of the old document send values to a service with the new one.
    Request,
    /// A service with the new document sends values to clients of the old one.
    Response,
}

/// Compares the schemas of two documents.
pub(super) struct Schemas<'d> {
    pub(super) old: &'d Value,
    pub(super) new: &'d Value,
    pub(super) direction: Direction,
    /// The pairs that are being compared, so that recursive schemas end.
    pub(super) open: Vec<(Value, Value)>,
}

impl Schemas<'_> {
    /// The changes that break a client if a schema is replaced by another one.
    pub(super) fn compare(&mut self, path: &str, old: &Value, new: &Value) -> Vec<Break> {
        let (old, new) = (resolved(self.old, old), resolved(self.new, new));
        let pair = (old.clone(), new.clone());
        if self.open.contains(&pair) {
            return Vec::new();
        }
        self.open.push(pair);
        let breaks = match has_alternatives(&old) || has_alternatives(&new) {
            true => self.alternatives(path, &old, &new),
            false => self.keywords(path, &old, &new),
        };
        self.open.pop();
        breaks
    }

    /// Each alternative that may be sent must be one that is accepted.
    fn alternatives(&mut self, path: &str, old: &Value, new: &Value) -> Vec<Break> {
        let old = alternatives(self.old, old);
        let new = alternatives(self.new, new);
        let (sent, accepted) = match self.direction {
            Direction::Request => (old, new),
            Direction::Response => (new, old),
        };
        let mut breaks = Vec::new();
        for value in &sent {
            let tried = accepted.iter().map(|accepted| match self.direction {
                Direction::Request => self.compare(path, value, accepted),
                Direction::Response => self.compare(path, accepted, value),
            });
            breaks.extend(tried.min_by_key(Vec::len).unwrap_or_default());
        }
        breaks
    }

    /// Compares two schemas without alternatives, keyword by keyword.
    fn keywords(&mut self, path: &str, old: &Value, new: &Value) -> Vec<Break> {
        let (sent, accepted) = match self.direction {
            Direction::Request => (old, new),
            Direction::Response => (new, old),
        };
        let mut breaks = Vec::new();
        let mut changed = |keyword: &str| {
            let text = |schema: &Value| match schema.get(keyword) {
                Some(value) => value.to_string().chars().take(200).collect(),
                None => "absent".to_owned(),
            };
            breaks
                .push(Break::new(path, format!("`{keyword}` was {}, is {}", text(old), text(new))));
        };
        if !types(sent).is_subset(&types(accepted)) {
            changed("type");
            // Nothing else of the two can be compared.
            if types(sent).is_disjoint(&types(accepted)) {
                return breaks;
            }
        }
        if !values_fit(sent, accepted) {
            changed("enum");
        }
        let number = |schema: &Value, limit: &str| schema.get(limit).and_then(Value::as_f64);
        for limit in LOWER.iter().chain(&UPPER) {
            let Some(accepted) = number(accepted, limit) else { continue };
            let fits = number(sent, limit).is_some_and(|sent| match LOWER.contains(limit) {
                true => sent >= accepted,
                false => sent <= accepted,
            });
            if !fits {
                changed(limit);
            }
        }
        for keyword in accepted.as_object().into_iter().flat_map(Map::keys) {
            let is_free = ANNOTATIONS.contains(&keyword.as_str()) || keyword.starts_with("x-");
            let is_ruled = RULED.contains(&keyword.as_str()) || UPPER.contains(&keyword.as_str());
            if !is_free && !is_ruled && sent.get(keyword) != accepted.get(keyword) {
                changed(keyword);
            }
        }
        // What a client leaves out must mean what it meant.
        if self.direction == Direction::Request
            && old.get("default").is_some_and(|it| new.get("default") != Some(it))
        {
            changed("default");
        }
        breaks.extend(self.members(path, old, new));
        breaks
    }

    /// Compares the properties and the items.
    fn members(&mut self, path: &str, old: &Value, new: &Value) -> Vec<Break> {
        let anything = json!({});
        let mut breaks = Vec::new();
        let items = |schema: &Value| schema.get("items").cloned().unwrap_or_else(|| json!({}));
        if old.get("items").is_some() || new.get("items").is_some() {
            breaks.extend(self.compare(&format!("{path}[]"), &items(old), &items(new)));
        }
        let names: BTreeSet<_> = [old, new].into_iter().flat_map(properties).collect();
        for name in names {
            let path = format!("{path}.{name}");
            let property = |schema: &Value| schema.get("properties")?.get(&name).cloned();
            breaks.extend(match (property(old), property(new)) {
                (Some(old), Some(new)) => self.compare(&path, &old, &new),
                (Some(_), None) if takes_anything(new) && self.direction == Direction::Request => {
                    Vec::new()
                }
                (Some(_), None) => vec![Break::new(&path, "is removed")],
                (None, _)
                    if self.direction == Direction::Request || others(old) != json!(false) =>
                {
                    Vec::new()
                }
                (None, _) => vec![Break::new(&path, "is new, and the object had no others")],
            });
        }
        let (was, is) = (required(old), required(new));
        breaks.extend(
            match self.direction {
                Direction::Request => {
                    is.difference(&was).map(|name| (name, "is required")).collect()
                }
                Direction::Response => {
                    was.difference(&is).map(|name| (name, "may be missing")).collect::<Vec<_>>()
                }
            }
            .into_iter()
            .map(|(name, what)| Break::new(&format!("{path}.{name}"), what)),
        );
        let path = format!("{path}.*");
        let (was, is) = (others(old), others(new));
        let (sent, accepted) = match self.direction {
            Direction::Request => (&was, &is),
            Direction::Response => (&is, &was),
        };
        match (sent, accepted) {
            (_, Value::Bool(true)) | (Value::Bool(false), _) => {}
            (_, Value::Bool(false)) => {
                breaks
                    .push(Break::new(&path, format!("`additionalProperties` was {was}, is {is}")));
            }
            _ => {
                let open = |schema: &Value| match schema {
                    Value::Bool(_) => anything.clone(),
                    schema => schema.clone(),
                };
                breaks.extend(self.compare(&path, &open(&was), &open(&is)));
            }
        }
        breaks
    }
}

/// A schema with what it refers to. Keywords beside the reference win.
fn resolved(document: &Value, schema: &Value) -> Value {
    let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema.clone() };
    let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
    let mut target = resolved(document, target.unwrap_or(&Value::Null));
    if let (Some(target), Some(schema)) = (target.as_object_mut(), schema.as_object()) {
        target.extend(
            schema.iter().filter(|(key, _)| *key != "$ref").map(|(k, v)| (k.clone(), v.clone())),
        );
    }
    target
}

/// Whether a schema lists alternatives.
fn has_alternatives(schema: &Value) -> bool {
    schema.get("oneOf").is_some() || schema.get("anyOf").is_some()
}

/// The alternatives of a schema, each with the keywords beside them. Several types are alternatives.
fn alternatives(document: &Value, schema: &Value) -> Vec<Value> {
    for keyword in ["oneOf", "anyOf"] {
        let Some(listed) = schema.get(keyword).and_then(Value::as_array) else { continue };
        let with_rest = |alternative: &Value| {
            let mut whole = schema.clone();
            if let Some(whole) = whole.as_object_mut() {
                whole.remove(keyword);
                whole.extend(
                    resolved(document, alternative).as_object().cloned().unwrap_or_default(),
                );
            }
            alternatives(document, &whole)
        };
        return listed.iter().flat_map(with_rest).collect();
    }
    let one = |name: &Value| {
        let mut schema = schema.clone();
        schema["type"] = name.clone();
        schema
    };
    match schema.get("type").and_then(Value::as_array) {
        Some(types) => types.iter().map(one).collect(),
        None => vec![schema.clone()],
    }
}

/// The types that a schema accepts. Every integer is a number.
fn types(schema: &Value) -> BTreeSet<&str> {
    const ALL: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
    let mut types: BTreeSet<_> = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => BTreeSet::from([name.as_str()]),
        _ => BTreeSet::from(ALL),
    };
    if types.contains("number") {
        types.insert("integer");
    }
    types
}

/// Whether all listed values that may be sent are accepted.
fn values_fit(sent: &Value, accepted: &Value) -> bool {
    let listed = |schema: &Value| match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(values)), _) => Some(values.clone()),
        (_, Some(value)) => Some(vec![value.clone()]),
        _ => None,
    };
    match (listed(sent), listed(accepted)) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(sent), Some(accepted)) => sent.iter().all(|value| accepted.contains(value)),
    }
}

/// The names of the properties of a schema.
fn properties(schema: &Value) -> Vec<String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(Map::keys).cloned().collect()
}

/// The names of the properties that a schema requires.
fn required(schema: &Value) -> BTreeSet<&str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a schema takes every object.
fn takes_anything(schema: &Value) -> bool {
    schema.get("properties").is_none() && others(schema) == json!(true)
}

/// The schema of the properties that a schema does not name.
fn others(schema: &Value) -> Value {
    schema.get("additionalProperties").cloned().unwrap_or(Value::Bool(true))
}
