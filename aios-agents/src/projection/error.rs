use aios_core::{agent::TaskError, failure::Failure, store::StoreError};

use crate::agent::codes::INVALID_OUTPUT;

/// Why a projection was interrupted.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunnerError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("failed to encode an event")]
    Event(#[from] aios_core::event::EventError),
    #[error("failed to load the projection's own position")]
    Position {
        #[source]
        failure: Failure,
        retryable: bool,
    },
    #[error("the projection was stopped")]
    Stopped,
}

impl RunnerError {
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
        Self::Position { failure: Failure::new(INVALID_OUTPUT, message), retryable: false }
    }

    /// Whether the error is transient.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Position { retryable, .. } => *retryable,
            Self::Event(_) | Self::Stopped => false,
        }
    }

    pub(super) fn code(&self) -> &str {
        match self {
            Self::Store(error) => error.code(),
            Self::Position { failure, .. } => &failure.code,
            Self::Event(error) => error.code(),
            Self::Stopped => "PROJECTION_STOPPED",
        }
    }
}
