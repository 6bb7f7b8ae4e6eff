//! The values as people may see them, each with its origin.
//!
//! The walk follows the schema, the values and the defaults at the same time, so that defaults
//! which no layer sets are listed too. A secret is recognised by its schema and not by its name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Origin,
    check::{Shape, plain},
    fingerprint::{Fingerprints, fingerprint},
    resolve::Resolved,
    schema::Schema,
    secret::MASK,
    secret_url::SecretUrl,
    sources::{Node, display},
};

/// How deep defaults are looked for.
const MAX_DEPTH: usize = 16;

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key, such as `database.url`.
    pub key: String,
    /// The value. A secret is `***`, a URL has no password, and a text with references is as the file
    /// has it, because a variable may contain a secret.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// The entries of a load, sorted by key, with the fingerprints of what they hide.
#[derive(Clone, Default)]
pub(super) struct Entries {
    /// As people may see them.
    pub(super) shown: Vec<Entry>,
    /// Of the values that are not shown.
    pub(super) hidden: Fingerprints,
}

/// The entries of all values that are set or have a default, sorted by key.
pub(super) fn entries(schema: &Schema, tree: &Node, resolved: &Resolved) -> Entries {
    let (entries, hidden) = (Vec::new(), Fingerprints::new());
    let mut walk = Walk { tree, resolved, entries, hidden };
    walk.visit(&schema.shape(), Some(&resolved.value), None, &mut Vec::new());
    walk.entries.sort_by(|one, other| one.key.cmp(&other.key));
    Entries { shown: walk.entries, hidden: walk.hidden }
}

/// The walk through the schema.
struct Walk<'w> {
    /// Where each value comes from.
    tree: &'w Node,
    /// The values.
    resolved: &'w Resolved,
    /// The leaves so far.
    entries: Vec<Entry>,
    /// The fingerprints of those that are not shown.
    hidden: Fingerprints,
}

impl Walk<'_> {
    /// Visits a value and what is below it. `default` is the part of the default of a key above
    /// that belongs here.
    ///
    /// A value that is a mapping has no entry of its own, only its keys have. A default of a key
    /// above is passed down, because the schema of the key below may have no default.
    fn visit(
        &mut self,
        shape: &Shape<'_>,
        value: Option<&Value>,
        default: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        let fields = |value: Option<&Value>| {
            let keys = value.and_then(Value::as_object).map(|fields| fields.keys().cloned());
            keys.into_iter().flatten().collect::<Vec<_>>()
        };
        let mut keys: BTreeSet<_> = fields(value).into_iter().chain(fields(default)).collect();
        if value.is_none_or(Value::is_object) && path.len() < MAX_DEPTH {
            keys.extend(shape.names().map(str::to_owned));
        }
        if keys.is_empty() {
            self.leaf(shape, value, default, path);
        }
        for key in keys {
            let Some(child) = shape.child(&key) else { continue };
            let of = |whole: Option<&Value>| whole.and_then(|whole| whole.get(&key)).cloned();
            let default = of(default).or_else(|| shape.default_of(&key).cloned());
            let value = value.and_then(|whole| whole.get(&key));
            path.push(key);
            self.visit(&child, value, default.as_ref(), path);
            path.pop();
        }
    }

    /// Adds the entry of a value without keys, if it is set.
    fn leaf(
        &mut self,
        shape: &Shape<'_>,
        value: Option<&Value>,
        default: Option<&Value>,
        path: &[String],
    ) {
        let origin = match value {
            Some(_) => self.tree.origin_of(path).clone(),
            None => Origin::Default,
        };
        let Some(value) = value.or(default).filter(|value| !value.is_null()) else { return };
        let key = display(path);
        let open = shown(value, shape, Secrets::Shown);
        let shown = match self.resolved.written.get(path) {
            Some(written) => written.clone(),
            None => shown(value, shape, Secrets::Masked),
        };
        if shown != open {
            self.hidden.insert(key.clone(), fingerprint(&open));
        }
        self.entries.push(Entry { key, value: shown, origin });
    }
}

/// Whether a text has the secrets of its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    /// For people.
    Masked,
    /// For its fingerprint, and for nothing else.
    Shown,
}

/// A value as a text.
fn shown(value: &Value, shape: &Shape<'_>, secrets: Secrets) -> String {
    let is_masked = secrets == Secrets::Masked;
    match value {
        _ if is_masked && shape.is_secret() => MASK.to_owned(),
        Value::String(text) if is_masked && shape.is_secret_url() => {
            text.parse().map_or_else(|_| MASK.to_owned(), |url: SecretUrl| url.to_string())
        }
        Value::Array(items) => match shape.child("0") {
            Some(child) => {
                let items: Vec<_> = items.iter().map(|item| shown(item, &child, secrets)).collect();
                format!("[{}]", items.join(", "))
            }
            None => plain(value),
        },
        Value::Object(fields) if !fields.is_empty() => {
            let field = |(key, value): (&String, &Value)| {
                let child = shape.child(key);
                let shown =
                    child.map_or_else(|| plain(value), |child| shown(value, &child, secrets));
                format!("{key}: {shown}")
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        value => plain(value),
    }
}
