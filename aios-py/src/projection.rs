//! Projections that are written in Python.

use std::sync::Arc;

use aios_agents::projection::{Batch, Projection, ProjectionHandle};
use aios_core::{
    agent::TaskError,
    event::{Pattern, Payload},
};
use pyo3::prelude::*;

use crate::{
    calls::Answer,
    core::Core,
    fault::Fault,
    given::Retry,
    json,
    opened::{Place, open},
    places::{Arguments, Function, Places, Pool},
    records,
    workflow::seconds,
};

/// A projection as Python describes it.
#[derive(FromPyObject)]
pub(crate) struct ProjectionGiven {
    name: String,
    /// Called with a reply, the events, their position, the attempt, and whether they are redriven.
    apply: Py<PyAny>,
    is_async: bool,
    patterns: Option<Vec<String>>,
    batch_size: usize,
    retry: Option<Retry>,
    lease_time: f64,
    /// Called with a reply, which it tells the projection's own position.
    position: Option<Py<PyAny>>,
    is_position_async: bool,
    /// The one thread for plain functions, so that a function whose time is over and the next one
    /// never run at once.
    pool: Py<Pool>,
}

/// Applies batches by a Python function.
struct PyProjection {
    function: Arc<Function>,
    places: Arc<Places>,
}

impl Projection for PyProjection {
    async fn apply(&self, batch: Batch) -> Result<(), TaskError> {
        let rows = records::events(batch.events())?;
        let arguments: Arguments = Box::new(move |py| {
            let told = (batch.position(), batch.attempt(), batch.is_redriven());
            let (position, attempt, redriven) = told;
            Ok(vec![
                json::read(py, rows.as_str())?,
                position.into_pyobject(py)?.into_any(),
                attempt.into_pyobject(py)?.into_any(),
                redriven.into_pyobject(py)?.to_owned().into_any(),
            ])
        });
        let function = Arc::clone(&self.function);
        self.places.run(function, TaskError::FAILED, arguments).await.map(drop)
    }
}

/// Reads a projection's own position by a Python function.
async fn load(places: Arc<Places>, function: Arc<Function>) -> Result<u64, TaskError> {
    let arguments: Arguments = Box::new(|_| Ok(Vec::new()));
    let position = places.run(function, TaskError::FAILED, arguments).await?;
    Ok(position.decode()?)
}

/// Starts a projection, which runs until the runtime is closed.
#[pyfunction]
pub(crate) fn start_projection<'py>(
    py: Python<'py>,
    core: &Core,
    given: ProjectionGiven,
) -> PyResult<Bound<'py, PyAny>> {
    let ProjectionGiven { name, apply, is_async, batch_size, .. } = given;
    let lease_time = seconds(py, given.lease_time)?;
    let retry = given.retry.map(|retry| retry.into_policy(py)).transpose()?;
    let patterns = given.patterns.map(|patterns| {
        let parsed = patterns.iter().map(|text| text.parse::<Pattern>());
        parsed.collect::<Result<Vec<_>, _>>().map_err(|error| Fault::from(error).into_error(py))
    });
    let patterns = patterns.transpose()?;
    let pool = Arc::clone(&given.pool.get().queue);
    let places = Arc::new(Places { pool, ..Places::clone(core.places()) });
    let about: Arc<str> = format!("projection {name:?}").into();
    let function = Function { code: apply, is_async, name: Arc::clone(&about) };
    let projection = PyProjection { function: Arc::new(function), places: Arc::clone(&places) };
    let position = given
        .position
        .map(|code| Arc::new(Function { code, is_async: given.is_position_async, name: about }));
    core.with(py, |place, _| async move {
        let guard = place.read().await;
        let start = open(guard.as_ref())?.runtime.projection(&name, projection);
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
            Some(position) => {
                start.position_from(move || load(Arc::clone(&places), Arc::clone(&position)))
            }
            None => start,
        };
        start.await?;
        Ok(Answer::Nothing)
    })
}

/// A projection, wherever it runs.
#[pyfunction]
pub(crate) fn projection(core: Py<Core>, name: String) -> ProjectionCore {
    ProjectionCore { core, name }
}

/// What `aios.ProjectionHandle` asks. It keeps no store open: it looks at what is open each time.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct ProjectionCore {
    core: Py<Core>,
    name: String,
}

impl ProjectionCore {
    fn with<'py, F, Fut>(&self, py: Python<'py>, act: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: FnOnce(ProjectionHandle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Answer, Fault>> + Send,
    {
        let name = self.name.clone();
        self.core.get().with(py, |place, _| async move { act(handle(&place, &name).await?).await })
    }
}

async fn handle(place: &Place, name: &str) -> Result<ProjectionHandle, Fault> {
    Ok(open(place.read().await.as_ref())?.runtime.projection_handle(name)?)
}

#[pymethods]
impl ProjectionCore {
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

    fn redrive<'py>(&self, py: Python<'py>, position: u64) -> PyResult<Bound<'py, PyAny>> {
        self.with(py, move |handle| async move {
            handle.redrive(position).await?;
            Ok(Answer::Nothing)
        })
    }
}
