//! Changes between two loads, for the log of a reload.
//!
//! Values are compared as people may see them. Two secrets look the same, so what is hidden is compared by
//! its fingerprint.

use std::collections::BTreeMap;

use super::{Origin, entries::Entries};

/// A value that differs between two loads of the same configuration.
///
/// # Examples
///
/// ```
/// use aios_service::config::Settings;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = Settings::builder().environment::<&str, &str>([]);
/// let before = builder.clone().value("log.level", "info").load()?;
/// let after = builder.value("log.level", "debug").load()?;
///
/// let changes = after.changes_since(&before);
/// assert_eq!(changes.len(), 1);
/// assert_eq!(changes[0].key, "log.level");
/// assert_eq!(changes[0].after.as_deref(), Some("debug"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key, such as `log.level`.
    pub key: String,
    /// The value before, as people may see it. `None` if it was not set. A secret that has changed looks the
    /// same before and after.
    pub before: Option<String>,
    /// The value now. `None` if it is not set any more.
    pub after: Option<String>,
    /// Where the value comes from now.
    pub origin: Option<Origin>,
}

/// The changes between two loads, sorted by key.
pub(super) fn changes(before: &Entries, after: &Entries) -> Vec<Change> {
    let mut changes = BTreeMap::new();
    for entry in &before.shown {
        let before = Some(entry.value.clone());
        let change = Change { key: entry.key.clone(), before, after: None, origin: None };
        changes.insert(&entry.key, change);
    }
    for entry in &after.shown {
        let key = entry.key.clone();
        let change = Change { key, before: None, after: None, origin: None };
        let change = changes.entry(&entry.key).or_insert(change);
        change.after = Some(entry.value.clone());
        change.origin = Some(entry.origin.clone());
    }
    let is_hidden = |key: &str| before.hidden.get(key) != after.hidden.get(key);
    let changes = changes.into_values();
    changes.filter(|change| change.before != change.after || is_hidden(&change.key)).collect()
}
