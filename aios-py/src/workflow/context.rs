//! The methods of `aios.WorkflowContext`.
//!
//! A method that requests an operation converts its arguments to JSON, checks that the code of the
//! workflow is running, and returns an [`Operation`] without starting it; the first `await` does
//! that. Errors of arguments are raised at the call, before the operation exists, so they leave no
//! trace in the journal.
//!
//! While the coroutine is being closed, requests return an operation that has no effect and no
//! outcome. Code that catches every exception in a loop then yields at its next `await`, where it
//! is left.
//!
//! A step is the only operation that runs Python code outside the coroutine: as a call of
//! `aios._steps`, on the event loop or a thread for plain functions, with the context variables of
//! the place where it was requested.

use std::sync::{Arc, OnceLock};

use aios_agents::workflow::{
    StepContext, WorkflowContext, WorkflowError,
    machine::{ChildRequest, Request, TaskRequest},
};
use aios_core::{
    agent::{Name, TaskError, TaskQueued},
    catalog::codes,
    event::Payload,
    failure::Failure,
};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyTuple},
};

use super::{
    Operation,
    coroutine::{CoroutineFuture, MakeNative},
    operation::{Call, Operations},
    scope::RunScope,
};
use crate::{
    client::parameters_of,
    convert::{
        arguments::RetryArg, errors::ErrorInfo, event::build_event, fence_pair, json,
        optional_seconds,
    },
    python::{Bridge, MakeArguments, PyFunction, PythonExecutors},
};

/// The native part of `aios.WorkflowContext`.
#[pyclass(frozen, module = "aios._aios")]
#[derive(Clone)]
pub(crate) struct NativeWorkflowContext {
    /// The run.
    context: WorkflowContext,
    /// The pending operations of this coroutine.
    operations: Arc<Operations>,
    /// Where steps are executed.
    executors: Option<Arc<PythonExecutors>>,
}

impl NativeWorkflowContext {
    /// The context of a coroutine: of a run, or of a compensation, which has its own operations.
    pub(super) fn new(
        context: WorkflowContext,
        operations: Arc<Operations>,
        executors: Option<Arc<PythonExecutors>>,
    ) -> Self {
        operations.set_context(&context);
        Self { context, operations, executors }
    }

    /// Where exceptions that end the process are raised.
    pub(super) fn bridge(&self) -> Option<Arc<Bridge>> {
        self.executors.as_ref().map(|executors| Arc::clone(&executors.bridge))
    }

    /// The argument of a coroutine.
    pub(super) fn into_argument(self) -> MakeNative {
        Box::new(move |py| Ok(Py::new(py, self)?.into_any()))
    }

    /// An operation of the engine that is not a step.
    fn request(
        &self,
        py: Python<'_>,
        request: Request,
        name: String,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        if self.operations.is_closing() {
            return Ok(Operation::of_closing(&self.operations, name.into()));
        }
        if let Err(error) = self.check(py) {
            return self.refused(name.into(), error);
        }
        let call = Call::Operation(self.context.operation(request));
        Ok(Operation::new(&self.operations, call, name.into(), decode))
    }

    /// The error of an operation outside the code of the workflow. Code that catches it in a loop, such as a
    /// coroutine that is freed after its run, gets an operation whose `await` leaves it.
    fn refused(&self, name: Arc<str>, error: PyErr) -> PyResult<Operation> {
        match self.operations.refuse() {
            true => Ok(Operation::of_closing(&self.operations, name)),
            false => Err(error),
        }
    }

    /// Fails outside the code of the workflow, where operations are not allowed, and if the code makes
    /// requests without end.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.context.ensure_request().map_err(|error| match error.failure() {
            Some(failure) if failure.code == WorkflowError::BUSY => {
                too_many_requests(py, &failure.message).unwrap_or_else(|error| error)
            }
            _ => ErrorInfo::from(error).into_error(py),
        })
    }
}

#[pymethods]
impl NativeWorkflowContext {
    #[getter]
    fn run_id(&self) -> &str {
        self.context.run_id()
    }

    #[getter]
    fn workflow(&self) -> &str {
        self.context.info().workflow.as_str()
    }

    #[getter]
    fn workflow_version(&self) -> u32 {
        self.context.info().version
    }

    #[getter]
    fn traceparent(&self) -> Option<&str> {
        self.context.info().traceparent.as_deref()
    }

    /// Shard and epoch under which the run is owned.
    #[getter]
    fn fence(&self) -> Option<(u16, u64)> {
        self.context.fence().map(fence_pair)
    }

    /// Description of the run for the log.
    fn scope(&self) -> RunScope {
        RunScope::new(self.context.info().clone(), self.operations.silent())
    }

    #[allow(clippy::too_many_arguments, reason = "called only by aios._workflows.context")]
    #[pyo3(signature = (agent_type, parameters, agent_id, timeout, total_timeout, retry, decode))]
    fn task(
        &self,
        agent_type: &str,
        parameters: &Bound<'_, PyAny>,
        agent_id: Option<String>,
        timeout: Option<f64>,
        total_timeout: Option<f64>,
        retry: Option<RetryArg>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let request = TaskRequest {
            agent_type: checked_name(parameters.py(), agent_type, codes::INVALID_AGENT_TYPE)?,
            agent_id,
            parameters: json::write_as(parameters, || parameters_of(agent_type))?,
            timeout: optional_seconds(parameters.py(), "timeout", timeout)?,
            total_timeout: optional_seconds(parameters.py(), "total_timeout", total_timeout)?,
            retry: RetryArg::policy_or_default(parameters.py(), retry)?,
        };
        let name = format!("task of agent {agent_type:?}");
        self.request(parameters.py(), Request::Task(Box::new(request)), name, decode)
    }

    #[pyo3(signature = (name, function, is_async, args, kwargs, context, timeout, retry, decode))]
    #[allow(clippy::too_many_arguments, reason = "called only by aios._workflows.context")]
    fn step(
        &self,
        py: Python<'_>,
        name: &str,
        function: Py<PyAny>,
        is_async: bool,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
        context: Py<PyAny>,
        timeout: Option<f64>,
        retry: Option<RetryArg>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let label: Arc<str> = format!("step {name:?}").into();
        if self.operations.is_closing() {
            return Ok(Operation::of_closing(&self.operations, label));
        }
        if let Err(error) = self.check(py) {
            return self.refused(label, error);
        }
        let retry = RetryArg::policy_or_default(py, retry)?;
        let timeout = optional_seconds(py, "timeout", timeout)?;
        let code = step_code(py, is_async)?;
        let runner = Arc::new(PyFunction { code, is_async, name: Arc::clone(&label) });
        let fence = self.context.fence().map(fence_pair);
        let operation = OnceLock::new();
        let call = Arc::new(StepArguments { function, args, kwargs, context, fence, operation });
        let arguments = Arc::clone(&call);
        let executors = self.executors.clone();
        let queues = timeout.is_some() && !is_async;
        let step = self.context.step_with(name, move |step: StepContext| {
            let runner = Arc::clone(&runner);
            let call = Arc::clone(&call);
            let executors = executors.clone();
            async move {
                let Some(executors) = executors else { return Err(no_executors()) };
                let event_loop = Arc::clone(&executors.event_loop);
                // So that the timeout does not elapse while a plain function waits for a thread.
                let queued = if queues { step.queued() } else { TaskQueued::default() };
                let arguments: MakeArguments =
                    Box::new(move |py| call.build(py, &step, &event_loop));
                executors.run_queued(queued, runner, TaskError::FAILED, arguments).await
            }
        });
        // The closure is created before its operation has a number, and called later.
        let _ = arguments.operation.set(step.number());
        let step = step.retry(retry);
        let step = match timeout {
            Some(timeout) => step.timeout(timeout),
            None => step,
        };
        Ok(Operation::new(&self.operations, Call::Step(step), label, decode))
    }

    fn sleep(&self, py: Python<'_>, seconds: f64) -> PyResult<Operation> {
        let duration = crate::convert::seconds(py, "seconds", seconds)?;
        self.request(py, Request::Sleep { duration }, "sleep".to_owned(), None)
    }

    #[pyo3(signature = (name, timeout, decode))]
    fn signal(
        &self,
        py: Python<'_>,
        name: &str,
        timeout: Option<f64>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let timeout = optional_seconds(py, "timeout", timeout)?;
        let label = format!("signal {name:?}");
        self.request(py, Request::Signal { name: name.into(), timeout }, label, decode)
    }

    #[pyo3(signature = (workflow, input, run_id, leave_running, cancel_when_dropped, decode))]
    fn child(
        &self,
        workflow: &str,
        input: &Bound<'_, PyAny>,
        run_id: Option<String>,
        leave_running: bool,
        cancel_when_dropped: bool,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let name = format!("child {workflow:?}");
        let written = json::write_as(input, || format!("the input of {name}"))?;
        let workflow = checked_name(input.py(), workflow, codes::INVALID_WORKFLOW_NAME)?;
        let request =
            ChildRequest { workflow, run_id, input: written, leave_running, cancel_when_dropped };
        self.request(input.py(), Request::Child(Box::new(request)), name, decode)
    }

    fn emit(&self, event_type: &str, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.check(data.py())?;
        let source = self.context.info().workflow.as_str().into();
        let emitted = self.context.emit(build_event(data, event_type, source)?);
        emitted.map_err(|error| ErrorInfo::from(error).into_error(data.py()))
    }

    #[pyo3(signature = (text, progress))]
    fn set_status(
        &self,
        py: Python<'_>,
        text: String,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.check(py)?;
        match progress {
            None => self.context.set_status(text),
            Some(progress) => {
                let written = self.context.set_progress(text, &json::write(progress)?);
                written.map_err(|error| ErrorInfo::from(error).into_error(progress.py()))?;
            }
        }
        Ok(())
    }

    /// `begin(context, None)` creates the coroutine of the compensation.
    fn compensate(&self, py: Python<'_>, name: &str, begin: Py<PyAny>) -> PyResult<()> {
        self.check(py)?;
        let executors = self.executors.clone();
        self.context.compensate(name, move |context| async move {
            let operations = Arc::new(Operations::default());
            let native = Self::new(context, Arc::clone(&operations), executors);
            let bridge = native.bridge();
            CoroutineFuture::new(begin, native.into_argument(), Payload::null(), operations, bridge)
                .await
                .map(drop)
        });
        Ok(())
    }

    fn set_failure_detail(&self, field: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.check(value.py())?;
        let value_of = || format!("the failure detail {field:?}");
        let set = self.context.set_failure_detail(field, &json::write_as(value, value_of)?);
        set.map_err(|error| ErrorInfo::from(error).into_error(value.py()))
    }

    /// Microseconds since the Unix epoch.
    fn now_micros(&self, py: Python<'_>) -> PyResult<i64> {
        self.check(py)?;
        Ok(self.context.now().as_micros())
    }

    fn uuid(&self, py: Python<'_>) -> PyResult<String> {
        self.check(py)?;
        Ok(self.context.uuid().to_string())
    }

    fn random(&self, py: Python<'_>) -> PyResult<f64> {
        self.check(py)?;
        Ok(self.context.random())
    }

    fn version(&self, py: Python<'_>, change: &str, oldest: u32, newest: u32) -> PyResult<u32> {
        self.check(py)?;
        let version = self.context.version(change, oldest..=newest);
        version.map_err(|error| ErrorInfo::from(error).into_error(py))
    }
}

/// The error of code that makes requests without end, which blocks the run even if it is caught.
fn too_many_requests(py: Python<'_>, message: &str) -> PyResult<PyErr> {
    let isolation = py.import("aios._workflows.isolation")?;
    Ok(PyErr::from_value(isolation.call_method1("too_many_requests", (message,))?))
}

/// The function of `aios._workflows.steps` that executes a step.
fn step_code(py: Python<'_>, is_async: bool) -> PyResult<Py<PyAny>> {
    static ASYNC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (code, name) = match is_async {
        true => (&ASYNC, "start_async_step"),
        false => (&PLAIN, "run_plain_step"),
    };
    let found = code.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._workflows.steps")?.getattr(name)?.unbind())
    })?;
    Ok(found.clone_ref(py))
}

/// The arguments of `aios._workflows.steps`.
struct StepArguments {
    /// The function of the step.
    function: Py<PyAny>,
    /// Its positional arguments.
    args: Py<PyTuple>,
    /// Its keyword arguments; `None` if there are none.
    kwargs: Option<Py<PyDict>>,
    /// The context variables that the step sees.
    context: Py<PyAny>,
    /// Shard and epoch under which the run is owned.
    fence: Option<(u16, u64)>,
    /// The number of the operation in the run.
    operation: OnceLock<u64>,
}

impl StepArguments {
    /// The arguments for one attempt.
    fn build<'py>(
        &self,
        py: Python<'py>,
        step: &StepContext,
        event_loop: &Py<PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let attempt = NativeStepContext {
            operation: self.operation.get().copied().unwrap_or_default(),
            attempt: step.attempt(),
            idempotency_key: step.idempotency_key().into(),
            fence: self.fence,
        };
        Ok(vec![
            self.function.bind(py).clone(),
            self.args.bind(py).clone().into_any(),
            self.kwargs.as_ref().into_pyobject(py)?.into_any(),
            self.context.bind(py).clone(),
            Bound::new(py, attempt)?.into_any(),
            event_loop.bind(py).clone(),
        ])
    }
}

/// Information about the attempt of a step. Few steps ask for it, so it is converted only then. It
/// refers to no part of the run, because Python may keep it for longer.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeStepContext {
    operation: u64,
    attempt: u32,
    idempotency_key: Box<str>,
    fence: Option<(u16, u64)>,
}

#[pymethods]
impl NativeStepContext {
    #[getter]
    fn operation(&self) -> u64 {
        self.operation
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.attempt
    }

    #[getter]
    fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    #[getter]
    fn fence(&self) -> Option<(u16, u64)> {
        self.fence
    }
}

/// The failure of a step in a process that only starts runs.
fn no_executors() -> TaskError {
    let message = "this client can't execute steps";
    let failure = Failure::new(codes::NO_EVENT_LOOP, message);
    TaskError::terminal(failure)
}

/// The name of an agent type or a workflow. `code` is the code of the error if it is invalid.
fn checked_name(py: Python<'_>, name: &str, code: &str) -> PyResult<Name> {
    Name::new(name).map_err(|invalid| {
        let failure = Failure::from_error(code, &invalid);
        ErrorInfo::from(WorkflowError::failed(failure)).into_error(py)
    })
}
