use std::{sync::Arc, time::Duration};

use aios_agents::workflow::{
    StepContext, WorkflowContext, WorkflowError,
    machine::{ChildRequest, Request, TaskRequest},
};
use aios_core::{
    agent::{Segment, TaskError},
    event::Payload,
    failure::Failure,
    retry::RetryPolicy,
};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyTuple},
};

use super::{
    Drive, Operation,
    operation::{Call, Operations},
};
use crate::{
    agent::told,
    core::parameters_of,
    fault::Fault,
    given::{Retry, event_of},
    json,
    places::{Arguments, Function, Places},
};

/// What `aios.WorkflowContext` asks.
#[pyclass(frozen, module = "aios._aios")]
#[derive(Clone)]
pub(crate) struct RunCore {
    context: WorkflowContext,
    operations: Arc<Operations>,
    places: Option<Arc<Places>>,
}

impl RunCore {
    pub(super) fn new(
        context: WorkflowContext,
        operations: Arc<Operations>,
        places: Option<Arc<Places>>,
    ) -> Self {
        Self { context, operations, places }
    }

    fn ask(
        &self,
        py: Python<'_>,
        request: Request,
        name: String,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        self.check(py)?;
        let call = Call::Operation(self.context.operation(request));
        Ok(Operation::new(&self.operations, call, name.into(), decode))
    }

    /// Fails where only the workflow itself may ask for anything.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.context.ensure_current().map_err(|error| Fault::from(error).into_error(py))
    }
}

#[pymethods]
impl RunCore {
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
        self.context.fence().map(told)
    }

    #[allow(clippy::too_many_arguments, reason = "called by aios._workflow only")]
    #[pyo3(signature = (agent_type, parameters, agent_id, timeout, total_timeout, retry, decode))]
    fn task(
        &self,
        agent_type: &str,
        parameters: &Bound<'_, PyAny>,
        agent_id: Option<String>,
        timeout: Option<f64>,
        total_timeout: Option<f64>,
        retry: Option<Retry>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let request = TaskRequest {
            agent_type: segment(parameters.py(), agent_type)?,
            agent_id,
            parameters: json::write_as(parameters, || parameters_of(agent_type))?,
            timeout: timeout.map(|timeout| seconds(parameters.py(), timeout)).transpose()?,
            total_timeout: total_timeout
                .map(|timeout| seconds(parameters.py(), timeout))
                .transpose()?,
            retry: policy(parameters.py(), retry)?,
        };
        let name = format!("task of agent {agent_type:?}");
        self.ask(parameters.py(), Request::Task(Box::new(request)), name, decode)
    }

    #[pyo3(signature = (name, function, is_async, args, kwargs, context, timeout, retry, decode))]
    #[allow(clippy::too_many_arguments, reason = "called by aios._workflow only")]
    fn step(
        &self,
        py: Python<'_>,
        name: &str,
        function: Py<PyAny>,
        is_async: bool,
        args: Py<PyTuple>,
        kwargs: Py<PyDict>,
        context: Py<PyAny>,
        timeout: Option<f64>,
        retry: Option<Retry>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        self.check(py)?;
        let retry = policy(py, retry)?;
        let timeout = timeout.map(|timeout| seconds(py, timeout)).transpose()?;
        let code = step_code(py, is_async)?;
        let about: Arc<str> = format!("step {name:?}").into();
        let runner = Arc::new(Function { code, is_async, name: Arc::clone(&about) });
        let fence = self.context.fence().map(told);
        let given = Arc::new(Given { function, args, kwargs, context, fence });
        let places = self.places.clone();
        let step = self.context.step_with(name, move |step: StepContext| {
            let (runner, given, places) = (Arc::clone(&runner), Arc::clone(&given), places.clone());
            async move {
                let Some(places) = places else { return Err(no_places()) };
                let arguments: Arguments = Box::new(move |py| given.arguments(py, &step));
                places.run(runner, TaskError::FAILED, arguments).await
            }
        });
        let step = step.retry(retry);
        let step = match timeout {
            Some(timeout) => step.timeout(timeout),
            None => step,
        };
        Ok(Operation::new(&self.operations, Call::Step(step), about, decode))
    }

    fn sleep(&self, py: Python<'_>, duration: f64) -> PyResult<Operation> {
        self.ask(py, Request::Sleep { duration: seconds(py, duration)? }, "sleep".to_owned(), None)
    }

    #[pyo3(signature = (name, timeout, decode))]
    fn signal(
        &self,
        py: Python<'_>,
        name: &str,
        timeout: Option<f64>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let timeout = timeout.map(|timeout| seconds(py, timeout)).transpose()?;
        let about = format!("signal {name:?}");
        self.ask(py, Request::Signal { name: name.into(), timeout }, about, decode)
    }

    #[pyo3(signature = (workflow, input, run_id, leave_running, decode))]
    fn child(
        &self,
        workflow: &str,
        input: &Bound<'_, PyAny>,
        run_id: Option<String>,
        leave_running: bool,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Operation> {
        let name = format!("child {workflow:?}");
        let written = json::write_as(input, || format!("the input of {name}"))?;
        let workflow = segment(input.py(), workflow)?;
        let request = ChildRequest { workflow, run_id, input: written, leave_running };
        self.ask(input.py(), Request::Child(Box::new(request)), name, decode)
    }

    fn emit(&self, event_type: &str, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let source = self.context.info().workflow.as_str().into();
        let emitted = self.context.emit(event_of(data, event_type, source)?);
        emitted.map_err(|error| Fault::from(error).into_error(data.py()))
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
                written.map_err(|error| Fault::from(error).into_error(progress.py()))?;
            }
        }
        Ok(())
    }

    /// `begin(run, None)` makes the coroutine that undoes.
    fn compensate(&self, py: Python<'_>, name: &str, begin: Py<PyAny>) -> PyResult<()> {
        self.check(py)?;
        let places = self.places.clone();
        self.context.compensate(name, move |context| async move {
            let operations = Arc::new(Operations::default());
            let run = Self::new(context, Arc::clone(&operations), places);
            Drive::new(begin, run, Payload::null(), operations).await.map(drop)
        });
        Ok(())
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
        let version = self.context.version(change, oldest..=newest);
        version.map_err(|error| Fault::from(error).into_error(py))
    }
}

/// What runs the function of a step.
fn step_code(py: Python<'_>, is_async: bool) -> PyResult<Py<PyAny>> {
    static ASYNC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (code, name) = match is_async {
        true => (&ASYNC, "start_async_step"),
        false => (&PLAIN, "run_plain_step"),
    };
    let found = code
        .get_or_try_init(py, || PyResult::Ok(py.import("aios._steps")?.getattr(name)?.unbind()))?;
    Ok(found.clone_ref(py))
}

/// A step as Python hands it over.
struct Given {
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Py<PyDict>,
    /// Context variables that it sees.
    context: Py<PyAny>,
    /// Shard and epoch under which the run is owned.
    fence: Option<(u16, u64)>,
}

impl Given {
    fn arguments<'py>(
        &self,
        py: Python<'py>,
        step: &StepContext,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let step = (step.attempt(), step.idempotency_key(), self.fence);
        Ok(vec![
            self.function.bind(py).clone(),
            self.args.bind(py).clone().into_any(),
            self.kwargs.bind(py).clone().into_any(),
            self.context.bind(py).clone(),
            step.into_pyobject(py)?.into_any(),
        ])
    }
}

fn no_places() -> TaskError {
    let message = "this client can't run steps";
    let failure = Failure::new("NO_EVENT_LOOP", message);
    TaskError::terminal(failure)
}

fn segment(py: Python<'_>, name: &str) -> PyResult<Segment> {
    Segment::new(name).map_err(|error| Fault::from(WorkflowError::from(error)).into_error(py))
}

fn policy(py: Python<'_>, retry: Option<Retry>) -> PyResult<RetryPolicy> {
    retry.map_or_else(|| Ok(RetryPolicy::default()), |retry| retry.into_policy(py))
}

/// Seconds as Python says them.
pub(crate) fn seconds(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let message = format!("{seconds} is no number of seconds from 0");
        Fault::new("event", "INVALID_DURATION", message).into_error(py)
    })
}
