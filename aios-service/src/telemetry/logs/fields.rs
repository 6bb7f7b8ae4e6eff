//! The fields of events and spans.
//!
//! A value is masked when it is recorded, so that no later step can write it. The name decides: a
//! field whose name contains a word for secrets is masked, whatever it holds; only numbers of `…tokens` are
//! counts. A secret inside a message can't be recognised, which is why secrets have a type that does not
//! print them.

use std::{error::Error, fmt};

use aios_core::Chain;
use serde_json::Value;
use tracing::field::{Field, Visit};

use crate::config::Redaction;

/// Written instead of a value.
const MASK: &str = "***";

/// The fields of an event or a span.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    /// Applied to every value.
    redaction: Redaction,
    /// The field `message`, which is never masked.
    pub(super) message: String,
    /// The other fields, in the order in which they were recorded.
    pub(super) values: Vec<(&'static str, Value)>,
}

impl Fields {
    /// No fields.
    pub(super) fn new(redaction: &Redaction) -> Self {
        Self { redaction: redaction.clone(), message: String::new(), values: Vec::new() }
    }

    /// Sets a field. A later value replaces an earlier one.
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let (name, value) = (field.name(), value.into());
        let is_masked = match value {
            Value::Number(_) => self.redaction.covers_number(name),
            _ => self.redaction.covers(name),
        };
        let value = if is_masked { Value::from(MASK) } else { value };
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.values.push((name, value)),
        }
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
            "message" => self.message = value.to_owned(),
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
