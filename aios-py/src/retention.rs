//! What becomes of runs that ended long ago.

use aios_core::event::Payload;
use aios_store::{ExpiredEvents, Retention};
use pyo3::prelude::*;

use crate::{calls::Answer, core::Core, opened::open, workflow::seconds};

/// Removes runs that ended longer ago; how many there were.
#[pyfunction]
pub(crate) fn expire_runs<'py>(
    py: Python<'py>,
    core: &Core,
    older_than: f64,
    archive: bool,
    batch_size: u16,
    pause: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let expired = if archive { ExpiredEvents::Archive } else { ExpiredEvents::Delete };
    let policy = Retention::new(seconds(py, older_than)?)
        .with_expired(expired)
        .with_batch_size(batch_size)
        .with_pause(seconds(py, pause)?);
    core.with(py, |place, _| async move {
        let store = open(place.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.expire_runs(&policy).await?)?))
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
