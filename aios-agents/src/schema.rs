//! JSON Schemas of types.
//!
//! All schemas that aios publishes have the same dialect, JSON Schema 2020-12.

use schemars::JsonSchema;
use serde_json::Value;

/// The schema of a type, with its definitions inside.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
