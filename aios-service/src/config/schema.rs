//! The JSON Schema of the settings, by which keys and texts are read.
//!
//! It is generated from the types, so that a type is the only place that describes a section: its
//! keys, their types and limits, their defaults, and which of them are secret.

use serde_json::{Map, Value};

use super::check::{Shape, describe};

/// The schema of a mapping of sections.
#[derive(Debug)]
pub(super) struct Schema(Value);

impl Schema {
    /// Creates the schema from those of the sections, and the definitions that they refer to. Null
    /// is removed everywhere, since it means that a value is not set.
    pub(super) fn new(sections: &Map<String, Value>, definitions: &Map<String, Value>) -> Self {
        let mut root = serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Settings",
            "type": "object",
            "properties": sections,
            "$defs": definitions,
        });
        remove_null(&mut root);
        Self(root)
    }

    /// The schema as JSON, for the validator and for editors.
    pub(super) fn as_value(&self) -> &Value {
        &self.0
    }

    /// Removes a section.
    pub(super) fn remove(&mut self, section: &str) {
        if let Some(Value::Object(sections)) = self.0.get_mut("properties") {
            sections.remove(section);
        }
    }

    /// The shape of the mapping of sections.
    pub(super) fn shape(&self) -> Shape<'_> {
        Shape::new(&self.0, [&self.0])
    }

    /// The shape at a path; `None` if there is no such key.
    pub(super) fn shape_at(&self, path: &[String]) -> Option<Shape<'_>> {
        path.iter().try_fold(self.shape(), |shape, key| shape.child(key))
    }

    /// Description of the values at the path.
    pub(super) fn expected(&self, path: &[String]) -> String {
        self.shape_at(path).map_or_else(|| "nothing".to_owned(), |shape| describe(&shape))
    }
}

/// Removes null from the types and alternatives of a schema.
///
/// `Option<T>` becomes "T or null" in a generated schema. The null would appear in each description
/// of what is expected, and as an alternative that hides the faults of `T`.
fn remove_null(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    for (keyword, value) in &mut *keywords {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                schemas.values_mut().for_each(remove_null);
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.retain(|part| part.get("type").is_none_or(|name| name != "null"));
                schemas.iter_mut().for_each(remove_null);
            }
            ("type", types) => remove_null_type(types),
            ("enum", Value::Array(options)) => options.retain(|option| !option.is_null()),
            ("items" | "additionalProperties", value) => remove_null(value),
            _ => {}
        }
    }
    for keyword in ["anyOf", "oneOf"] {
        replace_only_part(keywords, keyword);
    }
}

/// Removes null from a list of types; a list of one type becomes that type.
fn remove_null_type(types: &mut Value) {
    let Value::Array(names) = types else { return };
    names.retain(|name| name != "null");
    if let [only] = names.as_slice() {
        *types = only.clone();
    }
}

/// An `anyOf` of one schema is that schema; then its faults are not hidden in the alternative.
fn replace_only_part(keywords: &mut Map<String, Value>, keyword: &str) {
    let parts = keywords.get(keyword).and_then(Value::as_array);
    let Some([Value::Object(only)]) = parts.map(Vec::as_slice) else { return };
    let only = only.clone();
    keywords.remove(keyword);
    for (key, value) in only {
        keywords.entry(key).or_insert(value);
    }
}
