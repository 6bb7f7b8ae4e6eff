//! The errors of a runtime and of the results of its runs.
//!
//! Errors of the parts (agents, journals, the engine) are converted here, so callers see one type.
//! The conversion keeps what a caller can act on and its code.

use aios_core::{
    agent::InvalidName,
    broker::{BrokerError, InvalidAddress},
    catalog::codes,
    event::EventError,
    failure::Failure,
    output::OutputError,
    store::{RunStatus, StoreError},
};

use crate::{
    agent::AgentError,
    suggest::hint,
    workflow::{
        InvalidRunId, InvalidSignalName, InvalidTarget, engine::EngineError, journal::JournalError,
    },
};

/// Errors of a runtime.
///
/// # Examples
///
/// A variant is a case that a caller can act on:
///
/// ```
/// use aios_agents::{RuntimeError, prelude::*};
///
/// /// Starts an order, unless another one has the number.
/// async fn start(runtime: &Runtime, number: u64, item: &str) -> Result<bool, RuntimeError> {
///     match runtime.start("order", item).id(format!("order-{number}")).await {
///         Ok(_) => Ok(true),
///         Err(RuntimeError::RunExists { .. }) => Ok(false),
///         Err(error) => Err(error),
///     }
/// }
/// # let _ = start;
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// An option or argument is missing or invalid, or options contradict each other. The reason names
    /// it.
    #[error("invalid runtime configuration: {reason}")]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// The name of a workflow is not `[a-z][a-z0-9_]*` with at most 100 bytes.
    #[error(transparent)]
    InvalidWorkflow(#[from] InvalidName),
    /// The agent type of a task can't be a segment of an event type.
    #[error(transparent)]
    InvalidAgentType(InvalidName),
    /// The id of the agent of a task can't be part of a mailbox's name.
    #[error("the id of an agent is invalid; it can't be `.` or `..` either")]
    InvalidAgentId(#[source] InvalidAddress),
    /// The id of a run is invalid; see [`StartRun::id`](super::StartRun::id).
    #[error(transparent)]
    InvalidRunId(#[from] InvalidRunId),
    /// The name of a signal is invalid; see [`RunHandle::signal`](super::RunHandle::signal).
    #[error(transparent)]
    InvalidSignalName(#[from] InvalidSignalName),
    /// No workflow with this name is registered in this runtime, so nothing was started. Correct the
    /// name, or register the workflow, even in a client: its version is taken from there.
    #[error("no workflow {workflow} is registered{}", hint("registered", workflow, registered))]
    UnknownWorkflow {
        /// The name.
        workflow: String,
        /// The registered names, as far as they are known.
        registered: Vec<String>,
    },
    /// There is no run with this id in the store: it was never started, or retention has removed it.
    #[error("there is no run {run_id}")]
    UnknownRun {
        /// The id.
        run_id: String,
    },
    /// A run with this id exists, with another workflow or another input. Choose another id, or use
    /// [`Runtime::handle`](super::Runtime::handle) to get the existing run.
    #[error("run {run_id} already exists, with another workflow or another input")]
    RunExists {
        /// The id.
        run_id: String,
    },
    /// The run has ended, so it accepts no more signals and commands.
    #[error("run {run_id} has ended: it is {status}")]
    RunEnded {
        /// The id.
        run_id: String,
        /// How it ended.
        status: RunStatus,
    },
    /// The run is being cancelled, so it can't be paused.
    #[error("run {run_id} can't be paused, because it is being cancelled")]
    RunCancelling {
        /// The id.
        run_id: String,
    },
    /// The journal has no such operation to fork from. [`RunHandle::journal`](super::RunHandle::journal)
    /// shows those that it has.
    #[error("run {run_id} has no operation {operation}")]
    UnknownOperation {
        /// The id.
        run_id: String,
        /// The operation.
        operation: u64,
    },
    /// Only a failed run can be retried.
    #[error("run {run_id} has not failed: it is {status}")]
    RunNotFailed {
        /// The id.
        run_id: String,
        /// The status.
        status: RunStatus,
    },
    /// The run failed by its own code: none of its operations has failed.
    /// [`fork`](super::RunHandle::fork) it from the operation that has to be done again.
    #[error("no operation of run {run_id} has failed; fork it from the operation to be done again")]
    NoFailedOperation {
        /// The id.
        run_id: String,
    },
    /// The engine of this runtime stopped after an error, so this process no longer advances runs.
    /// Recorded progress is kept; another engine, or the next start, resumes the runs.
    #[error("the engine has stopped: {failure}")]
    EngineStopped {
        /// Why.
        failure: Failure,
    },
    /// A projection of this runtime stopped after a permanent error. Its position is kept, and the next
    /// start continues from it.
    #[error("a projection has stopped: {failure}")]
    ProjectionStopped {
        /// Which, and why.
        failure: Failure,
    },
    /// The event at this position is not a dead letter of the projection.
    #[error("projection {projection} has no dead letter at position {position}")]
    UnknownDeadLetter {
        /// The projection.
        projection: String,
        /// The position.
        position: u64,
    },
    /// The agent host failed.
    #[error("failed to run agents")]
    Agents(#[from] AgentError),
    /// The store was closed, before the call or during it. A call that was waiting fails too, for example
    /// [`RunHandle::result`](super::RunHandle::result). The runs continue once a runtime is started on the
    /// store again.
    #[error("the store of the runtime was closed")]
    Closed,
    /// The store failed; the [`StoreError`] says what to do.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The broker failed; the [`BrokerError`] says what to do.
    #[error("the broker failed")]
    Broker(#[from] BrokerError),
    /// An output stream can't be read.
    #[error("failed to read an output stream")]
    Output(#[from] OutputError),
    /// A value can't be encoded as an event.
    #[error("failed to encode an event")]
    Event(#[from] EventError),
}

impl RuntimeError {
    /// Returns whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Broker(error) => error.is_retryable(),
            Self::Agents(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Returns a stable code for this kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfiguration { .. } => codes::INVALID_RUNTIME_CONFIGURATION,
            Self::InvalidWorkflow(_) => codes::INVALID_WORKFLOW_NAME,
            Self::InvalidAgentType(_) => codes::INVALID_AGENT_TYPE,
            Self::InvalidAgentId(_) => codes::INVALID_AGENT_ID,
            Self::InvalidRunId(_) => InvalidRunId::CODE,
            Self::InvalidSignalName(_) => InvalidSignalName::CODE,
            Self::UnknownWorkflow { .. } => codes::WORKFLOW_NOT_FOUND,
            Self::UnknownRun { .. } => codes::RUN_NOT_FOUND,
            Self::RunExists { .. } => codes::RUN_EXISTS,
            Self::RunEnded { .. } => codes::RUN_ENDED,
            Self::RunCancelling { .. } => codes::RUN_CANCELLING,
            Self::UnknownOperation { .. } => codes::OPERATION_NOT_FOUND,
            Self::RunNotFailed { .. } => codes::RUN_NOT_FAILED,
            Self::NoFailedOperation { .. } => codes::NO_FAILED_OPERATION,
            Self::EngineStopped { .. } => codes::ENGINE_STOPPED,
            Self::ProjectionStopped { .. } => codes::PROJECTION_STOPPED,
            Self::UnknownDeadLetter { .. } => codes::DEAD_LETTER_NOT_FOUND,
            Self::Closed => codes::RUNTIME_CLOSED,
            Self::Agents(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
            Self::Output(error) => error.code(),
            Self::Event(error) => error.code(),
        }
    }
}

impl From<StoreError> for RuntimeError {
    fn from(error: StoreError) -> Self {
        match error {
            // The same case for callers, whether their call or the engine noticed it.
            StoreError::Closed => Self::Closed,
            error => Self::Store(error),
        }
    }
}

impl From<InvalidTarget> for RuntimeError {
    fn from(error: InvalidTarget) -> Self {
        match error {
            InvalidTarget::Type(invalid) => Self::InvalidAgentType(invalid),
            InvalidTarget::Agent(invalid) => Self::InvalidAgentId(invalid),
        }
    }
}

impl From<EngineError> for RuntimeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => error.into(),
            EngineError::Broker(error) => Self::Broker(error),
        }
    }
}

impl From<JournalError> for RuntimeError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::UnknownWorkflow { workflow, registered } => {
                Self::UnknownWorkflow { workflow, registered }
            }
            JournalError::UnknownRun { run_id } => Self::UnknownRun { run_id },
            JournalError::Ended { run_id, status } => Self::RunEnded { run_id, status },
            JournalError::Exists { run_id } => Self::RunExists { run_id },
            JournalError::InvalidId(error) => Self::InvalidRunId(error),
            JournalError::Store(error) => error.into(),
            JournalError::Event(error) => Self::Event(error),
        }
    }
}

/// Why a run has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It failed.
    #[error("run {run_id} failed: {failure}")]
    Failed {
        /// The run.
        run_id: String,
        /// The failure.
        failure: Failure,
    },
    /// It was cancelled.
    #[error("run {run_id} was cancelled: {failure}")]
    Cancelled {
        /// The run.
        run_id: String,
        /// Why.
        failure: Failure,
    },
    /// The run cannot progress until something changes, such as its code or an option of the store. The
    /// failure says what.
    #[error("run {run_id} is blocked: {failure}")]
    Blocked {
        /// The run.
        run_id: String,
        /// Why it is blocked.
        failure: Failure,
    },
    /// The result is of another type.
    #[error("the result of run {run_id} is of another type")]
    InvalidResult {
        /// The run.
        run_id: String,
        /// The cause.
        source: EventError,
    },
    /// The runtime failed to get the result.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl RunError {
    /// Returns the code of the failure if the run failed or was cancelled, and otherwise a stable code for
    /// this kind of error.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { failure, .. } | Self::Cancelled { failure, .. } => &failure.code,
            Self::Blocked { .. } => codes::RUN_BLOCKED,
            Self::InvalidResult { .. } => codes::INVALID_RESULT,
            Self::Runtime(error) => error.code(),
        }
    }

    /// The failure of the run, if it failed, was cancelled or is blocked.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { failure, .. }
            | Self::Cancelled { failure, .. }
            | Self::Blocked { failure, .. } => Some(failure),
            Self::InvalidResult { .. } | Self::Runtime(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_keep_the_codes_of_journal_errors() {
        let run_id = || "r".to_owned();
        for error in [
            JournalError::UnknownWorkflow { workflow: run_id(), registered: Vec::new() },
            JournalError::UnknownRun { run_id: run_id() },
            JournalError::Ended { run_id: run_id(), status: RunStatus::Failed },
            JournalError::Exists { run_id: run_id() },
            JournalError::Store(StoreError::Full { database: run_id() }),
            JournalError::Event(EventError::InvalidType { text: run_id() }),
        ] {
            assert_eq!(RuntimeError::from(error.clone()).code(), error.code());
        }
    }

    #[test]
    fn should_say_that_a_runtime_is_closed_if_its_store_is() {
        for error in [
            RuntimeError::from(StoreError::Closed),
            JournalError::Store(StoreError::Closed).into(),
            EngineError::Store(StoreError::Closed).into(),
        ] {
            assert_eq!(error.code(), "RUNTIME_CLOSED", "{error:?}");
        }
    }
}
