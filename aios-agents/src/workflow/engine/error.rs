use aios_core::{broker::BrokerError, store::StoreError};

/// Errors that stop or delay an engine.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the broker failed")]
    Broker(#[from] BrokerError),
}

impl EngineError {
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Broker(error) => error.is_retryable(),
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
        }
    }
}
