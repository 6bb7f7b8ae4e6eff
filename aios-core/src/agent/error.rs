use std::{error::Error, fmt};

use crate::{catalog::codes, failure::Failure};

/// Why a task failed, and whether a retry may help.
///
/// Created from any error by `?`, which is retryable; [`ResultExt::terminal`] or
/// [`TaskError::terminal`] makes it final. It does not implement [`Error`], so that it can be
/// created from every error.
///
/// # Examples
///
/// ```
/// use aios_core::{
///     agent::{ResultExt, TaskError},
///     failure::Failure,
/// };
///
/// fn read(path: &str) -> Result<u32, TaskError> {
///     let text = std::fs::read_to_string(path)?;
///     // Reading the same text again does not help.
///     let count: u32 = text.trim().parse().terminal()?;
///     match count {
///         0 => Err(TaskError::terminal(Failure::new("EMPTY", format!("{path} counts nothing")))),
///         _ => Ok(count),
///     }
/// }
///
/// assert!(read("/no/such/file").unwrap_err().retryable);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskError {
    /// The failure, as recorded in the journal.
    pub failure: Failure,
    /// Whether a retry may help.
    pub retryable: bool,
}

impl TaskError {
    /// Code of failures that came from an arbitrary error.
    pub const FAILED: &'static str = codes::TASK_FAILED;

    /// A transient failure.
    #[must_use]
    pub fn retryable(failure: Failure) -> Self {
        Self { failure, retryable: true }
    }

    /// A permanent failure.
    #[must_use]
    pub fn terminal(failure: Failure) -> Self {
        Self { failure, retryable: false }
    }

    /// Sets whether a retry may help.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Parameters that are invalid for the agent. `faults` name the JSON path of each violation;
    /// the empty path is the whole value.
    #[must_use]
    pub fn invalid_parameters(faults: &[(String, String)]) -> Self {
        let text = faults.iter().map(|(path, fault)| match path.as_str() {
            "" => fault.clone(),
            path => format!("{path}: {fault}"),
        });
        let text: Vec<_> = text.collect();
        let details: serde_json::Value = faults
            .iter()
            .map(|(path, fault)| serde_json::json!({"path": path, "fault": fault}))
            .collect();
        let message = format!("invalid parameters: {}", text.join("; "));
        Self::terminal(Failure::new(codes::INVALID_PARAMETERS, message).with_details(details))
    }

    /// Whether this is a failure with that code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.failure.code == code
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(formatter)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for TaskError {
    fn from(error: E) -> Self {
        let error = error.into();
        let failure = match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => Failure::from_error(Self::FAILED, &*error),
        };
        Self::retryable(failure)
    }
}

/// Makes errors final.
pub trait ResultExt<T> {
    /// Converts the error, if any, into a failure that is not retried.
    ///
    /// # Errors
    ///
    /// The same as before, made final.
    fn terminal(self) -> Result<T, TaskError>;
}

impl<T, E: Into<TaskError>> ResultExt<T> for Result<T, E> {
    fn terminal(self) -> Result<T, TaskError> {
        self.map_err(|error| error.into().with_retryable(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u8, TaskError> {
        Ok(text.parse::<u8>()?)
    }

    #[test]
    fn should_be_retryable_by_default_and_final_if_marked() {
        assert!(parse("x").unwrap_err().retryable);
        assert!(!parse("x").terminal().unwrap_err().retryable);
        assert!(!"x".parse::<u8>().terminal().unwrap_err().retryable);
    }

    #[test]
    fn should_name_each_violation() {
        let faults = [("", "is not an object"), ("/a", "is missing")]
            .map(|(path, fault)| (path.to_owned(), fault.to_owned()));
        let failure = TaskError::invalid_parameters(&faults).failure;
        assert_eq!(failure.message, "invalid parameters: is not an object; /a: is missing");
        assert_eq!(failure.details.to_value()[1]["path"], "/a");
    }

    #[test]
    fn should_keep_a_failure_as_it_is() {
        let failure = Failure::new("QUOTA", "too many").with_details(serde_json::json!(7));
        assert_eq!(TaskError::from(failure.clone()).failure, failure);
    }
}
