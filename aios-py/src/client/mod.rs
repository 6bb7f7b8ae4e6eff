//! The native part of `aios.Client` and `aios.Runtime`.
//!
//! A [`NativeClient`] owns the native threads, and everything that Python calls goes through it.
//! Its methods convert their arguments on the thread of the event loop, where an error is raised at
//! once, and run the rest on the native threads: [`NativeClient::with`] passes the slot of the
//! session to a future of `start` or `read`.
//!
//! | module | contents |
//! |---|---|
//! | `open` | the agents, workflows and engine of a session |
//! | `start` | runs, tasks, calls, subscriptions, and publishing |
//! | `read` | the log and the tables |
//! | `maintenance` | removal of old runs, and compaction |
//! | `subject` | sums of the budgets of subjects |
//!
//! # Life of a client
//!
//! `new` starts the threads, `open` connects, `shutdown` closes the session, `dispose` ends the
//! threads. `dispose` releases the interpreter's lock while it waits: a native thread may be
//! waiting for that lock to poll or drop workflow code, and neither would get on.
//!
//! A client that is collected without `dispose` ends its threads in the background. In a forked
//! child nothing is dropped that the threads of the parent use; see [`Calls::is_own_process`].

pub(crate) mod maintenance;
mod open;
mod read;
mod start;
pub(crate) mod subject;

use std::{sync::Arc, time::Duration};

use aios_core::{
    event::{EventId, Metadata},
    store::{AgentFilter, RunFilter, TaskFilter},
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::runtime::Handle;

pub(crate) use self::open::measured;
use self::{
    open::RuntimeParts,
    start::{StartRequest, TaskCall, TaskRun},
};
use crate::{
    calls::{Answer, Calls},
    convert::{
        CollectorsArg,
        arguments::{AgentArg, Created, RetryArg, WorkflowArg},
        errors::ErrorInfo,
        event::build_event,
        json, optional_seconds, seconds,
    },
    llm::LlmAgentArg,
    python::{CallQueue, LoopBridge, LoopPulse, PythonExecutors, ShortWait, ThreadPool},
    session::{Session, SessionCloser, SessionSlot},
};

/// A runtime or client: its threads, its event loop, and the session while it is open.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeClient {
    /// The native threads; `None` once they were ended.
    tokio: Mutex<Option<tokio::runtime::Runtime>>,
    /// Calls from Python, and the executors of Python code.
    calls: Arc<Calls>,
    /// Detects that the event loop is blocked.
    pulse: Arc<LoopPulse>,
    /// The session while it is open.
    slot: SessionSlot,
    /// Closes the session once, for Python and for the terminator.
    closer: SessionCloser,
}

impl NativeClient {
    /// The event loop and the threads for plain functions.
    pub(crate) fn executors(&self) -> &Arc<PythonExecutors> {
        &self.calls.executors
    }

    /// The calls of this client.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    #[cfg(feature = "service")]
    pub(crate) fn shared_calls(&self) -> Arc<Calls> {
        Arc::clone(&self.calls)
    }

    #[cfg(feature = "service")]
    pub(crate) fn slot(&self) -> SessionSlot {
        Arc::clone(&self.slot)
    }

    /// Runs a future with the session, and returns an `asyncio` future.
    pub(crate) fn with<'py, F, Fut>(&self, py: Python<'py>, run: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: FnOnce(SessionSlot, Arc<Calls>) -> Fut,
        Fut: Future<Output = Result<Answer, ErrorInfo>> + Send + 'static,
    {
        // Boxed, because a large future is moved several times on its way into a task.
        self.calls.call(py, Box::pin(run(Arc::clone(&self.slot), Arc::clone(&self.calls))))
    }

    /// The closer of the session, and the threads on which to run it.
    pub(crate) fn closer(&self) -> (SessionCloser, Handle) {
        (self.closer.clone(), self.calls.tokio().clone())
    }
}

/// Names the parameters of a task in errors.
pub(crate) fn parameters_of(agent_type: &str) -> String {
    format!("the parameters for agent {agent_type:?}")
}

/// The metadata of work that Python code starts: the trace and the correlation id of its context.
fn origin(traceparent: Option<String>, correlation_id: Option<String>) -> Metadata {
    Metadata {
        traceparent: traceparent.map(Into::into),
        correlation_id: correlation_id.map(Into::into),
        ..Metadata::default()
    }
}

#[pymethods]
impl NativeClient {
    /// Starts `workers` native threads.
    #[new]
    fn new(py: Python<'_>, bridge: &LoopBridge, workers: usize) -> PyResult<Self> {
        let mut tokio = tokio::runtime::Builder::new_multi_thread();
        tokio.worker_threads(workers.max(1)).thread_name("aios").enable_all();
        if let Some(wait) = ShortWait::new(&bridge.bridge, workers) {
            tokio.on_thread_park(move || wait.before_sleep());
        }
        let tokio = tokio.build()?;
        let executors = PythonExecutors {
            bridge: Arc::clone(&bridge.bridge),
            event_loop: Arc::new(bridge.event_loop.clone_ref(py)),
            threads: Arc::new(CallQueue::default()),
        };
        let calls = Arc::new(Calls::new(tokio.handle().clone(), Arc::new(executors)));
        let pulse = bridge.pulse();
        let slot = SessionSlot::default();
        let closer = SessionCloser::new(&slot, &calls);
        Ok(Self { tokio: Mutex::new(Some(tokio)), calls, pulse, slot, closer })
    }

    /// The threads that run plain steps.
    fn pool(&self) -> ThreadPool {
        ThreadPool { queue: Arc::clone(&self.calls.executors.threads) }
    }

    /// Connects, and starts agents and the engine.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._clients.connection")]
    #[pyo3(signature = (store, broker, source, agents, llm_agents, workflows, engine, lease_time, relay, blocked_after, agent_timeout, collectors))]
    fn open<'py>(
        &self,
        py: Python<'py>,
        store: Option<String>,
        broker: String,
        source: String,
        agents: Vec<AgentArg>,
        llm_agents: Vec<LlmAgentArg>,
        workflows: Vec<WorkflowArg>,
        engine: bool,
        lease_time: f64,
        relay: bool,
        blocked_after: Option<f64>,
        agent_timeout: Option<f64>,
        collectors: CollectorsArg,
    ) -> PyResult<Bound<'py, PyAny>> {
        let source: Arc<str> = source.into();
        let parts = RuntimeParts {
            agents,
            workflows,
            has_engine: engine,
            lease_time: seconds(py, "lease_time", lease_time)?,
            relay,
            blocked_after: optional_seconds(py, "blocked_after", blocked_after)?,
            agent_timeout: optional_seconds(py, "agent_timeout", agent_timeout)?,
        };
        let builder = parts.into_builder(py, &self.calls, &self.pulse, &source)?;
        let llm_agents = open::prepare_agents(py, &self.calls, &self.pulse, llm_agents)?;
        self.with(py, |slot, _| async move {
            let session =
                Session::connect(builder, llm_agents, store, broker, source, collectors).await?;
            *slot.write().await = Some(session);
            Ok(Answer::Nothing)
        })
    }

    /// Closes the session. Running tasks may end within `deadline` seconds.
    fn shutdown<'py>(&self, py: Python<'py>, deadline: f64) -> PyResult<Bound<'py, PyAny>> {
        let deadline = seconds(py, "shutdown_timeout", deadline)?;
        let closer = self.closer.clone();
        self.with(py, |_, _| async move {
            closer.close(deadline).await?;
            Ok(Answer::Nothing)
        })
    }

    /// Ends the threads, waiting at most `wait` seconds.
    fn dispose(&self, py: Python<'_>, wait: f64) -> PyResult<()> {
        let wait = seconds(py, "wait", wait)?;
        // After a fork the threads exist only in the parent: there is nothing to join.
        if !self.calls.is_own_process() {
            return Ok(());
        }
        let tokio = self.tokio.lock().take();
        self.calls.close();
        self.calls.executors.threads.close();
        self.calls.drop_handles();
        if let Some(tokio) = tokio {
            py.detach(|| stop(tokio, wait));
        }
        Ok(())
    }

    /// Fails pending calls because the client is closed. Called on the loop's thread.
    fn fail_all(&self, py: Python<'_>) -> PyResult<()> {
        self.calls.fail_all(py)
    }

    /// Starts a run, and sends it a signal if there is one.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._clients.client")]
    #[pyo3(signature = (workflow, input, run_id, delay, is_registered, version, traceparent, correlation_id, signal))]
    fn start<'py>(
        &self,
        py: Python<'py>,
        workflow: String,
        input: &Bound<'py, PyAny>,
        run_id: Option<String>,
        delay: Option<f64>,
        is_registered: bool,
        version: Option<u32>,
        traceparent: Option<String>,
        correlation_id: Option<String>,
        signal: Option<(String, Bound<'py, PyAny>)>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let input = json::write_as(input, || format!("the input of workflow {workflow:?}"))?;
        let signal = signal.map(|(name, payload)| {
            let payload = json::write_as(&payload, || format!("the payload of signal {name:?}"))?;
            PyResult::Ok((name, payload))
        });
        let request = StartRequest {
            workflow,
            input,
            run_id,
            delay: optional_seconds(py, "delay", delay)?,
            is_registered,
            version,
            signal: signal.transpose()?,
            metadata: origin(traceparent, correlation_id),
        };
        self.with(py, |slot, calls| start::start_run(slot, calls, request))
    }

    /// Assigns a task, as a run of one step.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._clients.client")]
    #[pyo3(signature = (agent_type, parameters, agent_id, run_id, timeout, total_timeout, retry, traceparent, correlation_id))]
    fn task<'py>(
        &self,
        py: Python<'py>,
        agent_type: &str,
        parameters: &Bound<'py, PyAny>,
        agent_id: Option<String>,
        run_id: Option<String>,
        timeout: Option<f64>,
        total_timeout: Option<f64>,
        retry: Option<RetryArg>,
        traceparent: Option<String>,
        correlation_id: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let task = TaskRun {
            parameters: json::write_as(parameters, || parameters_of(agent_type))?,
            timeout: optional_seconds(py, "timeout", timeout)?,
            total_timeout: optional_seconds(py, "total_timeout", total_timeout)?,
            retry: RetryArg::policy_or_default(py, retry)?,
            target: start::target(agent_type, agent_id),
            run_id,
            metadata: origin(traceparent, correlation_id),
        };
        self.with(py, |slot, calls| start::start_task(slot, calls, task))
    }

    /// Assigns a task without a journal.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._clients.client")]
    #[pyo3(signature = (agent_type, parameters, agent_id, timeout, traceparent, correlation_id))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        agent_type: String,
        parameters: &Bound<'py, PyAny>,
        agent_id: Option<String>,
        timeout: f64,
        traceparent: Option<String>,
        correlation_id: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = TaskCall {
            parameters: json::write_as(parameters, || parameters_of(&agent_type))?,
            timeout: seconds(py, "timeout", timeout)?,
            metadata: origin(traceparent, correlation_id),
            agent_type,
            agent_id,
        };
        self.with(py, |slot, _| start::call_agent(slot, call))
    }

    /// A handle of an existing run.
    fn handle<'py>(&self, py: Python<'py>, run_id: String) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |slot, calls| start::find_run(slot, calls, run_id))
    }

    /// Publishes an event; returns its id.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._clients.client")]
    #[pyo3(signature = (event_type, data, event_id, traceparent, correlation_id, source))]
    fn publish<'py>(
        &self,
        py: Python<'py>,
        event_type: &str,
        data: &Bound<'py, PyAny>,
        event_id: Option<String>,
        traceparent: Option<String>,
        correlation_id: Option<String>,
        source: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut event = build_event(data, event_type, source.into())?;
        event.metadata = origin(traceparent, correlation_id).into();
        if let Some(event_id) = event_id {
            let id = event_id.parse::<EventId>();
            event.id = id.map_err(|error| ErrorInfo::from(error).into_error(py))?;
        }
        self.with(py, |slot, _| start::publish(slot, event))
    }

    /// Subscribes to events. Without a group, the subscription belongs to this client.
    #[pyo3(signature = (patterns, group))]
    fn subscribe<'py>(
        &self,
        py: Python<'py>,
        patterns: Vec<String>,
        group: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |slot, calls| start::subscribe(slot, calls, patterns, group))
    }

    /// A client for one reader that follows the log: this one, which keeps nothing between two pages.
    fn reader(this: Py<Self>) -> Py<Self> {
        this
    }

    /// A page of the log. With `wait`, waits until there are events.
    fn read_log<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
        wait: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |slot, _| read::log(slot, after, limit, wait))
    }

    /// Position of the last event of the log.
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |slot, _| read::head(slot))
    }

    /// A page of runs.
    #[pyo3(signature = (workflow, statuses, created, after, limit))]
    fn runs<'py>(
        &self,
        py: Python<'py>,
        workflow: Option<String>,
        statuses: Vec<String>,
        created: Created,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let statuses = read::statuses(statuses).map_err(|error| error.into_error(py))?;
        let created_after = created.after();
        let created_before = created.before();
        let filter =
            RunFilter { workflow, statuses, created_after, created_before, ..RunFilter::default() };
        self.with(py, |slot, _| read::runs(slot, filter, read::page_request(after, limit)))
    }

    /// A page of agents.
    #[pyo3(signature = (agent_type, after, limit))]
    fn agents<'py>(
        &self,
        py: Python<'py>,
        agent_type: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let filter = AgentFilter { agent_type, ..AgentFilter::default() };
        self.with(py, |slot, _| read::agents(slot, filter, read::page_request(after, limit)))
    }

    /// A page of tasks.
    #[pyo3(signature = (run_id, agent_type, created, after, limit))]
    fn tasks<'py>(
        &self,
        py: Python<'py>,
        run_id: Option<String>,
        agent_type: Option<String>,
        created: Created,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let created_after = created.after();
        let created_before = created.before();
        let filter = TaskFilter {
            run_id,
            agent_type,
            created_after,
            created_before,
            ..TaskFilter::default()
        };
        self.with(py, |slot, _| read::tasks(slot, filter, read::page_request(after, limit)))
    }

    /// A page of workflows.
    #[pyo3(signature = (after, limit))]
    fn workflows<'py>(
        &self,
        py: Python<'py>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |slot, _| read::workflows(slot, read::page_request(after, limit)))
    }
}

impl Drop for NativeClient {
    fn drop(&mut self) {
        let tokio = self.tokio.get_mut().take();
        if !self.calls.is_own_process() {
            // What the parent's threads still use is never dropped in the child.
            std::mem::forget((tokio, Arc::clone(&self.calls), Arc::clone(&self.slot)));
            return;
        }
        if let Some(tokio) = tokio {
            self.calls.executors.threads.close();
            tokio.shutdown_background();
        }
    }
}

/// Stops the threads. Does not wait on one of them, on which Python may collect its garbage.
///
/// Any thread that is attached to the interpreter may run the garbage collector, and so drop a
/// client: also a native thread that polls workflow code. Waiting there for the end of all native
/// threads would be waiting for itself.
fn stop(tokio: tokio::runtime::Runtime, wait: Duration) {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio.shutdown_background(),
        Err(_) => tokio.shutdown_timeout(wait),
    }
}
