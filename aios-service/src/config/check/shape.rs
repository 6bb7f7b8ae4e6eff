//! The part of a schema that describes one value.
//!
//! A JSON Schema describes a value in several places: references, alternatives, combinations. A
//! shape is the list of the plain schemas that one value may have to fulfil, with references
//! followed. It answers the questions of this module, such as which keys there are and whether a
//! value is secret, and is not a validator: a question is answered with yes if any of the schemas
//! says so.

use serde_json::Value;

/// How many references and alternatives are followed at one place.
const MAX_DEPTH: usize = 32;

/// The schemas of a value: more than one if there are alternatives, none if nothing is valid.
#[derive(Clone, Debug)]
pub(crate) struct Shape<'s> {
    /// The whole schema, for references.
    root: &'s Value,
    /// The plain schemas.
    alternatives: Vec<&'s Value>,
}

impl<'s> Shape<'s> {
    /// The shape of a value that these schemas describe.
    pub(crate) fn new(root: &'s Value, schemas: impl IntoIterator<Item = &'s Value>) -> Self {
        let mut alternatives = Vec::new();
        for schema in schemas {
            collect(root, schema, 0, &mut alternatives);
        }
        Self { root, alternatives }
    }

    /// The plain schemas.
    pub(super) fn alternatives(&self) -> impl Iterator<Item = &'s Value> {
        self.alternatives.iter().copied()
    }

    /// The values of a keyword of the alternatives.
    pub(crate) fn keyword(&self, keyword: &str) -> impl Iterator<Item = &'s Value> {
        self.alternatives().filter_map(move |schema| schema.get(keyword))
    }

    /// Whether any value is valid.
    pub(crate) fn is_any(&self) -> bool {
        self.alternatives().any(is_any)
    }

    /// Whether values of a JSON type are valid.
    pub(crate) fn has_type(&self, name: &str) -> bool {
        let mut types = self.keyword("type");
        types.any(|types| match types {
            Value::Array(types) => types.iter().any(|known| known == name),
            known => known == name,
        }) || name == "string" && self.options().next().is_some_and(Value::is_string)
    }

    /// The values of an enumeration.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'s Value> {
        let lists = self.keyword("enum").filter_map(Value::as_array).flatten();
        lists.chain(self.keyword("const"))
    }

    /// Whether the value is secret.
    pub(crate) fn is_secret(&self) -> bool {
        self.keyword("writeOnly").any(|value| value == true)
    }

    /// Whether the value is a URL that may contain a password.
    pub(crate) fn is_secret_url(&self) -> bool {
        self.keyword("x-aios-secret").any(|value| value == "password")
    }

    /// The known keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'s str> {
        let properties = self.keyword("properties").filter_map(Value::as_object);
        properties.flat_map(|properties| properties.keys().map(String::as_str))
    }

    /// Whether mappings are valid.
    pub(crate) fn is_mapping(&self) -> bool {
        self.has_type("object") || self.names().next().is_some()
    }

    /// The shape of a key or of an item; `None` if there is no such key.
    pub(crate) fn child(&self, key: &str) -> Option<Self> {
        let mut children = Vec::new();
        for schema in self.alternatives() {
            let property = schema.get("properties").and_then(|known| known.get(key));
            match property.or_else(|| other_child(schema, key)) {
                Some(Value::Bool(false)) => {}
                Some(child) => children.push(child),
                None if is_any(schema) => children.push(schema),
                None => {}
            }
        }
        (!children.is_empty()).then(|| Self::new(self.root, children))
    }

    /// The default of a key, as the schema gives it.
    pub(crate) fn default_of(&self, key: &str) -> Option<&'s Value> {
        let properties = self.keyword("properties").filter_map(|known| known.get(key));
        properties.filter_map(|property| property.get("default")).find(|value| !value.is_null())
    }
}

/// The schema of a key that is not among the properties, or of an item.
fn other_child<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
    let is_index = key.bytes().all(|byte| byte.is_ascii_digit());
    let item = || match schema.get("prefixItems").and_then(Value::as_array) {
        Some(items) => items.get(key.parse::<usize>().ok()?),
        None => schema.get("items"),
    };
    let patterns = || schema.get("patternProperties").and_then(Value::as_object);
    is_index
        .then(item)
        .flatten()
        .or_else(|| schema.get("additionalProperties"))
        .or_else(|| patterns().and_then(|patterns| patterns.values().next()))
}

/// Whether a schema says nothing about its values.
fn is_any(schema: &Value) -> bool {
    /// Keywords that restrict a value.
    const RESTRICTIONS: [&str; 7] =
        ["type", "properties", "enum", "const", "items", "additionalProperties", "pattern"];
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(keywords) => !RESTRICTIONS.iter().any(|known| keywords.contains_key(*known)),
        _ => false,
    }
}

/// Follows references, and separates alternatives.
fn collect<'s>(root: &'s Value, schema: &'s Value, depth: usize, found: &mut Vec<&'s Value>) {
    if depth > MAX_DEPTH {
        return;
    }
    let parts = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|keyword| schema.get(keyword));
    let parts: Vec<_> = parts.filter_map(Value::as_array).flatten().collect();
    let target = schema.get("$ref").and_then(Value::as_str);
    let target = target.and_then(|target| root.pointer(target.strip_prefix('#')?));
    let is_whole = parts.is_empty() && target.is_none();
    if is_whole || schema.get("properties").is_some() {
        found.push(schema);
    }
    for part in parts.into_iter().chain(target) {
        collect(root, part, depth + 1, found);
    }
}
