use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A text that can't be a segment of an event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name of an agent type or workflow is [a-z][a-z0-9_]* with at most 100 bytes, not {text:?}"
)]
#[non_exhaustive]
pub struct InvalidName {
    /// The refused text, truncated after 255 bytes.
    pub text: String,
}

/// Name of an agent type or a workflow: `[a-z][a-z0-9_]*`, at most 100 bytes, because it becomes a
/// segment of event types.
///
/// # Examples
///
/// ```
/// use aios_core::agent::Name;
///
/// assert_eq!(Name::new("tea_maker").unwrap().as_str(), "tea_maker");
/// assert!(Name::new("Tea Maker").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name, in bytes.
    const MAX_BYTES: usize = 100;

    /// Checks the name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is anything else.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
        let name = name.as_ref();
        if name.len() > Self::MAX_BYTES || !crate::event::is_segment(name) {
            return Err(InvalidName { text: crate::event::excerpt(name) });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
