//! What becomes of runs that ended long ago.

use aios_core::event::Payload;
use aios_store::{Expired, Retention};
use pyo3::prelude::*;

use crate::{calls::Answer, core::Core, opened::open, workflow::seconds};

/// Removes runs that ended longer ago; how many there were.
#[pyfunction]
pub(crate) fn retain<'py>(
    py: Python<'py>,
    core: &Core,
    older_than: f64,
    archive: bool,
    runs_at_once: u16,
    pause: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let expired = if archive { Expired::Archive } else { Expired::Delete };
    let policy = Retention::new(seconds(py, older_than)?)
        .with_expired(expired)
        .with_runs_at_once(runs_at_once)
        .with_pause(seconds(py, pause)?);
    core.with(py, |place, _| async move {
        let store = open(place.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.retain(&policy).await?)?))
    })
}

/// Gives free space of a SQLite file back; how many bytes.
#[pyfunction]
pub(crate) fn compact<'py>(py: Python<'py>, core: &Core) -> PyResult<Bound<'py, PyAny>> {
    core.with(py, |place, _| async move {
        let store = open(place.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.compact().await?)?))
    })
}
