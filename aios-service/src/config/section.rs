//! A section of the user's own type, without its type.
//!
//! The builder keeps sections of many types in one list. A section carries two function pointers
//! for its type: one generates the schema, and one reads a value.

use std::{any::Any, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

/// A value of the type of a section.
pub(super) type AnySection = Arc<dyn Any + Send + Sync>;

/// Why a type refuses a value.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Path below the section.
    pub(super) path: Vec<String>,
    /// As the type gives it; it may repeat the value.
    pub(super) reason: String,
}

/// A section of the program.
#[derive(Clone)]
pub(super) struct Section {
    /// Its key.
    pub(super) name: String,
    /// How it is described and read.
    kind: Kind,
}

/// The type of a section.
#[derive(Clone)]
enum Kind {
    /// A type of Rust.
    Typed {
        schema: fn(&mut SchemaGenerator) -> Schema,
        read: fn(&Value) -> Result<AnySection, Refusal>,
    },
    /// The values are described by a JSON Schema, and stay JSON.
    Described(Value),
}

/// Prefix of a reference to a definition.
const DEFINITION: &str = "#/$defs/";

impl Section {
    /// A section of this type.
    pub(super) fn new<T>(name: String) -> Self
    where
        T: DeserializeOwned + JsonSchema + Send + Sync + 'static,
    {
        let schema = SchemaGenerator::subschema_for::<T>;
        Self { name, kind: Kind::Typed { schema, read: |value| Ok(Arc::new(read::<T>(value)?)) } }
    }

    /// A section that stays JSON.
    pub(super) fn described(name: String, schema: Value) -> Self {
        Self { name, kind: Kind::Described(schema) }
    }

    /// The schema. Its definitions go to the generator, or to `definitions`.
    pub(super) fn schema(
        &self,
        generator: &mut SchemaGenerator,
        definitions: &mut Map<String, Value>,
    ) -> Value {
        match &self.kind {
            Kind::Typed { schema, .. } => schema(generator).to_value(),
            Kind::Described(schema) => {
                let mut schema = schema.clone();
                lift_definitions(&self.name, &mut schema, definitions);
                schema
            }
        }
    }

    /// Reads a value into the type.
    pub(super) fn read(&self, value: &Value) -> Result<AnySection, Refusal> {
        match &self.kind {
            Kind::Typed { read, .. } => read(value),
            Kind::Described(_) => Ok(Arc::new(value.clone())),
        }
    }

    /// Whether the name is a single part of the name of a variable.
    pub(super) fn has_valid_name(&self) -> bool {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        self.name.starts_with(|first: char| first.is_ascii_lowercase())
            && self.name.bytes().all(is_part)
            && !self.name.contains("__")
            && !self.name.ends_with('_')
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Moves the definitions of a schema to those of all sections, under names of their own.
///
/// Two sections may use the same name for different definitions, and the root of all schemas has
/// one mapping of them. The name of a section has no dot, so the new names cannot collide.
fn lift_definitions(section: &str, schema: &mut Value, definitions: &mut Map<String, Value>) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::String(target)) = keywords.get_mut("$ref")
                && let Some(name) = target.strip_prefix(DEFINITION)
            {
                *target = format!("{DEFINITION}{section}.{name}");
            }
            if let Some(Value::Object(own)) = keywords.remove("$defs") {
                for (name, mut definition) in own {
                    lift_definitions(section, &mut definition, definitions);
                    definitions.insert(format!("{section}.{name}"), definition);
                }
            }
            keywords.values_mut().for_each(|part| lift_definitions(section, part, definitions));
        }
        Value::Array(parts) => {
            parts.iter_mut().for_each(|part| lift_definitions(section, part, definitions));
        }
        _ => {}
    }
}

/// Reads a value into a type.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let keys = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Refusal { path: keys.collect(), reason: error.inner().to_string() }
    })
}
