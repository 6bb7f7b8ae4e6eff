//! Faults of one layer, which the other layers do not change: unknown keys, and secrets in files.
//!
//! They are looked for before the layers are merged. A later layer that overrides a secret in a
//! file, or that does not have a misspelt key, must not hide the fault.

mod describe;
mod fault;
pub(super) mod nearest;
mod shape;
mod validate;

use serde_json::Value;

use super::{
    Origin,
    secret_url::has_password,
    sources::{Content, Node, display, literal, variable},
};

pub use self::fault::{Fault, FaultKind, SettingsError};
pub(crate) use self::{
    describe::{describe, plain},
    nearest::{distance, nearest},
    shape::Shape,
    validate::validate,
};

/// Checks a node and what is below it. `path` is the path of the node, and is restored.
///
/// A sequence whose shape takes no items is not descended into: the validation reports its type.
pub(super) fn check(
    node: &Node,
    shape: &Shape<'_>,
    path: &mut Vec<String>,
    faults: &mut Vec<Fault>,
) {
    match &node.content {
        Content::Mapping(fields) if shape.is_mapping() || shape.is_any() => {
            for (key, field) in fields {
                path.push(key.clone());
                match shape.child(key) {
                    Some(child) => check(field, &child, path, faults),
                    None => faults.push(unknown(field, shape, path)),
                }
                path.pop();
            }
        }
        Content::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                if let Some(child) = shape.child(&index.to_string()) {
                    check(item, &child, path, faults);
                }
                path.pop();
            }
        }
        Content::Scalar(value) if is_written_secret(node, value, shape) => {
            let kind = FaultKind::SecretInFile { variable: variable(path) };
            faults.push(Fault::new(node.origin.clone(), display(path), kind));
        }
        _ => {}
    }
}

/// The fault of a key that no section has, with the one that was probably meant.
pub(super) fn unknown(node: &Node, shape: &Shape<'_>, path: &[String]) -> Fault {
    let (key, parents) = path.split_last().map_or(("", path), |(key, rest)| (key.as_str(), rest));
    let near = nearest(key, shape.names()).map(|near| {
        let whole: Vec<_> = parents.iter().cloned().chain([near.to_owned()]).collect();
        display(&whole)
    });
    Fault::new(node.origin.clone(), display(path), FaultKind::Unknown { nearest: near })
}

/// Whether a file itself contains a secret. References to variables are not part of it.
fn is_written_secret(node: &Node, value: &Value, shape: &Shape<'_>) -> bool {
    if !matches!(node.origin, Origin::File { .. }) {
        return false;
    }
    match value {
        Value::Null => false,
        Value::String(text) if shape.is_secret() => !literal(text).is_empty(),
        Value::String(text) => shape.is_secret_url() && has_password(&literal(text)),
        _ => shape.is_secret(),
    }
}
