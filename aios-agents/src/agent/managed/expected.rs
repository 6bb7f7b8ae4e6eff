//! The versions that an agent may have when it is changed.

/// The version that an agent is expected to have when it is changed.
///
/// A number converts to the expectation of exactly this version.
///
/// # Examples
///
/// ```
/// use aios_agents::agent::ExpectedVersion;
///
/// assert!(ExpectedVersion::default().allows(3));
/// assert!(ExpectedVersion::from(3).allows(3));
/// assert!(!ExpectedVersion::OneOf(vec![1, 2]).allows(3));
/// assert!(!ExpectedVersion::NoneOf(vec![3]).allows(3));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedVersion {
    /// Any version.
    #[default]
    Any,
    /// One of these versions.
    OneOf(Vec<u64>),
    /// Any version but these.
    NoneOf(Vec<u64>),
}

impl ExpectedVersion {
    /// Whether the agent may have this version.
    #[must_use]
    pub fn allows(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
            Self::NoneOf(versions) => !versions.contains(&version),
        }
    }
}

impl From<u64> for ExpectedVersion {
    fn from(version: u64) -> Self {
        Self::OneOf(vec![version])
    }
}
