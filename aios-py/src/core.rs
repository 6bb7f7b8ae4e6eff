//! What `aios.Client` and `aios.Runtime` ask.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_agents::{
    Runtime,
    agent::HostOptions,
    runtime::{EngineOptions, RunExecutor},
    workflow::Target,
};
use aios_core::{
    broker::BrokerExt,
    clock::SystemClock,
    event::{EventId, Metadata, Payload},
    retry::RetryPolicy,
    store::{AgentFilter, PageRequest, RunFilter, RunStatus, TaskFilter},
};
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::{
    bridge::{LoopBridge, LoopPulse},
    calls::{Answer, Calls},
    events,
    fault::Fault,
    given::{AgentGiven, Retry, WorkflowGiven, event_of},
    json,
    opened::{Closing, Opened, Place, caller, open},
    places::{Places, Pool, Queue},
    records,
    run::HandleCore,
    workflow::seconds,
};

/// A runtime or client: threads, a way into the loop, and what was opened.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Core {
    tokio: Mutex<Option<tokio::runtime::Runtime>>,
    calls: Arc<Calls>,
    pulse: Arc<LoopPulse>,
    opened: Place,
    closing: Closing,
}

impl Core {
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.calls.places
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Does something with what is open.
    pub(crate) fn with<'py, F, Fut>(&self, py: Python<'py>, act: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: FnOnce(Place, Arc<Calls>) -> Fut,
        Fut: Future<Output = Result<Answer, Fault>> + Send + 'static,
    {
        // Boxed, because a large future is moved several times on its way into a task.
        self.calls.call(py, Box::pin(act(Arc::clone(&self.opened), Arc::clone(&self.calls))))
    }

    /// What closes it, and the threads that do that.
    pub(crate) fn closing(&self) -> (Closing, Handle) {
        (self.closing.clone(), self.calls.tokio().clone())
    }

    fn tokio(&self) -> MutexGuard<'_, Option<tokio::runtime::Runtime>> {
        self.tokio.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(agent_type: &str, agent_id: Option<String>) -> Target {
    agent_id.map_or_else(|| agent_type.into(), |id| Target::agent(agent_type, id))
}

/// What is given to an agent, for errors.
pub(crate) fn parameters_of(agent_type: &str) -> String {
    format!("the parameters for agent {agent_type:?}")
}

fn page_of(after: Option<String>, limit: usize) -> PageRequest {
    PageRequest { after, limit }
}

fn origin(traceparent: Option<String>, correlation_id: Option<String>) -> Metadata {
    Metadata {
        traceparent: traceparent.map(Into::into),
        correlation_id: correlation_id.map(Into::into),
        ..Metadata::default()
    }
}

#[pymethods]
impl Core {
    /// `workers` threads for everything that is not Python.
    #[new]
    fn new(py: Python<'_>, bridge: &LoopBridge, workers: usize) -> PyResult<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers.max(1))
            .thread_name("aios")
            .enable_all()
            .build()?;
        let places = Places {
            bridge: Arc::clone(&bridge.bridge),
            event_loop: Arc::new(bridge.event_loop.clone_ref(py)),
            pool: Arc::new(Queue::default()),
        };
        let calls = Arc::new(Calls::new(tokio.handle().clone(), Arc::new(places)));
        let (pulse, opened) = (bridge.pulse(), Place::default());
        let closing = Closing::new(&opened, &calls);
        Ok(Self { tokio: Mutex::new(Some(tokio)), calls, pulse, opened, closing })
    }

    /// The queue of the threads that run plain functions.
    fn pool(&self) -> Pool {
        Pool { queue: Arc::clone(&self.calls.places.pool) }
    }

    #[allow(clippy::too_many_arguments, reason = "called by aios._client only")]
    #[pyo3(signature = (store, broker, source, agents, workflows, engine, lease_time, relay, blocked_after))]
    fn open<'py>(
        &self,
        py: Python<'py>,
        store: Option<String>,
        broker: String,
        source: String,
        agents: Vec<AgentGiven>,
        workflows: Vec<WorkflowGiven>,
        engine: bool,
        lease_time: f64,
        relay: bool,
        blocked_after: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let source: Arc<str> = source.into();
        let lease_time = seconds(py, lease_time)?;
        // Only workflows in Python have to be polled by the loop.
        let executor = (!workflows.is_empty())
            .then(|| -> Arc<dyn RunExecutor> { Arc::new(self.calls.executor()) });
        let options = EngineOptions { lease_time, relay, executor, ..EngineOptions::default() };
        let blocked_after = blocked_after.map(|time| seconds(py, time)).transpose()?;
        let host = HostOptions::new().with_blocked_after(blocked_after);
        let builder = Runtime::builder().clock(Arc::new(SystemClock)).engine_options(options);
        let mut builder = builder.host_options(host);
        for agent in agents {
            let agent = agent.into_definition(&self.calls.places, &self.pulse, &source)?;
            builder = builder.agents(agent);
        }
        for workflow in workflows {
            builder = builder.dyn_workflow(workflow.into_workflow(py, &self.calls.places)?);
        }
        if !engine {
            builder = builder.without_engine();
        }
        self.with(py, |place, _| async move {
            let opened = Opened::connect(builder, store, broker, source).await?;
            *place.write().await = Some(opened);
            Ok(Answer::Nothing)
        })
    }

    /// Stops what was opened: tasks that run may end within `deadline` seconds.
    fn shutdown<'py>(&self, py: Python<'py>, deadline: f64) -> PyResult<Bound<'py, PyAny>> {
        let deadline = seconds(py, deadline)?;
        let closing = self.closing.clone();
        self.with(py, |_, _| async move {
            closing.close(deadline).await?;
            Ok(Answer::Nothing)
        })
    }

    /// Ends the threads, for which it waits so many seconds.
    fn dispose(&self, py: Python<'_>, wait: f64) -> PyResult<()> {
        let wait = seconds(py, wait)?;
        let tokio = self.tokio().take();
        if !self.calls.is_own_process() {
            // The threads stayed behind in the parent: there is nothing to join.
            std::mem::forget(tokio);
            return Ok(());
        }
        self.calls.close();
        self.calls.places.pool.close();
        self.calls.drop_handles();
        if let Some(tokio) = tokio {
            py.detach(|| stop(tokio, wait));
        }
        Ok(())
    }

    /// Tells what still waits that the runtime was closed. For the loop's thread.
    fn fail_all(&self, py: Python<'_>) -> PyResult<()> {
        self.calls.fail_all(py)
    }

    #[allow(clippy::too_many_arguments, reason = "called by aios._client only")]
    #[pyo3(signature = (workflow, input, run_id, delay, is_known, version, traceparent, correlation_id, signal))]
    fn start<'py>(
        &self,
        py: Python<'py>,
        workflow: String,
        input: &Bound<'py, PyAny>,
        run_id: Option<String>,
        delay: Option<f64>,
        is_known: bool,
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
        let signal = signal.transpose()?;
        let delay = delay.map(|delay| seconds(py, delay)).transpose()?;
        let metadata = origin(traceparent, correlation_id);
        self.with(py, |place, calls| async move {
            let start = {
                let guard = place.read().await;
                let opened = open(guard.as_ref())?;
                let version = match is_known {
                    true => None,
                    false => Some(opened.version_of(&workflow, version).await?),
                };
                match version {
                    None => opened.runtime.start(&workflow, &input),
                    Some(version) => {
                        let knowing = Box::pin(opened.knowing(&workflow, version)).await?;
                        knowing.start(&workflow, &input)
                    }
                }
            };
            let start = match delay {
                Some(delay) => start.after(delay),
                None => start,
            };
            let start = match run_id {
                Some(run_id) => start.with_id(run_id),
                None => start,
            };
            let start = match signal {
                Some((name, payload)) => start.with_signal(name, &payload),
                None => start,
            };
            Ok(HandleCore::answer(&calls, start.with_metadata(metadata).await?))
        })
    }

    #[allow(clippy::too_many_arguments, reason = "called by aios._client only")]
    #[pyo3(signature = (agent_type, parameters, agent_id, run_id, timeout, total_timeout, retry))]
    fn task<'py>(
        &self,
        py: Python<'py>,
        agent_type: &str,
        parameters: &Bound<'py, PyAny>,
        agent_id: Option<String>,
        run_id: Option<String>,
        timeout: Option<f64>,
        total_timeout: Option<f64>,
        retry: Option<Retry>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let parameters = json::write_as(parameters, || parameters_of(agent_type))?;
        let timeout = timeout.map(|timeout| seconds(py, timeout)).transpose()?;
        let total = total_timeout.map(|timeout| seconds(py, timeout)).transpose()?;
        let retry = retry.map_or_else(|| Ok(RetryPolicy::default()), |it| it.into_policy(py))?;
        let agent = target(agent_type, agent_id);
        self.with(py, |place, calls| async move {
            let task = open(place.read().await.as_ref())?.runtime.task(agent, &parameters);
            let task = task.retry(retry);
            let task = match timeout {
                Some(timeout) => task.timeout(timeout),
                None => task,
            };
            let task = match total {
                Some(timeout) => task.total_timeout(timeout),
                None => task,
            };
            let task = match run_id {
                Some(run_id) => task.with_id(run_id),
                None => task,
            };
            Ok(HandleCore::answer(&calls, task.await?))
        })
    }

    /// Gives a task without a journal.
    #[allow(clippy::too_many_arguments, reason = "called by aios._client only")]
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
        let parameters = json::write_as(parameters, || parameters_of(&agent_type))?;
        let timeout = seconds(py, timeout)?;
        let metadata = origin(traceparent, correlation_id);
        self.with(py, |place, _| async move {
            let caller = caller(&place).await?;
            let call = caller.task(&agent_type, &parameters);
            let call = call.with_timeout(timeout).with_metadata(metadata);
            let call = match agent_id {
                Some(agent_id) => call.to_agent(agent_id),
                None => call,
            };
            Ok(Answer::Json(call.await?))
        })
    }

    /// A handle of a run.
    fn run<'py>(&self, py: Python<'py>, run_id: String) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |place, calls| async move {
            let handle = open(place.read().await.as_ref())?.runtime.run(&run_id).await?;
            Ok(HandleCore::answer(&calls, handle))
        })
    }

    #[allow(clippy::too_many_arguments, reason = "called by aios._client only")]
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
        let mut event = event_of(data, event_type, source.into())?;
        event.metadata = origin(traceparent, correlation_id);
        if let Some(event_id) = event_id {
            let id = event_id.parse::<EventId>().map_err(|error| Fault::from(error).into_error(py));
            event.id = id?;
        }
        self.with(py, |place, _| async move {
            let broker = Arc::clone(&open(place.read().await.as_ref())?.broker);
            let id = event.id.to_string();
            broker.publish_event(event).await?;
            Ok(Answer::Json(Payload::encode(&id)?))
        })
    }

    /// Subscribes to events; without a group the subscription is this client's own.
    #[pyo3(signature = (patterns, group))]
    fn subscribe<'py>(
        &self,
        py: Python<'py>,
        patterns: Vec<String>,
        group: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |place, calls| async move {
            let broker = Arc::clone(&open(place.read().await.as_ref())?.broker);
            events::subscribe(broker, patterns, group, calls).await
        })
    }

    /// A page of the log; waits until there is one if `wait`.
    fn read_log<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
        wait: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            if wait {
                store.wait_for(after).await?;
            }
            Ok(Answer::Json(records::events(&store.read_log(after, limit).await?)?))
        })
    }

    /// Position of the last event of the log.
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            Ok(Answer::Json(Payload::encode(&store.head().await?)?))
        })
    }

    #[pyo3(signature = (workflow, statuses, after, limit))]
    fn runs<'py>(
        &self,
        py: Python<'py>,
        workflow: Option<String>,
        statuses: Vec<String>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let parse = |text: String| {
            let message = format!("runs have no status {text:?}");
            let unknown = || Fault::new("runtime", "INVALID_CONFIGURATION", message);
            RunStatus::parse(&text).ok_or_else(|| unknown().into_error(py))
        };
        let statuses = statuses.into_iter().map(parse).collect::<PyResult<Vec<_>>>()?;
        let filter = RunFilter { workflow, statuses, ..RunFilter::default() };
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            let page = store.runs(&filter, &page_of(after, limit)).await?;
            Ok(Answer::Json(records::page(&page, records::run)?))
        })
    }

    #[pyo3(signature = (agent_type, after, limit))]
    fn agents<'py>(
        &self,
        py: Python<'py>,
        agent_type: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let filter = AgentFilter { agent_type, ..AgentFilter::default() };
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            let page = store.agents(&filter, &page_of(after, limit)).await?;
            Ok(Answer::Json(records::page(&page, records::agent)?))
        })
    }

    #[pyo3(signature = (run_id, agent_type, after, limit))]
    fn tasks<'py>(
        &self,
        py: Python<'py>,
        run_id: Option<String>,
        agent_type: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let filter = TaskFilter { run_id, agent_type, ..TaskFilter::default() };
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            let page = store.tasks(&filter, &page_of(after, limit)).await?;
            Ok(Answer::Json(records::page(&page, records::task)?))
        })
    }

    #[pyo3(signature = (after, limit))]
    fn workflows<'py>(
        &self,
        py: Python<'py>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |place, _| async move {
            let store = open(place.read().await.as_ref())?.store()?;
            let page = store.workflows(&page_of(after, limit)).await?;
            Ok(Answer::Json(records::page(&page, records::workflow)?))
        })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let Some(tokio) = self.tokio().take() else { return };
        match self.calls.is_own_process() {
            true => {
                self.calls.places.pool.close();
                tokio.shutdown_background();
            }
            false => std::mem::forget(tokio),
        }
    }
}

/// Stops the threads. One of them can't wait for itself: it may be the one on which Python collects
/// its garbage.
fn stop(tokio: tokio::runtime::Runtime, wait: Duration) {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio.shutdown_background(),
        Err(_) => tokio.shutdown_timeout(wait),
    }
}
