//! The places that values and faults come from. Their order is that of the report: missing values,
//! files, variables, code.

use std::{fmt, path::Path, sync::Arc};

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Position {
    /// Number of the line, from 1.
    pub line: u64,
    /// Number of the character in the line, from 1.
    pub column: u64,
}

/// The source of a value, or of a fault.
///
/// `Display` writes `config/base.yaml:3:5`, the name of the variable, `code` or `default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Origin {
    /// The default of the type, or of [`default_value`](crate::config::SettingsBuilder::default_value).
    Default,
    /// A YAML file.
    #[non_exhaustive]
    File {
        /// Path of the file, as it was found.
        path: Arc<Path>,
        /// Place of the key in the file; `None` if it is about the whole file.
        position: Option<Position>,
    },
    /// An environment variable.
    #[non_exhaustive]
    Environment {
        /// Name of the variable.
        variable: Arc<str>,
    },
    /// A file whose path is in an environment variable that ends with `_FILE`.
    #[non_exhaustive]
    SecretFile {
        /// Name of the variable.
        variable: Arc<str>,
        /// Path of the file.
        path: Arc<Path>,
    },
    /// The program, with [`value`](crate::config::SettingsBuilder::value).
    Code,
}

impl Origin {
    /// A whole file.
    pub(crate) fn file(path: &Path) -> Self {
        Self::File { path: path.into(), position: None }
    }

    /// A variable.
    pub(crate) fn variable(name: &str) -> Self {
        Self::Environment { variable: name.into() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, position: None } => write!(formatter, "{}", path.display()),
            Self::File { path, position: Some(position) } => {
                write!(formatter, "{}:{position}", path.display())
            }
            Self::Environment { variable } => formatter.write_str(variable),
            Self::SecretFile { variable, path } => {
                write!(formatter, "{variable} ({})", path.display())
            }
            Self::Code => formatter.write_str("code"),
        }
    }
}
