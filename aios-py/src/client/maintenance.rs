//! Maintenance of the store: removal of old runs, compaction, and the locks of files after a fork.

use aios_core::{event::Payload, store::Expirable};
use aios_store::{ExpiredEvents, Retention};
use pyo3::prelude::*;

use super::NativeClient;
use crate::{calls::Answer, convert::seconds, session::open_session};

/// Removes runs that ended at least `older_than` seconds ago; returns how many.
#[pyfunction]
pub(crate) fn expire_runs<'py>(
    py: Python<'py>,
    client: &NativeClient,
    older_than: f64,
    archive: bool,
    batch_size: u16,
    pause: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let expired = if archive { ExpiredEvents::Archive } else { ExpiredEvents::Delete };
    let policy = Retention::new(seconds(py, "older_than", older_than)?)
        .with_expired(expired)
        .with_batch_size(batch_size)
        .with_pause(seconds(py, "pause", pause)?);
    client.with(py, |slot, _| async move {
        let store = open_session(slot.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.expire_runs(&policy).await?)?))
    })
}

/// Removes streams whose last event is at least `older_than` seconds old; returns how many. `kind` is
/// `requests` or `outputs`, which Python checks.
#[pyfunction]
pub(crate) fn expire_streams<'py>(
    py: Python<'py>,
    client: &NativeClient,
    kind: &str,
    older_than: f64,
    batch_size: u16,
    pause: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let what = if kind == "requests" { Expirable::Requests } else { Expirable::Outputs };
    let policy = Retention::new(seconds(py, "older_than", older_than)?)
        .with_batch_size(batch_size)
        .with_pause(seconds(py, "pause", pause)?);
    client.with(py, |slot, _| async move {
        let store = open_session(slot.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.expire_streams(what, &policy).await?)?))
    })
}

/// Returns the free space of a SQLite file to the file system; returns how many bytes.
#[pyfunction]
pub(crate) fn compact<'py>(py: Python<'py>, client: &NativeClient) -> PyResult<Bound<'py, PyAny>> {
    client.with(py, |slot, _| async move {
        let store = open_session(slot.read().await.as_ref())?.any_store()?.clone();
        Ok(Answer::Json(Payload::encode(&store.compact().await?)?))
    })
}

/// Gives up the locks of SQLite files that a forked child has inherited. Called in the child.
#[pyfunction]
pub(crate) fn release_inherited_locks() -> PyResult<()> {
    #[cfg(all(unix, feature = "sqlite"))]
    aios_store::sqlite::release_inherited_locks()?;
    Ok(())
}
