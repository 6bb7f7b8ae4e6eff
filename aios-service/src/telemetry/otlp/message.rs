//! Parts of messages of OTLP that all signals have.

use aios_core::event::Timestamp;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

/// The process that sends.
pub(in crate::telemetry) fn resource(attributes: Vec<KeyValue>) -> Resource {
    Resource { attributes, ..Resource::default() }
}

/// The library that makes the traces and metrics.
pub(in crate::telemetry) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "aios".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// A name with a value.
pub(in crate::telemetry) fn attribute(name: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

/// Nanoseconds since 1970. Earlier times are written as 1970.
pub(in crate::telemetry) fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or_default().saturating_mul(1000)
}
