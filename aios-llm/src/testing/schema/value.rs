//! Values that a schema accepts.
//!
//! Candidates are generated from the keywords of a schema and validated, part by part: the first one that
//! is valid is taken. So a keyword that is unknown here costs candidates, and never leads to an invalid
//! value. Schemas that contain themselves are searched to a depth that grows until there is a value.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::{merge::merge, number, text};
use crate::schema::{Schema, split};

/// Depths that are searched, one after the other.
const DEPTHS: [u32; 5] = [4, 8, 16, 32, 64];
/// Parts of schemas that are tried at each depth.
const MOST_STEPS: u32 = 5_000;
/// Longest array that is generated.
const MOST_ITEMS: u64 = 10_000;
/// Types of a schema that names none, in the order in which they are tried.
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
/// Keywords by which the type of a schema is known that names none.
const KEYWORDS: [(&str, &[&str]); 4] = [
    ("object", &["properties", "required", "additionalProperties", "minProperties"]),
    ("array", &["items", "prefixItems", "minItems", "contains"]),
    ("string", &["pattern", "format", "minLength", "maxLength"]),
    ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
];

/// The fields of a schema.
type Fields = Map<String, Value>;

/// A value that the schema accepts, always the same one: small, and with required properties only if that
/// is enough. `None` if none is found.
pub(super) fn example(schema: &Value) -> Option<Value> {
    let whole = Schema::compile(schema.clone()).ok()?;
    let (definitions, schema) = split(schema.clone());
    DEPTHS.into_iter().find_map(|depth| {
        let search = Search { definitions: &definitions, steps: Cell::new(0) };
        search.value(&schema, depth, 0).filter(|value| whole.check(value).is_ok())
    })
}

/// One search for a value. Values with different seeds differ, if the schema allows that.
struct Search<'d> {
    /// The schemas that references refer to.
    definitions: &'d Fields,
    /// Parts that were tried.
    steps: Cell<u32>,
}

/// Whether a value is valid.
type Accepts<'a> = &'a dyn Fn(&Value) -> bool;

impl Search<'_> {
    /// A value of a part of the schema.
    fn value(&self, schema: &Value, depth: u32, seed: u64) -> Option<Value> {
        let Some(fields) = schema.as_object() else {
            return (schema == &Value::Bool(true)).then(|| seed_of_anything(seed));
        };
        if self.steps.get() >= MOST_STEPS {
            return None;
        }
        self.steps.set(self.steps.get() + 1);
        let mut part = fields.clone();
        for (name, definitions) in self.definitions {
            part.entry(name.clone()).or_insert_with(|| definitions.clone());
        }
        let part = Schema::compile(part.into()).ok()?;
        self.find(fields, depth, seed, &|value| part.check(value).is_ok())
    }

    /// The first candidate that is accepted.
    fn find(&self, fields: &Fields, depth: u32, seed: u64, accepts: Accepts<'_>) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        if let Some(value) = fields.get("const") {
            return Some(value.clone()).filter(accepts);
        }
        if let Some(values) = fields.get("enum").and_then(Value::as_array) {
            return rotated(values, seed).find(|value| accepts(value)).cloned();
        }
        if fields.contains_key("$ref") {
            return self.find(&self.resolved(fields)?, depth, seed, accepts);
        }
        for choice in ["anyOf", "oneOf"] {
            let Some(options) = fields.get(choice).and_then(Value::as_array) else { continue };
            let rest = without(fields, choice);
            return rotated(options, seed).filter_map(Value::as_object).find_map(|option| {
                let merged = merge(rest.clone(), &self.resolved(option)?);
                self.find(&merged, depth, seed, accepts)
            });
        }
        if let Some(all) = fields.get("allOf").and_then(Value::as_array) {
            let mut merged = without(fields, "allOf");
            for part in all.iter().filter_map(Value::as_object) {
                merged = merge(merged, &self.resolved(part)?);
            }
            return self.find(&merged, depth, seed, accepts);
        }
        types_of(fields).find_map(|kind| self.typed(kind, fields, depth, seed, accepts))
    }

    /// The fields of a schema, with those that it refers to.
    fn resolved(&self, fields: &Fields) -> Option<Fields> {
        let Some(reference) = fields.get("$ref").and_then(Value::as_str) else {
            return Some(fields.clone());
        };
        let mut path = reference.strip_prefix("#/")?.split('/').map(unescaped);
        let definitions = self.definitions.get(&path.next()?)?;
        let found = path.try_fold(definitions, |value, name| value.get(&name))?;
        Some(merge(without(fields, "$ref"), found.as_object()?))
    }

    /// The first candidate of a type that is accepted.
    fn typed(
        &self,
        kind: &str,
        fields: &Fields,
        depth: u32,
        seed: u64,
        accepts: Accepts<'_>,
    ) -> Option<Value> {
        match kind {
            "null" => Some(Value::Null).filter(accepts),
            "boolean" => {
                let first = seed % 2 == 1;
                [first, !first].into_iter().map(Value::Bool).find(accepts)
            }
            "integer" => number::integers(fields, seed).into_iter().find(accepts),
            "number" => {
                let fractions = number::numbers(fields, seed).into_iter();
                fractions.chain(number::integers(fields, seed)).find(accepts)
            }
            "string" => text::texts(fields, seed).map(Value::String).find(accepts),
            "array" => {
                let prefix =
                    fields.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                let lengths =
                    [0, 1, prefix as u64].map(|length| length.max(limit(fields, "minItems")));
                lengths
                    .into_iter()
                    .filter_map(|it| self.array(fields, it, depth, seed))
                    .find(accepts)
            }
            "object" => [false, true]
                .into_iter()
                .filter_map(|is_whole| self.object(fields, is_whole, depth, seed))
                .find(accepts),
            _ => None,
        }
    }

    /// An array of this length.
    fn array(&self, fields: &Fields, length: u64, depth: u32, seed: u64) -> Option<Value> {
        if length > MOST_ITEMS {
            return None;
        }
        let is_unique = fields.get("uniqueItems") == Some(&Value::Bool(true));
        let mut prefix = fields.get("prefixItems").and_then(Value::as_array).into_iter().flatten();
        let anything = Value::Bool(true);
        let rest = fields.get("contains").or_else(|| fields.get("items")).unwrap_or(&anything);
        let mut items: Vec<Value> = Vec::new();
        for _ in 0..length {
            let item = match prefix.next() {
                Some(schema) => self.value(schema, depth, seed)?,
                None if is_unique => {
                    // As many seeds may have the same value, for example of a boolean.
                    let seeds = seed + items.len() as u64..seed + 2 * length + 16;
                    let values = seeds.filter_map(|seed| self.value(rest, depth, seed));
                    values.into_iter().find(|value| !items.contains(value))?
                }
                None => match items.last().filter(|_| items.len() as u64 > 1 && length > 100) {
                    // All are the same.
                    Some(last) => last.clone(),
                    None => self.value(rest, depth, seed)?,
                },
            };
            items.push(item);
        }
        Some(items.into())
    }

    /// An object with the required properties, or with all that have values.
    fn object(&self, fields: &Fields, is_whole: bool, depth: u32, seed: u64) -> Option<Value> {
        let known = fields.get("properties").and_then(Value::as_object);
        let required = fields.get("required").and_then(Value::as_array);
        let required = required.into_iter().flatten().filter_map(Value::as_str);
        let least = usize::try_from(limit(fields, "minProperties")).ok()?;
        let mut object = Map::new();
        for name in required {
            let schema = known.and_then(|known| known.get(name)).unwrap_or_else(|| other(fields));
            object.insert(name.to_owned(), self.value(schema, depth, seed)?);
        }
        for (name, schema) in known.into_iter().flatten() {
            if (is_whole || object.len() < least)
                && !object.contains_key(name)
                && let Some(value) = self.value(schema, depth, seed)
            {
                object.insert(name.clone(), value);
            }
        }
        for number in 0..MOST_ITEMS {
            if object.len() >= least {
                break;
            }
            let (name, schema) = self.further(fields, depth, number)?;
            object.insert(name, self.value(schema, depth, seed)?);
        }
        Some(object.into())
    }

    /// A property that the schema does not name.
    fn further<'f>(
        &self,
        fields: &'f Fields,
        depth: u32,
        number: u64,
    ) -> Option<(String, &'f Value)> {
        let patterns = fields.get("patternProperties").and_then(Value::as_object);
        if let Some((pattern, schema)) = patterns.and_then(|patterns| patterns.iter().next()) {
            return Some((text::matching(pattern, 0, number)?, schema));
        }
        let name = match fields.get("propertyNames").and_then(Value::as_object) {
            Some(names) => {
                let string = Map::from_iter([("type".to_owned(), "string".into())]);
                let name = self.value(&merge(string, names).into(), depth, number)?;
                name.as_str()?.to_owned()
            }
            None => text::letters(1, number),
        };
        Some((name, other(fields)))
    }
}

/// The schema of properties that have no name in an object.
fn other(fields: &Fields) -> &Value {
    fields.get("additionalProperties").filter(|it| it.is_object()).unwrap_or(&Value::Bool(true))
}

/// A value where everything is valid.
fn seed_of_anything(seed: u64) -> Value {
    if seed == 0 { Value::Null } else { seed.into() }
}

/// The types of a schema, in the order in which they are tried.
fn types_of(fields: &Fields) -> Box<dyn Iterator<Item = &str> + '_> {
    match fields.get("type") {
        Some(Value::String(kind)) => Box::new(std::iter::once(kind.as_str())),
        Some(Value::Array(kinds)) => Box::new(kinds.iter().filter_map(Value::as_str)),
        _ => {
            let is_known = |(_, keywords): &&(&str, &[&str])| {
                keywords.iter().any(|keyword| fields.contains_key(*keyword))
            };
            let known = KEYWORDS.iter().find(is_known).map(|(kind, _)| *kind);
            Box::new(known.into_iter().chain(TYPES))
        }
    }
}

/// The values, beginning with another one for each seed.
fn rotated(values: &[Value], seed: u64) -> impl Iterator<Item = &Value> {
    let count = values.len().max(1) as u64;
    let start = usize::try_from(seed % count).unwrap_or(0);
    values.iter().cycle().skip(start).take(values.len())
}

/// The fields without one of them.
fn without(fields: &Fields, name: &str) -> Fields {
    fields.iter().filter(|(known, _)| *known != name).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A limit that is a number; 0 if it is not set.
fn limit(fields: &Fields, name: &str) -> u64 {
    fields.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A name in a reference.
fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}
