//! Rust errors as Python exceptions, and Python exceptions as failures.
//!
//! An error of Rust becomes an [`ErrorInfo`] on the native thread where it occurs: plain data with
//! the code, the message with all causes, the details, and whether trying again may help. It
//! becomes an exception later, on a thread that has the interpreter; `aios._errors.build` chooses
//! the class from `kind` and `code`.
//!
//! In the other direction, `aios._errors.describe` takes an exception apart. An `AiosError` keeps
//! its code, and so a failure that passes through several runs and processes keeps the code of its
//! origin.
//!
//! | `kind` | origin |
//! |---|---|
//! | `runtime` | the runtime or client, and its configuration |
//! | `store`, `broker` | the adapter |
//! | `event` | events, values that are not JSON, output streams |
//! | `agent`, `task` | agents, and the failure of a task or an operation |
//! | `workflow_code`, `replay` | code that a workflow must not contain, or that does not match its journal |
//! | `run_failed`, `run_cancelled`, `run_blocked` | the end of a run that was waited for |
//! | `service` | the HTTP API of a service |

use aios_agents::{RunError, RuntimeError, agent::AgentError, workflow::WorkflowError};
use aios_core::{
    agent::{InvalidName, TaskError},
    broker::{BrokerError, InvalidAddress},
    catalog::codes,
    event::{EventError, Payload},
    failure::{Details, Failure},
    output::OutputError,
    store::StoreError,
};
use pyo3::{
    exceptions::{PyRuntimeError, PyStopIteration},
    prelude::*,
    sync::PyOnceLock,
};

use super::json;

/// An error as `aios._errors.build` takes it.
#[derive(Clone, Debug)]
pub(crate) struct ErrorInfo {
    /// The origin of the error; see `aios._errors.build`.
    kind: &'static str,
    /// The code, which programs compare.
    code: Box<str>,
    /// The description for people.
    message: String,
    /// Further data; `null` if there is none.
    details: Details,
    /// Whether the same call may succeed later.
    retryable: bool,
    /// The failure of the run that was waited for.
    cause: Option<Box<Failure>>,
    /// Name of the workflow operation that failed.
    operation: Option<Box<str>>,
}

impl ErrorInfo {
    /// An error that is not retryable, without details.
    pub(crate) fn new(kind: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            details: Details::default(),
            retryable: false,
            cause: None,
            operation: None,
        }
    }

    /// The error of calls after the client was closed.
    pub(crate) fn closed() -> Self {
        Self::new("runtime", codes::RUNTIME_CLOSED, "the runtime or client was closed")
    }

    /// Adds details.
    #[cfg(feature = "service")]
    pub(crate) fn with_details(self, details: serde_json::Value) -> Self {
        Self { details: details.into(), ..self }
    }

    /// Names the workflow operation that failed.
    pub(crate) fn in_operation(self, operation: String) -> Self {
        Self { operation: Some(operation.into()), ..self }
    }

    /// A Rust error; its message contains all sources.
    fn from_error(
        kind: &'static str,
        code: &str,
        retryable: bool,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let message = Failure::from_error(code, error).message;
        Self { retryable, ..Self::new(kind, code, message) }
    }

    fn from_failure(kind: &'static str, failure: Failure, retryable: bool) -> Self {
        let Failure { code, message, details } = failure;
        Self { kind, code: code.into(), message, details, retryable, cause: None, operation: None }
    }

    /// A journal that the current code does not match.
    pub(crate) fn from_replay(failure: Failure) -> Self {
        Self::from_failure("replay", failure, false)
    }

    /// The failure of a task that was run for its answer.
    #[cfg(feature = "service")]
    pub(crate) fn of_task(failure: Failure) -> Self {
        Self::from_failure("task", failure, false)
    }

    /// The end of a run; its failure is the cause.
    fn from_run(kind: &'static str, run_id: &str, ended: &str, failure: Failure) -> Self {
        let code = if kind == "run_blocked" { codes::RUN_BLOCKED } else { &failure.code };
        let message = match failure.message.as_str() {
            "" => format!("run {run_id} {ended}"),
            reason => format!("run {run_id} {ended}: {reason}"),
        };
        let described = Self::new(kind, code, message);
        Self { details: failure.details.clone(), cause: Some(Box::new(failure)), ..described }
    }

    /// Human-readable description.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The exception. If it can't be built, the exception of that.
    pub(crate) fn into_error(self, py: Python<'_>) -> PyErr {
        self.build(py).unwrap_or_else(|error| error)
    }

    /// Calls `aios._errors.build`.
    fn build(self, py: Python<'_>) -> PyResult<PyErr> {
        static BUILD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let build = BUILD.get_or_try_init(py, || {
            PyResult::Ok(py.import("aios._errors")?.getattr("build")?.unbind())
        })?;
        let text = self.details.as_str();
        let details = json::read(py, text)?;
        let cause = match self.cause {
            Some(failure) => {
                let text = failure.details.as_str();
                let details = json::read(py, text)?;
                Some((failure.code, failure.message, details, text.to_owned()))
            }
            None => None,
        };
        let code = &*self.code;
        let operation = self.operation.as_deref();
        let arguments =
            (self.kind, code, self.message, details, self.retryable, cause, operation, text);
        Ok(PyErr::from_value(build.bind(py).call1(arguments)?))
    }
}

/// A Python exception as a failure. The code of an `AiosError` is kept; any other exception gets
/// `default_code`, and the failure records its type, message and traceback.
pub(crate) fn task_error(py: Python<'_>, error: &PyErr, default_code: &str) -> TaskError {
    match describe(py, error, default_code) {
        Ok(described) => described,
        Err(again) => TaskError::retryable(Failure::new(
            default_code,
            format!("{error} (failed to describe the exception: {again})"),
        )),
    }
}

/// Calls `aios._errors.describe`.
fn describe(py: Python<'_>, error: &PyErr, default_code: &str) -> PyResult<TaskError> {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let describe = DESCRIBE.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._errors")?.getattr("describe")?.unbind())
    })?;
    let described = describe.bind(py).call1((error.value(py), default_code))?;
    let (code, message, details, retryable, text) =
        described.extract::<(String, String, Bound<'_, PyAny>, bool, Option<String>)>()?;
    let unchanged = text.and_then(|text| Payload::from_text(text).ok());
    let details = match unchanged {
        Some(text) => text.into(),
        None => json::write(&details)?.into(),
    };
    Ok(TaskError::retryable(Failure { code, message, details }).with_retryable(retryable))
}

/// A `StopIteration` as a `RuntimeError`, as in a coroutine: raised elsewhere, it would be taken for the
/// return value of one.
pub(crate) fn stop_as_error(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let replaced = PyRuntimeError::new_err("code of the workflow raised StopIteration");
    replaced.set_cause(py, Some(error));
    replaced
}

/// The failure of code whose result is not JSON-serialisable.
pub(crate) fn invalid_output(py: Python<'_>, error: &PyErr) -> Failure {
    let described = task_error(py, error, codes::INVALID_OUTPUT).failure;
    Failure { code: codes::INVALID_OUTPUT.to_owned(), ..described }
}

impl From<TaskError> for ErrorInfo {
    fn from(error: TaskError) -> Self {
        Self::from_failure("task", error.failure, error.retryable)
    }
}

impl From<WorkflowError> for ErrorInfo {
    fn from(error: WorkflowError) -> Self {
        match error.failure() {
            Some(failure)
                if [WorkflowError::OUTSIDE, WorkflowError::BUSY].contains(&&*failure.code) =>
            {
                Self::from_failure("workflow_code", failure.clone(), false)
            }
            Some(failure) => Self::from_failure("task", failure.clone(), false),
            None => Self::new("task", codes::CONTINUED_AS_NEW, error.to_string()),
        }
    }
}

impl From<RuntimeError> for ErrorInfo {
    fn from(error: RuntimeError) -> Self {
        Self::from_error(runtime_kind(&error), error.code(), error.is_retryable(), &error)
    }
}

/// The port that a runtime error comes from.
fn runtime_kind(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::Agents(error) => agent_kind(error),
        RuntimeError::Store(_) => "store",
        RuntimeError::Broker(_) => "broker",
        RuntimeError::Event(_) | RuntimeError::Output(_) => "event",
        _ => "runtime",
    }
}

/// The port that an error of agents comes from.
fn agent_kind(error: &AgentError) -> &'static str {
    match error {
        AgentError::Store(_) => "store",
        AgentError::Broker(_) => "broker",
        AgentError::Event(_) => "event",
        _ => "agent",
    }
}

impl From<AgentError> for ErrorInfo {
    fn from(error: AgentError) -> Self {
        Self::from_error(agent_kind(&error), error.code(), error.is_retryable(), &error)
    }
}

impl From<StoreError> for ErrorInfo {
    fn from(error: StoreError) -> Self {
        // Only the runtime or client that it belongs to closes a store.
        if matches!(error, StoreError::Closed) {
            return Self::closed();
        }
        Self::from_error("store", error.code(), error.is_retryable(), &error)
    }
}

impl From<BrokerError> for ErrorInfo {
    fn from(error: BrokerError) -> Self {
        if matches!(error, BrokerError::Closed) {
            return Self::closed();
        }
        Self::from_error("broker", error.code(), error.is_retryable(), &error)
    }
}

impl From<EventError> for ErrorInfo {
    fn from(error: EventError) -> Self {
        Self::from_error("event", error.code(), false, &error)
    }
}

impl From<OutputError> for ErrorInfo {
    fn from(error: OutputError) -> Self {
        let kind = if matches!(error, OutputError::Store(_)) { "store" } else { "event" };
        let retryable = matches!(error, OutputError::Backlog { .. });
        Self::from_error(kind, error.code(), retryable, &error)
    }
}

impl From<InvalidAddress> for ErrorInfo {
    fn from(error: InvalidAddress) -> Self {
        Self::from_error("broker", codes::INVALID_NAME, false, &error)
    }
}

impl From<InvalidName> for ErrorInfo {
    fn from(error: InvalidName) -> Self {
        Self::from_error("runtime", codes::INVALID_NAME, false, &error)
    }
}

impl From<RunError> for ErrorInfo {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Failed { run_id, failure } => {
                Self::from_run("run_failed", &run_id, "failed", failure)
            }
            RunError::Cancelled { run_id, failure } => {
                Self::from_run("run_cancelled", &run_id, "was cancelled", failure)
            }
            RunError::Blocked { run_id, failure } => {
                Self::from_run("run_blocked", &run_id, "is blocked", failure)
            }
            RunError::Runtime(error) => error.into(),
            error => Self::from_error("runtime", error.code(), false, &error),
        }
    }
}

#[cfg(feature = "service")]
impl From<aios_service::client::ClientError> for ErrorInfo {
    fn from(error: aios_service::client::ClientError) -> Self {
        use aios_service::client::ClientError;

        let retryable = error.is_retryable();
        let code = error.code().to_owned();
        let described = Self::from_error("service", &code, retryable, &error);
        match error {
            ClientError::Service { message, details, request_id, .. } => {
                let message = match request_id {
                    Some(id) => format!("{message} (request {id})"),
                    None => message,
                };
                Self { message, details: details.into(), ..described }
            }
            _ => described,
        }
    }
}

#[cfg(feature = "service")]
impl From<aios_service::client::ResultError> for ErrorInfo {
    fn from(error: aios_service::client::ResultError) -> Self {
        use aios_service::client::ResultError;

        match error {
            ResultError::Failed { run_id, failure } => {
                Self::from_run("run_failed", &run_id, "failed", failure)
            }
            ResultError::Cancelled { run_id, failure } => {
                Self::from_run("run_cancelled", &run_id, "was cancelled", failure)
            }
            ResultError::Blocked { run_id, failure } => {
                Self::from_run("run_blocked", &run_id, "is blocked", failure)
            }
            ResultError::Client(error) => error.into(),
            error => Self::from_error("service", error.code(), false, &error),
        }
    }
}
