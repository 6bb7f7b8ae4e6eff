//! A section of the user's own type, without its type.

use std::{any::Any, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

pub(super) type AnySection = Arc<dyn Any + Send + Sync>;

/// Why a type refuses a value.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Path below the section.
    pub(super) path: Vec<String>,
    pub(super) reason: String,
}

#[derive(Clone)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) read: fn(&Value) -> Result<AnySection, Refusal>,
}

impl Section {
    pub(super) fn new<T>(name: String) -> Self
    where
        T: DeserializeOwned + JsonSchema + Send + Sync + 'static,
    {
        Self {
            name,
            schema: SchemaGenerator::subschema_for::<T>,
            read: |value| Ok(Arc::new(read::<T>(value)?)),
        }
    }

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
