//! Permissions as texts, and what they include.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

/// A permission `resource:action`, for example `runs:cancel`. `runs:*` stands for every action on
/// runs, and `*` for everything.
///
/// Each side has a lower-case letter first, and then lower-case letters, digits and `_`. A
/// permission that no route requires is accepted and allows nothing, so a configuration can be
/// written for a newer version.
///
/// # Examples
///
/// ```
/// use aios_service::auth::Permission;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cancel: Permission = "runs:cancel".parse()?;
/// assert_eq!(cancel.as_str(), "runs:cancel");
/// for invalid in ["runs", "Runs:cancel", "*:read", "runs:"] {
///     assert!(invalid.parse::<Permission>().is_err());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(Arc<str>);

/// A text that is not a permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a permission is `*`, `resource:*` or `resource:action` with [a-z][a-z0-9_]* on both sides, not {text:?}"
)]
#[non_exhaustive]
pub struct InvalidPermission {
    /// The refused text.
    pub text: String,
}

impl Permission {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this permission includes `required`.
    fn includes(&self, required: &str) -> bool {
        let same_resource = || {
            let resource = self.0.strip_suffix(":*");
            resource.zip(required.split_once(':')).is_some_and(|(ours, (theirs, _))| ours == theirs)
        };
        &*self.0 == "*" || &*self.0 == required || same_resource()
    }
}

impl FromStr for Permission {
    type Err = InvalidPermission;

    fn from_str(text: &str) -> Result<Self, InvalidPermission> {
        let is_valid = text == "*"
            || text.split_once(':').is_some_and(|(resource, action)| {
                is_name(resource) && (action == "*" || is_name(action))
            });
        match is_valid {
            true => Ok(Self(text.into())),
            false => Err(InvalidPermission { text: text.chars().take(100).collect() }),
        }
    }
}

/// Whether a text is the name of a resource or an action.
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_')
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A set of permissions.
///
/// # Examples
///
/// ```
/// use aios_service::auth::Permissions;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let operator = Permissions::parse(["runs:*", "dead_letters:read"])?;
/// assert!(operator.allow("runs:cancel"));
/// assert!(!operator.allow("dead_letters:redrive"));
///
/// let error = Permissions::parse(["runs"]).unwrap_err();
/// assert_eq!(error.text, "runs");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(Arc<BTreeSet<Permission>>);

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::from_iter([Permission("*".into())])
    }

    /// Reads texts such as `runs:read`.
    ///
    /// # Errors
    ///
    /// [`InvalidPermission`] names the first text that is not a permission.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPermission> {
        texts.into_iter().map(str::parse).collect()
    }

    /// Whether an action that requires this permission is allowed.
    #[must_use]
    pub fn allow(&self, required: &str) -> bool {
        self.0.iter().any(|permission| permission.includes(required))
    }

    /// The permissions, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.0.iter()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(Arc::new(permissions.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_allow_what_is_granted_and_nothing_else() {
        let some = Permissions::parse(["runs:read", "tasks:*"]).unwrap();
        for (required, allowed) in [
            ("runs:read", true),
            ("runs:cancel", false),
            ("runs:reading", false),
            ("tasks:create", true),
            ("tasks_more:create", false),
            ("agents:read", false),
        ] {
            assert_eq!(some.allow(required), allowed, "{required}");
        }
        assert!(Permissions::all().allow("runs:cancel"));
        assert!(!Permissions::default().allow("runs:read"));
    }

    #[test]
    fn should_refuse_what_is_not_a_permission() {
        for text in ["", "runs", "runs:", ":read", "*:read", "Runs:read", "runs:re ad", "runs:a:b"]
        {
            assert!(text.parse::<Permission>().is_err(), "{text:?}");
        }
    }
}
