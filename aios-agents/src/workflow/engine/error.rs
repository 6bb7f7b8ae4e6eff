//! Errors of the parts of an engine that use both the store and the broker.

use aios_core::{broker::BrokerError, store::StoreError};

/// Errors that stop or delay an engine.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The cause is the store's.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The cause is the broker's.
    #[error("the broker failed")]
    Broker(#[from] BrokerError),
}

impl EngineError {
    /// Whether a retry may succeed, as the store or broker says.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Broker(error) => error.is_retryable(),
        }
    }

    /// The stable code of the cause.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
        }
    }
}
