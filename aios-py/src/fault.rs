//! Errors on their way into Python, and Python's exceptions on their way into a journal.

use aios_agents::{RunError, RuntimeError, agent::AgentError, workflow::WorkflowError};
use aios_core::{
    agent::{InvalidSegment, TaskError},
    broker::{BrokerError, InvalidName},
    event::{EventError, Payload},
    failure::Failure,
    store::StoreError,
};
use pyo3::{prelude::*, sync::PyOnceLock};

use crate::json;

/// Code of the failure of code that returned what can't be JSON.
const INVALID_OUTPUT: &str = "INVALID_OUTPUT";

/// An error of aios as `aios._errors.build` takes it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Where it comes from; see `aios._errors.build`.
    kind: &'static str,
    code: Box<str>,
    message: String,
    details: serde_json::Value,
    retryable: bool,
    cause: Option<Box<Failure>>,
    /// The operation of a workflow that failed.
    about: Option<Box<str>>,
}

impl Fault {
    pub(crate) fn new(kind: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            details: serde_json::Value::Null,
            retryable: false,
            cause: None,
            about: None,
        }
    }

    /// Says which operation of a workflow it is about.
    pub(crate) fn about(self, operation: String) -> Self {
        Self { about: Some(operation.into()), ..self }
    }

    /// A Rust error with all its sources in one message.
    fn of(
        kind: &'static str,
        code: &str,
        retryable: bool,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let message = Failure::from_error(code, error).message;
        Self { retryable, ..Self::new(kind, code, message) }
    }

    fn of_failure(kind: &'static str, failure: Failure, retryable: bool) -> Self {
        let Failure { code, message, details } = failure;
        Self { kind, code: code.into(), message, details, retryable, cause: None, about: None }
    }

    /// A journal that today's code does not fit.
    pub(crate) fn of_replay(failure: Failure) -> Self {
        Self::of_failure("replay", failure, false)
    }

    /// How a run ended, caused by its failure.
    fn of_run(kind: &'static str, run_id: &str, ended: &str, failure: Failure) -> Self {
        let code = if kind == "run_blocked" { "RUN_BLOCKED" } else { &failure.code };
        let message = format!("run {run_id} {ended}: {}", failure.message);
        let described = Self::new(kind, code, message);
        Self { details: failure.details.clone(), cause: Some(Box::new(failure)), ..described }
    }

    /// What happened.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_error(self, py: Python<'_>) -> PyErr {
        self.build(py).unwrap_or_else(|error| error)
    }

    fn build(self, py: Python<'_>) -> PyResult<PyErr> {
        static BUILD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let build = BUILD.get_or_try_init(py, || {
            PyResult::Ok(py.import("aios._errors")?.getattr("build")?.unbind())
        })?;
        let details = json::read(py, &self.details.to_string())?;
        let cause = match self.cause {
            Some(failure) => {
                let details = json::read(py, &failure.details.to_string())?;
                Some((failure.code, failure.message, details))
            }
            None => None,
        };
        let (code, about) = (&*self.code, self.about.as_deref());
        let arguments = (self.kind, code, self.message, details, self.retryable, cause, about);
        Ok(PyErr::from_value(build.bind(py).call1(arguments)?))
    }
}

/// A Python exception as a failure: an error of aios keeps its code; any other keeps the name of
/// its type, its message and its traceback, under `default_code`.
pub(crate) fn task_error(py: Python<'_>, error: &PyErr, default_code: &str) -> TaskError {
    match describe(py, error, default_code) {
        Ok(described) => described,
        Err(again) => TaskError::retryable(Failure::new(
            default_code,
            format!("{error}; and it can't be described: {again}"),
        )),
    }
}

fn describe(py: Python<'_>, error: &PyErr, default_code: &str) -> PyResult<TaskError> {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let describe = DESCRIBE.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._errors")?.getattr("describe")?.unbind())
    })?;
    let described = describe.bind(py).call1((error.value(py), default_code))?;
    let (code, message, details, retryable) =
        described.extract::<(String, String, Bound<'_, PyAny>, bool)>()?;
    let details: Payload = json::write(&details)?;
    let details = details.decode().unwrap_or_default();
    Ok(TaskError { failure: Failure { code, message, details }, retryable })
}

/// That what code returned can't be JSON.
pub(crate) fn invalid_output(py: Python<'_>, error: &PyErr) -> Failure {
    let described = task_error(py, error, INVALID_OUTPUT).failure;
    Failure { code: INVALID_OUTPUT.to_owned(), ..described }
}

impl From<TaskError> for Fault {
    fn from(error: TaskError) -> Self {
        Self::of_failure("task", error.failure, error.retryable)
    }
}

impl From<WorkflowError> for Fault {
    fn from(error: WorkflowError) -> Self {
        match error.failure() {
            Some(failure) if failure.code == WorkflowError::OUTSIDE => {
                Self::of_failure("workflow_code", failure.clone(), false)
            }
            Some(failure) => Self::of_failure("task", failure.clone(), false),
            None => Self::new("task", "CONTINUED_AS_NEW", error.to_string()),
        }
    }
}

impl From<RuntimeError> for Fault {
    fn from(error: RuntimeError) -> Self {
        Self::of(runtime_kind(&error), error.code(), error.is_retryable(), &error)
    }
}

/// The port that an error of the runtime comes from.
fn runtime_kind(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::Agents(error) => agent_kind(error),
        RuntimeError::Store(_) => "store",
        RuntimeError::Broker(_) => "broker",
        RuntimeError::Event(_) => "event",
        _ => "runtime",
    }
}

fn agent_kind(error: &AgentError) -> &'static str {
    match error {
        AgentError::Store(_) => "store",
        AgentError::Broker(_) => "broker",
        AgentError::Event(_) => "event",
        _ => "agent",
    }
}

impl From<AgentError> for Fault {
    fn from(error: AgentError) -> Self {
        Self::of(agent_kind(&error), error.code(), error.is_retryable(), &error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::of("store", error.code(), error.is_retryable(), &error)
    }
}

impl From<BrokerError> for Fault {
    fn from(error: BrokerError) -> Self {
        Self::of("broker", error.code(), error.is_retryable(), &error)
    }
}

impl From<EventError> for Fault {
    fn from(error: EventError) -> Self {
        Self::of("event", error.code(), false, &error)
    }
}

impl From<InvalidName> for Fault {
    fn from(error: InvalidName) -> Self {
        Self::of("broker", "INVALID_NAME", false, &error)
    }
}

impl From<InvalidSegment> for Fault {
    fn from(error: InvalidSegment) -> Self {
        Self::of("runtime", "INVALID_NAME", false, &error)
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Failed { run_id, failure } => {
                Self::of_run("run_failed", &run_id, "failed", failure)
            }
            RunError::Cancelled { run_id, failure } => {
                Self::of_run("run_cancelled", &run_id, "was cancelled", failure)
            }
            RunError::Blocked { run_id, failure } => {
                Self::of_run("run_blocked", &run_id, "is blocked", failure)
            }
            RunError::Runtime(error) => error.into(),
            error => Self::of("runtime", error.code(), false, &error),
        }
    }
}
