//! Clients of a service, with the methods of clients of a store and a broker.
//!
//! `aios.RemoteClient` has the same methods as `aios.Client`, so that code can use either.
//! [`NativeRemoteClient`] therefore has the signatures of [`NativeClient`], and makes HTTP requests
//! instead of using a store. An argument that the API does not have is refused with
//! `INVALID_CONFIGURATION` where leaving it out would change what happens, such as the version of a
//! workflow; the source of an event is left out.
//!
//! The differences that remain:
//!
//! - A call of an agent is a run here, whose result is waited for, and so has a journal.
//! - A subscription reads the log from now on. It belongs to no group, and its events need no
//!   acknowledgement.
//!
//! It uses the native threads and the event loop of a `NativeClient` without a session.
//!
//! | module | contents |
//! |---|---|
//! | `events`, `output` | streams of events and of output |
//! | `run_handle` | handles of runs |
//! | `pages`, `rows` | pages of any size, with the rows that a store has |
//! | `resources` | agents as resources, types of agents, dead letters |
//! | `grant` | how the client gets tokens |

mod events;
mod grant;
mod output;
mod pages;
mod resources;
mod rows;
mod run_handle;

use std::{sync::Arc, time::Duration};

use aios_core::{catalog::codes, event::Payload, store::RunStatus};
use aios_service::client::{
    AgentQuery, Client, ClientError, ClientOptions, EventQuery, ResultError, RunQuery, StartTask,
    TaskQuery,
};
use pyo3::prelude::*;

use self::{
    events::Follower,
    grant::GrantArg,
    pages::{PAGE, collect},
};
pub(crate) use self::{
    events::RemoteEventStream,
    output::RemoteOutputStream,
    resources::{
        remote_agent, remote_agent_types, remote_create_agent, remote_dead_letters,
        remote_delete_agent, remote_handle_dead_letters, remote_replace_agent,
        remote_restart_agent,
    },
    run_handle::RemoteRunHandle,
};
use crate::{
    calls::{Answer, Calls},
    client::{NativeClient, parameters_of},
    convert::{
        arguments::{Created, RetryArg},
        errors::ErrorInfo,
        json, optional_seconds, records, seconds,
    },
};

/// The native part of `aios.RemoteClient`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeRemoteClient {
    /// Calls from Python.
    calls: Arc<Calls>,
    /// Makes the requests.
    client: Client,
    /// Where a reader of the log is, between two calls of `read_log` with `wait`.
    log: Follower,
}

/// The error of an operation that a service does not offer.
fn unsupported(message: &str) -> ErrorInfo {
    ErrorInfo::new("runtime", codes::INVALID_CONFIGURATION, message)
}

/// A task with the trace and the correlation of what assigns it.
fn of_origin(
    mut task: StartTask,
    traceparent: Option<String>,
    correlation_id: Option<String>,
) -> StartTask {
    if let Some(traceparent) = traceparent {
        task = task.traceparent(traceparent);
    }
    match correlation_id {
        Some(id) => task.correlation_id(id),
        None => task,
    }
}

#[pymethods]
impl NativeRemoteClient {
    /// Uses the threads and the event loop of `client`.
    #[new]
    #[pyo3(signature = (client, url, token, api_key, grant, timeout))]
    fn new(
        py: Python<'_>,
        client: &NativeClient,
        url: &str,
        token: Option<String>,
        api_key: Option<String>,
        grant: Option<GrantArg>,
        timeout: f64,
    ) -> PyResult<Self> {
        let mut options = ClientOptions::new().with_timeout(seconds(py, "timeout", timeout)?);
        if let Some(token) = token {
            options = options.with_token(token);
        }
        if let Some(key) = api_key {
            options = options.with_api_key(key);
        }
        if let Some(grant) = grant {
            options = options.with_token_grant(grant.into_grant());
        }
        let remote =
            Client::new(url, options).map_err(|error| ErrorInfo::from(error).into_error(py))?;
        Ok(Self { calls: client.shared_calls(), client: remote, log: Follower::default() })
    }

    /// The same client for one reader that follows the log: it keeps its stream between two pages,
    /// and waits for no other reader.
    fn reader(&self) -> Self {
        Self {
            calls: Arc::clone(&self.calls),
            client: self.client.clone(),
            log: Follower::default(),
        }
    }

    /// Subject and permissions of the caller.
    fn me<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.client.clone();
        self.calls.call(py, async move {
            let me = client.me().await?;
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&(me.id, me.permissions))?))
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the signature of `NativeClient.start`")]
    #[pyo3(signature = (workflow, input, run_id, delay, is_registered, version, traceparent, correlation_id, signal))]
    fn start<'py>(
        &self,
        py: Python<'py>,
        workflow: &str,
        input: &Bound<'py, PyAny>,
        run_id: Option<String>,
        delay: Option<f64>,
        is_registered: bool,
        version: Option<u32>,
        traceparent: Option<String>,
        correlation_id: Option<String>,
        signal: Option<(String, Bound<'py, PyAny>)>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if version.is_some() && !is_registered {
            let message = "a service starts the latest version of a workflow; omit `version`";
            return Err(unsupported(message).into_error(py));
        }
        let input = json::write_as(input, || format!("the input of workflow {workflow:?}"))?;
        if let Some((name, payload)) = signal {
            let payload = json::write_as(&payload, || format!("the payload of signal {name:?}"))?;
            let run_id = run_id.unwrap_or_default();
            let mut start = self.client.signal_with_start(workflow, run_id, &input, name, &payload);
            if let Some(id) = correlation_id {
                start = start.correlation_id(id);
            }
            if let Some(traceparent) = traceparent {
                start = start.traceparent(traceparent);
            }
            return self.started(py, start.into_future());
        }
        let mut start = self.client.start(workflow, &input);
        if let Some(delay) = optional_seconds(py, "delay", delay)? {
            start = start.after(delay);
        }
        if let Some(run_id) = run_id {
            start = start.id(run_id);
        }
        if let Some(id) = correlation_id {
            start = start.correlation_id(id);
        }
        if let Some(traceparent) = traceparent {
            start = start.traceparent(traceparent);
        }
        self.started(py, start.into_future())
    }

    #[allow(clippy::too_many_arguments, reason = "the signature of `NativeClient.task`")]
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
        let parameters = json::write_as(parameters, || parameters_of(agent_type))?;
        let task = self.client.task(agent_type, &parameters);
        let mut task = of_origin(task, traceparent, correlation_id);
        if let Some(retry) = retry {
            task = task.retry(retry.into_policy(py)?);
        }
        if let Some(agent_id) = agent_id {
            task = task.agent(agent_id);
        }
        if let Some(run_id) = run_id {
            task = task.id(run_id);
        }
        if let Some(timeout) = optional_seconds(py, "timeout", timeout)? {
            task = task.timeout(timeout);
        }
        if let Some(timeout) = optional_seconds(py, "total_timeout", total_timeout)? {
            task = task.total_timeout(timeout);
        }
        self.started(py, task.into_future())
    }

    /// Assigns a task as a run, and waits for its answer.
    #[allow(clippy::too_many_arguments, reason = "the signature of `NativeClient.call`")]
    #[pyo3(signature = (agent_type, parameters, agent_id, timeout, traceparent, correlation_id))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        agent_type: &str,
        parameters: &Bound<'py, PyAny>,
        agent_id: Option<String>,
        timeout: f64,
        traceparent: Option<String>,
        correlation_id: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let parameters = json::write_as(parameters, || parameters_of(agent_type))?;
        let timeout: Duration = seconds(py, "timeout", timeout)?;
        let task = self.client.task(agent_type, &parameters).total_timeout(timeout);
        let mut task = of_origin(task, traceparent, correlation_id);
        if let Some(agent_id) = agent_id {
            task = task.agent(agent_id);
        }
        self.calls.call(py, async move {
            match task.await?.result::<Payload>().await {
                Ok(answer) => Ok(Answer::Json(answer)),
                Err(
                    ResultError::Failed { failure, .. } | ResultError::Cancelled { failure, .. },
                ) => Err(ErrorInfo::of_task(failure)),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn handle<'py>(&self, py: Python<'py>, run_id: String) -> PyResult<Bound<'py, PyAny>> {
        let run = self.client.run(run_id);
        self.started(py, async move { run.status().await.map(|_| run) })
    }

    #[allow(clippy::too_many_arguments, reason = "the signature of `NativeClient.publish`")]
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
        // The service names the caller as the source.
        drop(source);
        let data = json::write_as(data, || format!("the data of event {event_type:?}"))?;
        let mut publish = self.client.publish(event_type, &data);
        if let Some(id) = event_id {
            publish = publish.id(id);
        }
        if let Some(id) = correlation_id {
            publish = publish.correlation_id(id);
        }
        if let Some(traceparent) = traceparent {
            publish = publish.traceparent(traceparent);
        }
        self.calls.call(py, async move {
            let event = publish.await?;
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&event.id)?))
        })
    }

    /// Follows the events of the log from now on.
    #[pyo3(signature = (patterns, group))]
    fn subscribe<'py>(
        &self,
        py: Python<'py>,
        patterns: Vec<String>,
        group: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if group.is_some() {
            let message = "a remote client follows the log and belongs to no group; omit `group`";
            return Err(unsupported(message).into_error(py));
        }
        let client = self.client.clone();
        let calls = Arc::clone(&self.calls);
        self.calls
            .call(py, async move { RemoteEventStream::begin(&client, &patterns, calls).await })
    }

    fn read_log<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
        wait: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let client = self.client.clone();
        let log = self.log.clone();
        self.calls.call(py, async move {
            let query = EventQuery::new().with_after(after);
            let events = match wait {
                false => client.log(&query, limit.min(PAGE)).await?.items,
                true => {
                    log.next(after, limit, |_| client.events(&query)).await?.unwrap_or_default()
                }
            };
            Ok::<_, ErrorInfo>(Answer::Json(records::events(&events)?))
        })
    }

    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.client.clone();
        self.calls.call(py, async move {
            let head = client.events(&EventQuery::new()).begin().await?;
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&head)?))
        })
    }

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
        let statuses: Vec<_> =
            statuses.into_iter().filter_map(|text| RunStatus::parse(&text)).collect();
        let mut query = RunQuery::new().with_statuses(statuses);
        if let Some(workflow) = workflow {
            query = query.with_workflow(workflow);
        }
        if let Some(at) = created.after() {
            query = query.with_created_after(at);
        }
        if let Some(at) = created.before() {
            query = query.with_created_before(at);
        }
        let client = self.client.clone();
        self.calls.call(py, async move {
            let fetch = async |page| client.runs(&query.clone().with_page(page)).await;
            let (runs, next) = collect(limit, after, fetch).await?;
            let rows: Vec<_> = runs.iter().map(rows::run).collect();
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&(rows, next))?))
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
        let mut query = AgentQuery::new();
        if let Some(agent_type) = agent_type {
            query = query.with_agent_type(agent_type);
        }
        let client = self.client.clone();
        self.calls.call(py, async move {
            let fetch = async |page| client.agents(&query.clone().with_page(page)).await;
            let (agents, next) = collect(limit, after, fetch).await?;
            let rows: Vec<_> = agents.iter().map(rows::agent).collect();
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&(rows, next))?))
        })
    }

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
        let mut query = TaskQuery::new();
        if let Some(run_id) = run_id {
            query = query.with_run(run_id);
        }
        if let Some(agent_type) = agent_type {
            query = query.with_agent_type(agent_type);
        }
        if let Some(at) = created.after() {
            query = query.with_created_after(at);
        }
        if let Some(at) = created.before() {
            query = query.with_created_before(at);
        }
        let client = self.client.clone();
        self.calls.call(py, async move {
            let fetch = async |page| client.tasks(&query.clone().with_page(page)).await;
            let (tasks, next) = collect(limit, after, fetch).await?;
            let rows: Vec<_> = tasks.iter().map(rows::task).collect();
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&(rows, next))?))
        })
    }

    #[pyo3(signature = (after, limit))]
    fn workflows<'py>(
        &self,
        py: Python<'py>,
        after: Option<String>,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let client = self.client.clone();
        self.calls.call(py, async move {
            let fetch = async |page| client.workflows(&page).await;
            let (workflows, next) = collect(limit, after, fetch).await?;
            let rows: Vec<_> = workflows.iter().map(rows::workflow).collect();
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&(rows, next))?))
        })
    }
}

impl NativeRemoteClient {
    /// A handle of the run that a request started or found.
    fn started<'py>(
        &self,
        py: Python<'py>,
        run: impl Future<Output = Result<aios_service::client::RunHandle, ClientError>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let calls = Arc::clone(&self.calls);
        self.calls.call(py, async move { Ok(RemoteRunHandle::answer(&calls, run.await?)) })
    }
}
