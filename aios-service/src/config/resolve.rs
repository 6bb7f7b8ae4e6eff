//! Turns the merged layers into values: replaces references, and gives texts of the environment the
//! types of the schema.
//!
//! Values of files have types, and those of variables are texts. A text of a variable is read as
//! the type of its key; if it can't be, it stays a text, and the validation reports it with what is
//! expected. Only texts of files have references: a variable may contain a `$` that means nothing.
//!
//! On the way, all secrets are noted, so that later texts can be masked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number, Value};

use super::{
    Fault, FaultKind, Origin,
    check::Shape,
    secret::MASK,
    secret_url,
    sources::{Content, Environment, Node, ReferenceError, display, substitute},
};

/// The values, and what must be known about them to report faults.
#[derive(Default)]
pub(super) struct Resolved {
    /// The values of all sections.
    pub(super) value: Value,
    /// The texts of files that have references, as they are written.
    pub(super) written: BTreeMap<Vec<String>, String>,
    /// The paths that have no value because of a fault.
    pub(super) failed: BTreeSet<Vec<String>>,
    /// Texts that no report may have.
    secrets: BTreeSet<String>,
}

impl Resolved {
    /// A text without the secrets and the values of references, which may be secrets.
    pub(super) fn masked(&self, text: &str) -> String {
        // The longest first: one may be a part of another.
        let mut secrets: Vec<_> = self.secrets.iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

/// Resolves the tree. Every known section exists afterwards, even without values.
pub(super) fn resolve(
    tree: &Node,
    shape: &Shape<'_>,
    environment: &Environment,
    faults: &mut Vec<Fault>,
) -> Resolved {
    let mut resolver = Resolver { environment, faults, resolved: Resolved::default() };
    let mut value = resolver.value(tree, shape, &mut Vec::new()).unwrap_or_default();
    if let Value::Object(sections) = &mut value {
        // A section that no layer has is empty, so that what it lacks is reported.
        for section in shape.names() {
            sections.entry(section).or_insert_with(|| Value::Object(Map::new()));
        }
    }
    Resolved { value, ..resolver.resolved }
}

/// The walk through the tree.
struct Resolver<'r> {
    /// For references.
    environment: &'r Environment,
    /// The report so far.
    faults: &'r mut Vec<Fault>,
    /// The result so far.
    resolved: Resolved,
}

impl Resolver<'_> {
    /// The value of a node; `None` if it is not set.
    fn value(&mut self, node: &Node, shape: &Shape<'_>, path: &mut Vec<String>) -> Option<Value> {
        match &node.content {
            Content::Scalar(Value::Null) => None,
            Content::Mapping(fields) => {
                let known = fields.iter().filter_map(|(key, field)| {
                    let value = self.child(field, shape, key, path)?;
                    Some((key.clone(), value))
                });
                Some(Value::Object(known.collect()))
            }
            Content::Sequence(items) => {
                // An item without a value is kept, so that the others keep their places.
                let items = items.iter().enumerate().map(|(index, item)| {
                    self.child(item, shape, &index.to_string(), path).unwrap_or_default()
                });
                Some(Value::Array(items.collect()))
            }
            Content::Text(text) => {
                self.note_secret(text, shape);
                Some(typed(text, shape))
            }
            Content::Scalar(Value::String(text)) => self.text(node, text, shape, path),
            // Reported as a secret in a file; its type is not another fault.
            Content::Scalar(value) if shape.is_secret() => {
                let text = value.to_string();
                self.note_secret(&text, shape);
                Some(text.into())
            }
            Content::Scalar(value) => Some(value.clone()),
        }
    }

    /// The value of a key or item.
    fn child(
        &mut self,
        node: &Node,
        shape: &Shape<'_>,
        key: &str,
        path: &mut Vec<String>,
    ) -> Option<Value> {
        path.push(key.to_owned());
        let value = match shape.child(key) {
            Some(child) => self.value(node, &child, path),
            // Reported as unknown, or by the type of what contains it.
            None => None,
        };
        path.pop();
        value
    }

    /// The value of a text, with its references replaced if it is from a file.
    fn text(
        &mut self,
        node: &Node,
        text: &str,
        shape: &Shape<'_>,
        path: &[String],
    ) -> Option<Value> {
        self.note_secret(text, shape);
        if !matches!(node.origin, Origin::File { .. }) {
            return Some(text.into());
        }
        let error = match substitute(text, |name| self.environment.value(name)) {
            Ok(None) => return Some(text.into()),
            Ok(Some(whole)) => {
                self.resolved.written.insert(path.to_vec(), text.to_owned());
                self.note_secret(&whole, shape);
                self.resolved.secrets.extend((!whole.is_empty()).then(|| whole.clone()));
                return Some(typed(&whole, shape));
            }
            Err(error) => error,
        };
        let kind = match error {
            ReferenceError::Malformed => FaultKind::MalformedReference,
            ReferenceError::Undefined(variable) => FaultKind::UndefinedVariable { variable },
        };
        self.faults.push(Fault::new(node.origin.clone(), display(path), kind));
        self.resolved.failed.insert(path.to_vec());
        None
    }

    /// Notes the secrets in a text: the text itself, the items of a list, or the passwords of a
    /// URL.
    fn note_secret(&mut self, text: &str, shape: &Shape<'_>) {
        if shape.is_secret() && !text.is_empty() {
            self.resolved.secrets.insert(text.to_owned());
        }
        if shape.has_type("array") && shape.child("0").is_some_and(|item| item.is_secret()) {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            self.resolved.secrets.extend(items.map(str::to_owned));
        }
        if shape.is_secret_url() {
            let passwords = secret_url::secrets(text).into_iter().map(str::to_owned);
            self.resolved.secrets.extend(passwords);
        }
    }
}

/// Reads a text as a value of the type in the schema. A text that is not of this type stays a text, which
/// validation then rejects.
///
/// The type is tried in this order: an option of an enumeration (without regard to case), a text, a
/// boolean, a number, a list. A key whose type is text keeps it as it is, so a password of digits
/// stays a text.
fn typed(text: &str, shape: &Shape<'_>) -> Value {
    let as_text = || Value::String(text.to_owned());
    let is_option =
        |option: &&Value| option.as_str().is_some_and(|it| it.eq_ignore_ascii_case(text));
    if let Some(option) = shape.options().find(is_option) {
        return option.clone();
    }
    if shape.has_type("string") || shape.is_any() {
        return as_text();
    }
    let trimmed = text.trim();
    if shape.has_type("boolean")
        && let Ok(value) = trimmed.to_ascii_lowercase().parse::<bool>()
    {
        return value.into();
    }
    if shape.has_type("integer") || shape.has_type("number") {
        return number(trimmed, shape).map_or_else(as_text, Value::Number);
    }
    if shape.has_type("array") {
        return list(text, shape);
    }
    as_text()
}

/// Reads a number, as an integer if it is one.
fn number(text: &str, shape: &Shape<'_>) -> Option<Number> {
    let integer = text.parse::<u64>().map(Number::from);
    let integer = integer.or_else(|_| text.parse::<i64>().map(Number::from)).ok();
    let float = || Number::from_f64(text.parse().ok()?);
    integer.or_else(|| shape.has_type("number").then(float).flatten())
}

/// The items of a list are separated by commas.
fn list(text: &str, shape: &Shape<'_>) -> Value {
    let items = text.split(',').map(str::trim).enumerate();
    let items = items.map(|(index, item)| match shape.child(&index.to_string()) {
        Some(child) => typed(item, &child),
        None => item.into(),
    });
    match text.trim().is_empty() {
        true => Value::Array(Vec::new()),
        false => items.collect(),
    }
}
