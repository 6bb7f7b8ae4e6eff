//! Errors that interrupt a projection. Failures of the projection's own code are not among them:
//! they are retried, or become dead letters.

use aios_core::{agent::TaskError, catalog::codes, failure::Failure, store::StoreError};

/// Why a projection was interrupted.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunnerError {
    /// Transient ones are retried with back-off; others end the projection.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// An event about the projection could not be encoded. Ends the projection.
    #[error("failed to encode an event")]
    Event(#[from] aios_core::event::EventError),
    /// The projection's own position is unknown or impossible.
    #[error("failed to load the projection's own position")]
    Position {
        /// The error of `position_from`, or why the position is impossible.
        #[source]
        failure: Failure,
        retryable: bool,
    },
    /// Not an error: the runtime is shutting down.
    #[error("the projection was stopped")]
    Stopped,
}

impl RunnerError {
    /// The error of a failed `position_from`.
    pub(super) fn position(error: TaskError) -> Self {
        let TaskError { failure, retryable, .. } = error;
        Self::Position { failure, retryable }
    }

    /// A projection that has applied more than the log contains.
    pub(super) fn after_end(position: u64, head: u64) -> Self {
        let message = format!(
            "it is {position}, and the log ends at {head}: the view belongs to another log, or the log \
             was restored from an older backup"
        );
        Self::Position { failure: Failure::new(codes::INVALID_OUTPUT, message), retryable: false }
    }

    /// Whether the error is transient.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Position { retryable, .. } => *retryable,
            Self::Event(_) | Self::Stopped => false,
        }
    }

    /// The code for logs and for `Runtime::failed`.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Store(error) => error.code(),
            Self::Position { failure, .. } => &failure.code,
            Self::Event(error) => error.code(),
            Self::Stopped => codes::PROJECTION_STOPPED,
        }
    }
}
