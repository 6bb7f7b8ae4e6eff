//! Faults of the merged values, by the schema.
//!
//! One path gets one fault: a value that does not fit often violates several keywords. An object
//! with alternatives is reported by the faults of the alternative that fits best, because "does not
//! match any alternative" helps no reader.

use std::collections::BTreeSet;

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;

use super::describe::found;
use crate::config::{
    Fault, FaultKind, Origin,
    resolve::Resolved,
    schema::Schema,
    sources::{Node, display, variable},
};

/// Reports the faults, one for each path, and returns the sections that have faults.
pub(crate) fn validate(
    schema: &Schema,
    tree: &Node,
    resolved: &Resolved,
    faults: &mut Vec<Fault>,
) -> BTreeSet<String> {
    let validator = match jsonschema::validator_for(schema.as_value()) {
        Ok(validator) => validator,
        Err(error) => {
            let reason = format!("the schema of a section is invalid: {error}");
            faults.push(Fault::unreadable(Origin::Code, reason));
            return BTreeSet::new();
        }
    };
    let mut report = Report { schema, tree, resolved, faults, paths: resolved.failed.clone() };
    for error in validator.iter_errors(&resolved.value) {
        report.add(&error);
    }
    report.paths.into_iter().filter_map(|path| path.into_iter().next()).collect()
}

/// The report in progress.
struct Report<'r> {
    /// Describes the expected values.
    schema: &'r Schema,
    /// Where values come from.
    tree: &'r Node,
    /// The values, and which texts have references.
    resolved: &'r Resolved,
    faults: &'r mut Vec<Fault>,
    /// The paths that have a fault.
    paths: BTreeSet<Vec<String>>,
}

impl Report<'_> {
    /// Adds the fault of an error of the validator.
    fn add(&mut self, error: &ValidationError<'_>) {
        let mut path: Vec<String> =
            error.instance_path().segments().map(|segment| segment.to_string()).collect();
        match error.kind() {
            // Reported for each layer.
            ValidationErrorKind::AdditionalProperties { .. }
            | ValidationErrorKind::UnevaluatedProperties { .. } => {}
            ValidationErrorKind::Required { property } => {
                path.push(property.as_str().unwrap_or_default().to_owned());
                let expected = self.schema.expected(&path);
                let variable = variable(&path);
                self.push(&Origin::Default, path, FaultKind::Missing { expected, variable });
            }
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context }
                if error.instance().is_object() =>
            {
                let best = context.iter().min_by_key(|errors| misfit(errors));
                for error in best.into_iter().flatten() {
                    self.add(error);
                }
            }
            kind => {
                let kind = self.kind(kind, error, &path);
                let origin = self.tree.origin_of(&path);
                self.push(origin, path, kind);
            }
        }
    }

    /// Adds a fault, unless its path has one.
    fn push(&mut self, origin: &Origin, path: Vec<String>, kind: FaultKind) {
        let key = display(&path);
        if self.paths.insert(path) {
            self.faults.push(Fault::new(origin.clone(), key, kind));
        }
    }

    /// The kind of a fault: expected and found, or the reason of a keyword that has no short
    /// description.
    ///
    /// A description of what is expected says nothing about these keywords, so the validator's own
    /// text is used, with the value masked.
    fn kind(
        &self,
        kind: &ValidationErrorKind,
        error: &ValidationError<'_>,
        path: &[String],
    ) -> FaultKind {
        match kind {
            ValidationErrorKind::MultipleOf { .. }
            | ValidationErrorKind::UniqueItems
            | ValidationErrorKind::Contains
            | ValidationErrorKind::Not { .. }
            | ValidationErrorKind::PropertyNames { .. }
            | ValidationErrorKind::MinProperties { .. }
            | ValidationErrorKind::MaxProperties { .. } => {
                FaultKind::Refused { reason: error.masked().to_string() }
            }
            _ => FaultKind::Unexpected {
                expected: self.schema.expected(path),
                found: self.found(error.instance(), path),
            },
        }
    }

    /// The value, unless it is a secret, or comes from a variable that may be one.
    fn found(&self, value: &Value, path: &[String]) -> String {
        if let Some(written) = self.resolved.written.get(path) {
            return format!("the value of {written}");
        }
        let shape = self.schema.shape_at(path);
        let is_secret = shape.is_some_and(|shape| shape.is_secret() || shape.is_secret_url());
        match value {
            Value::String(text) if is_secret && text.is_empty() => "an empty text".to_owned(),
            Value::String(_) if is_secret => "a text that is not shown".to_owned(),
            Value::Number(_) | Value::Bool(_) if is_secret => {
                "a value that is not shown".to_owned()
            }
            value => found(value),
        }
    }
}

/// How badly an alternative fits: the tag decides, then the number of faults.
fn misfit(errors: &[ValidationError<'_>]) -> (bool, usize) {
    let is_of_tag = |error: &ValidationError<'_>| {
        matches!(
            error.kind(),
            ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. }
        )
    };
    (errors.iter().any(is_of_tag), errors.len())
}
