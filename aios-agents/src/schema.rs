//! JSON Schemas of types.

use schemars::JsonSchema;
use serde_json::Value;

pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
