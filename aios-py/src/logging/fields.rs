//! The fields of events and spans, as JSON.

use std::{error::Error, fmt};

use aios_core::Chain;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// W3C Trace Context of a span, which lines have as `trace_id` and `span_id`.
pub(super) const TRACE_PARENT: &str = "traceparent";

/// The message and the other fields of an event or a span, in the order of their names.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) values: Map<String, Value>,
}

impl Fields {
    /// Adds the fields of a span around this, unless their names are set.
    pub(super) fn add(&mut self, outer: &Self) {
        for (name, value) in &outer.values {
            match (name.as_str(), value) {
                (TRACE_PARENT, Value::String(parent)) => {
                    // The format is checked where it is read: version, trace, span, flags.
                    let mut parts = parent.split('-').skip(1);
                    for name in ["trace_id", "span_id"] {
                        self.put_new(name, &Value::from(parts.next().unwrap_or_default()));
                    }
                }
                (name, value) => self.put_new(name, value),
            }
        }
    }

    /// The value of a field that is a text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.values.get(name)?.as_str().map(ToOwned::to_owned)
    }

    /// Sets a field, unless its name is set.
    fn put_new(&mut self, name: &str, value: &Value) {
        if !self.values.contains_key(name) {
            self.values.insert(name.to_owned(), value.clone());
        }
    }

    /// Sets a field.
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.values.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.put(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, value),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, Chain(value).to_string());
    }
}
