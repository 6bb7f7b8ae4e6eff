//! Faults of a configuration, and the report of all of them.
//!
//! A fault is a value, so that programs can act on its kind; its text is for people and names the
//! remedy.

use std::fmt;

use aios_core::catalog::codes;

use crate::config::Origin;

/// One fault of a configuration. `Display` writes one line that names the place, the key and the
/// remedy, and never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Where the fault is. [`Origin::Default`] if a value is missing.
    pub origin: Origin,
    /// The key, such as `database.url`. Empty if the fault is not about one key.
    pub key: String,
    /// The kind of the fault.
    pub kind: FaultKind,
}

/// The kind of a [`Fault`].
///
/// | kind | found in | remedy in its text |
/// |---|---|---|
/// | `Unknown`, `Ambiguous`, `SecretInFile` | each layer, before merging | the nearest name, the keys, the variable |
/// | `UndefinedVariable`, `MalformedReference` | texts of files | the form of a reference |
/// | `Missing`, `Unexpected` | the merged values, by the schema | what is expected, and the variable |
/// | `Refused` | the merged values, by their types | the message of the type |
/// | `Unreadable` | files, variables and sections as a whole | the reason |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// No section has this key, or no key has this environment variable.
    #[non_exhaustive]
    Unknown {
        /// The nearest known name, if one is near.
        nearest: Option<String>,
    },
    /// An environment variable could be more than one key.
    #[non_exhaustive]
    Ambiguous {
        /// The keys.
        keys: Vec<String>,
    },
    /// A required value is missing.
    #[non_exhaustive]
    Missing {
        /// Description of the values that are expected.
        expected: String,
        /// The environment variable that sets it.
        variable: String,
    },
    /// A value is not what is expected.
    #[non_exhaustive]
    Unexpected {
        /// Description of the values that are expected.
        expected: String,
        /// The value, shortened; for a secret, not the value.
        found: String,
    },
    /// A secret is written into a file.
    #[non_exhaustive]
    SecretInFile {
        /// The environment variable that sets it.
        variable: String,
    },
    /// A text refers to an environment variable that is not set.
    #[non_exhaustive]
    UndefinedVariable {
        /// Name of the variable.
        variable: String,
    },
    /// A `${` does not begin a reference to a variable.
    MalformedReference,
    /// A file, a variable or a section cannot be read.
    #[non_exhaustive]
    Unreadable {
        /// The reason.
        reason: String,
    },
    /// A value is refused by its type.
    #[non_exhaustive]
    Refused {
        /// The reason, as the type gives it, without secrets.
        reason: String,
    },
}

impl Fault {
    /// A fault of a key.
    pub(crate) fn new(origin: Origin, key: impl Into<String>, kind: FaultKind) -> Self {
        Self { origin, key: key.into(), kind }
    }

    /// A fault of a whole file or variable.
    pub(crate) fn unreadable(origin: Origin, reason: impl Into<String>) -> Self {
        Self::new(origin, "", FaultKind::Unreadable { reason: reason.into() })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(formatter, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        write!(formatter, "{}", self.kind)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { nearest: None } => formatter.write_str("unknown name"),
            Self::Unknown { nearest: Some(name) } => {
                write!(formatter, "unknown name; did you mean {name}?")
            }
            Self::Ambiguous { keys } => {
                write!(formatter, "may be {}; rename a section", keys.join(" or "))
            }
            Self::Missing { expected, variable } => {
                write!(formatter, "missing, expected {expected}; set it in a file or as {variable}")
            }
            Self::Unexpected { expected, found } => {
                write!(formatter, "expected {expected}, found {found}")
            }
            Self::SecretInFile { variable } => write!(
                formatter,
                "a secret must not be in a file; set {variable} or {variable}_FILE, or write ${{NAME}}"
            ),
            Self::UndefinedVariable { variable } => write!(
                formatter,
                "the environment variable {variable} is not set; set it, or write \
                 ${{{variable}:-default}}"
            ),
            Self::MalformedReference => formatter.write_str(
                "malformed reference; write ${NAME} or ${NAME:-default}, and $${ for the text ${",
            ),
            Self::Unreadable { reason } | Self::Refused { reason } => formatter.write_str(reason),
        }
    }
}

/// The report of all faults of a configuration, sorted by their origin: first what is missing, then
/// the faults of files, of variables and of code.
///
/// `Debug` writes the report as well, so that a program whose `main` returns this error prints it.
///
/// # Examples
///
/// One report for two mistakes:
///
/// ```
/// use aios_service::config::{FaultKind, Settings};
///
/// let error = Settings::builder()
///     .environment([("AIOS_DATABASE_URI", "sqlite://shop.db"), ("AIOS_AGENT_TIMEOUT", "soon")])
///     .load()
///     .unwrap_err();
/// assert_eq!(error.faults().len(), 2);
/// assert!(error.faults().iter().any(|fault| matches!(fault.kind, FaultKind::Unknown { .. })));
/// println!("{error}"); // names the variables, what is expected, and `AIOS_DATABASE_URL`
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// Sorted by origin and key.
    faults: Vec<Fault>,
}

impl SettingsError {
    /// The report of at least one fault.
    pub(crate) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|one, other| (&one.origin, &one.key).cmp(&(&other.origin, &other.key)));
        Self { faults }
    }

    /// A key that a part of the program needs is not set.
    pub(crate) fn missing(key: &str, expected: &str, variable: &str) -> Self {
        let kind =
            FaultKind::Missing { expected: expected.to_owned(), variable: variable.to_owned() };
        Self::new(vec![Fault::new(Origin::Default, key, kind)])
    }

    /// The type of a part of the program refuses the value of a key.
    pub(crate) fn refused(key: &str, origin: Option<&Origin>, reason: String) -> Self {
        let origin = origin.cloned().unwrap_or(Origin::Default);
        Self::new(vec![Fault::new(origin, key, FaultKind::Refused { reason })])
    }

    /// The configuration could not be read.
    pub(crate) fn unreadable(reason: String) -> Self {
        Self::new(vec![Fault::unreadable(Origin::Default, reason)])
    }

    /// The faults; at least one.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Stable name of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        codes::INVALID_SETTINGS
    }

    /// Whether the same call may succeed later: never, without a change of the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => formatter.write_str("the configuration has 1 fault:")?,
            count => write!(formatter, "the configuration has {count} faults:")?,
        }
        self.faults.iter().try_for_each(|fault| write!(formatter, "\n- {fault}"))
    }
}

impl fmt::Debug for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for SettingsError {}
