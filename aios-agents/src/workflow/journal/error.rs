//! Errors of reading and writing journals, for callers that own no run: clients of the runtime and
//! other parts of the engine.

use aios_core::{
    catalog::codes,
    event::EventError,
    failure::Failure,
    store::{RunStatus, StoreError},
};

use crate::{
    suggest::hint,
    workflow::{InvalidRunId, engine::is_unreadable},
};

/// Errors of reading or writing a journal.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// No code for the workflow is registered in this process; `registered` has the names that are.
    #[error("no workflow {workflow} is registered{}", hint("registered", workflow, registered))]
    UnknownWorkflow { workflow: String, registered: Vec<String> },
    /// The read models have no such run.
    #[error("there is no run {run_id}")]
    UnknownRun { run_id: String },
    /// The run accepts nothing more.
    #[error("run {run_id} has ended: it is {status}")]
    Ended { run_id: String, status: RunStatus },
    /// A run with this id was started before.
    #[error("run {run_id} exists already")]
    Exists { run_id: String },
    /// The id can't be that of a run.
    #[error(transparent)]
    InvalidId(#[from] InvalidRunId),
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event can't be encoded or decoded.
    #[error(transparent)]
    Event(#[from] EventError),
}

impl JournalError {
    /// Whether a retry may succeed.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether the journal can't be read, so that its run is blocked.
    pub(crate) fn is_unreadable(&self) -> bool {
        match self {
            Self::Event(_) => true,
            Self::Store(error) => is_unreadable(error),
            _ => false,
        }
    }

    /// A stable code for this kind of error, which is that of the error of the runtime.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::UnknownWorkflow { .. } => codes::WORKFLOW_NOT_FOUND,
            Self::UnknownRun { .. } => codes::RUN_NOT_FOUND,
            Self::Ended { .. } => codes::RUN_ENDED,
            Self::Exists { .. } => codes::RUN_EXISTS,
            Self::InvalidId(_) => InvalidRunId::CODE,
            Self::Store(error) => error.code(),
            Self::Event(error) => error.code(),
        }
    }

    /// The failure reported by a component that stops because of this error.
    pub(crate) fn failure(&self) -> Failure {
        Failure::from_error(self.code(), self)
    }
}
