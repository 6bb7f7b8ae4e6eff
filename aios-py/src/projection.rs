//! Projections written in Python.
//!
//! A projection applies batches of events with a Python function. Its position is in the store of
//! the runtime, or, for a projection that writes to a database of its own, where the function
//! `position` reads it.
//!
//! The executors of a projection are those of the client with one difference: plain functions run
//! in a pool of one thread that belongs to the projection. A batch that timed out is tried again,
//! and the thread that still runs the first attempt can't be stopped; with a single thread the
//! second attempt waits for it, and two attempts never write at the same time.

use std::sync::Arc;

use aios_agents::projection::{Batch, Projection, ProjectionHandle};
use aios_core::{
    agent::TaskError,
    event::{Pattern, Payload},
};
use pyo3::prelude::*;

use crate::{
    calls::Answer,
    client::NativeClient,
    convert::{arguments::RetryArg, errors::ErrorInfo, json, records, seconds},
    python::{MakeArguments, PyFunction, PythonExecutors, ThreadPool},
    session::{SessionSlot, open_session},
};

/// `aios._projection.NativeProjection`.
#[derive(FromPyObject)]
pub(crate) struct ProjectionArg {
    /// The name under which the position is stored.
    name: String,
    /// Called with a reply, the events, the position, the attempt, and whether it is a redrive.
    apply: Py<PyAny>,
    /// Whether `apply` runs on the event loop.
    is_async: bool,
    /// The events to apply; all without patterns.
    patterns: Option<Vec<String>>,
    /// Maximum number of events in a batch.
    batch_size: usize,
    retry: Option<RetryArg>,
    /// How long a lease of the projection lasts without renewal, in seconds.
    lease_time: f64,
    /// Called with a reply, to which it passes the position that the projection stores.
    position: Option<Py<PyAny>>,
    is_position_async: bool,
    /// The single thread for plain functions, so that a function that timed out never overlaps with the
    /// next one.
    pool: Py<ThreadPool>,
}

/// Applies batches with a Python function.
struct PyProjection {
    function: Arc<PyFunction>,
    executors: Arc<PythonExecutors>,
}

impl Projection for PyProjection {
    async fn apply(&self, batch: Batch) -> Result<(), TaskError> {
        let rows = records::events(batch.events())?;
        let arguments: MakeArguments = Box::new(move |py| {
            let position = batch.position();
            let attempt = batch.attempt();
            let is_redriven = batch.is_redriven();
            Ok(vec![
                json::read(py, rows.as_str())?,
                position.into_pyobject(py)?.into_any(),
                attempt.into_pyobject(py)?.into_any(),
                is_redriven.into_pyobject(py)?.to_owned().into_any(),
            ])
        });
        let function = Arc::clone(&self.function);
        self.executors.run(function, TaskError::FAILED, arguments).await.map(drop)
    }
}

/// Reads the position that a projection stores with a Python function.
async fn load_position(
    executors: Arc<PythonExecutors>,
    function: Arc<PyFunction>,
) -> Result<u64, TaskError> {
    let arguments: MakeArguments = Box::new(|_| Ok(Vec::new()));
    let position = executors.run(function, TaskError::FAILED, arguments).await?;
    Ok(position.decode()?)
}

/// Starts a projection, which runs until the runtime is closed.
#[pyfunction]
pub(crate) fn start_projection<'py>(
    py: Python<'py>,
    client: &NativeClient,
    projection: ProjectionArg,
) -> PyResult<Bound<'py, PyAny>> {
    let ProjectionArg { name, apply, is_async, batch_size, .. } = projection;
    let lease_time = seconds(py, "lease_time", projection.lease_time)?;
    let retry = projection.retry.map(|retry| retry.into_policy(py)).transpose()?;
    let patterns = projection.patterns.map(|patterns| {
        let parsed = patterns.iter().map(|text| text.parse::<Pattern>());
        parsed.collect::<Result<Vec<_>, _>>().map_err(|error| ErrorInfo::from(error).into_error(py))
    });
    let patterns = patterns.transpose()?;
    let threads = Arc::clone(&projection.pool.get().queue);
    let executors =
        Arc::new(PythonExecutors { threads, ..PythonExecutors::clone(client.executors()) });
    let label: Arc<str> = format!("projection {name:?}").into();
    let function = PyFunction { code: apply, is_async, name: Arc::clone(&label) };
    let code = PyProjection { function: Arc::new(function), executors: Arc::clone(&executors) };
    let position = projection.position.map(|code| {
        Arc::new(PyFunction { code, is_async: projection.is_position_async, name: label })
    });
    client.with(py, |slot, _| async move {
        let guard = slot.read().await;
        let start = open_session(guard.as_ref())?.runtime.projection(&name, code);
        let start = start.batch_size(batch_size).lease_time(lease_time);
        let start = match patterns {
            Some(patterns) => start.patterns(patterns),
            None => start,
        };
        let start = match retry {
            Some(retry) => start.retry(retry),
            None => start,
        };
        let start = match position {
            Some(position) => start.position_from(move || {
                load_position(Arc::clone(&executors), Arc::clone(&position))
            }),
            None => start,
        };
        start.await?;
        Ok(Answer::Nothing)
    })
}

/// A handle of a projection, whichever process runs it.
#[pyfunction]
pub(crate) fn projection(client: Py<NativeClient>, name: String) -> NativeProjectionHandle {
    NativeProjectionHandle { client, name }
}

/// The native part of `aios.ProjectionHandle`. It does not keep the store open: every call uses the
/// current session.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeProjectionHandle {
    /// The client, whose session each call uses.
    client: Py<NativeClient>,
    name: String,
}

impl NativeProjectionHandle {
    fn with<'py, F, Fut>(&self, py: Python<'py>, run: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: FnOnce(ProjectionHandle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Answer, ErrorInfo>> + Send,
    {
        let name = self.name.clone();
        self.client.get().with(py, |slot, _| async move { run(handle(&slot, &name).await?).await })
    }
}

/// A handle in the current session.
async fn handle(slot: &SessionSlot, name: &str) -> Result<ProjectionHandle, ErrorInfo> {
    Ok(open_session(slot.read().await.as_ref())?.runtime.projection_handle(name)?)
}

#[pymethods]
impl NativeProjectionHandle {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    fn position<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |handle| async move {
            Ok(Answer::Json(Payload::encode(&handle.position().await?)?))
        })
    }

    fn lag<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.with(
            py,
            |handle| async move { Ok(Answer::Json(Payload::encode(&handle.lag().await?)?)) },
        )
    }

    fn dead_letters<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, move |handle| async move {
            Ok(Answer::Json(Payload::encode(&handle.dead_letters(after, limit).await?)?))
        })
    }

    fn retire<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, |handle| async move {
            Ok(Answer::Json(Payload::encode(&handle.retire().await?)?))
        })
    }

    fn redrive<'py>(&self, py: Python<'py>, position: u64) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, move |handle| async move {
            handle.redrive(position).await?;
            Ok(Answer::Nothing)
        })
    }
}
