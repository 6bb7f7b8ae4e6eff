use aios_core::{agent::TaskError, failure::Failure, store::StoreError};

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
