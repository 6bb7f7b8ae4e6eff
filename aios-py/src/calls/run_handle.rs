//! Handles of runs.
//!
//! The Python object has the id of the run and the number of the handle, which the client owns; see
//! [`Calls`]. Each method takes the handle out of the table first, and so fails once the client was
//! closed, and then makes a call.

use std::sync::Arc;

use aios_agents::RunHandle;
use aios_core::event::Payload;
use futures_util::FutureExt;
use pyo3::prelude::*;

use super::{Answer, Calls, NativeOutputStream};
use crate::convert::{errors::ErrorInfo, json, records};

/// Maximum number of events that Python receives at once.
const PAGE: usize = 500;

/// The native part of `aios.RunHandle`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeRunHandle {
    calls: Arc<Calls>,
    /// The id of the run, which is known without a call.
    id: String,
    /// The number of the handle.
    key: u64,
}

impl NativeRunHandle {
    /// Returns a handle from a call.
    pub(crate) fn answer(calls: &Arc<Calls>, handle: RunHandle) -> Answer {
        let id = handle.id().to_owned();
        let handle = Self { key: calls.insert_handle(handle), id, calls: Arc::clone(calls) };
        Answer::Object(Box::new(move |py| Ok(Py::new(py, handle)?.into_any())))
    }

    /// The handle, or the exception that the client was closed.
    fn handle(&self, py: Python<'_>) -> PyResult<RunHandle> {
        self.calls.handle(self.key).map_err(|error| error.into_error(py))
    }
}

impl Drop for NativeRunHandle {
    fn drop(&mut self) {
        if self.calls.is_own_process() {
            self.calls.drop_handle(self.key);
        }
    }
}

#[pymethods]
impl NativeRunHandle {
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    /// A handle for one reader of the events: this one, which keeps nothing between two pages.
    fn reader(this: Py<Self>) -> Py<Self> {
        this
    }

    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move { Ok(Answer::Json(handle.result::<Payload>().await?)) })
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            let row = handle.status().await?;
            Ok(Answer::Json(Payload::encode(&records::run(&row))?))
        })
    }

    fn signal<'py>(
        &self,
        name: String,
        payload: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = payload.py();
        let handle = self.handle(py)?;
        let written = json::write_as(payload, || format!("the payload of signal {name:?}"))?;
        self.calls.call(py, async move {
            handle.signal(&name, &written).await?;
            Ok(Answer::Nothing)
        })
    }

    fn cancel<'py>(&self, py: Python<'py>, reason: String) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            handle.cancel(reason).await?;
            Ok(Answer::Nothing)
        })
    }

    fn terminate<'py>(&self, py: Python<'py>, reason: String) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            handle.terminate(reason).await?;
            Ok(Answer::Nothing)
        })
    }

    fn pause<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            handle.pause().await?;
            Ok(Answer::Nothing)
        })
    }

    fn resume<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            handle.resume().await?;
            Ok(Answer::Nothing)
        })
    }

    fn journal<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            let events = handle.journal(after, limit).await?;
            Ok::<_, ErrorInfo>(Answer::Json(records::events(&events)?))
        })
    }

    /// Events of the run with this id after a version: waits for the first, and adds those that are
    /// ready. `None` after the event that ends the run.
    fn events<'py>(&self, py: Python<'py>, after: u64) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        self.calls.call(py, async move {
            let mut following = handle.events(after);
            let Some(first) = following.next().await? else { return Ok(Answer::Nothing) };
            let mut page = vec![first];
            while page.len() < PAGE
                && let Some(Ok(Some(recorded))) = following.next().now_or_never()
            {
                page.push(recorded);
            }
            Ok::<_, ErrorInfo>(Answer::Json(records::events(&page)?))
        })
    }

    /// A reader of an output stream of the run with this id.
    fn stream(&self, py: Python<'_>, name: &str, after: u64) -> PyResult<NativeOutputStream> {
        Ok(NativeOutputStream::open(&self.calls, &self.handle(py)?, name, after))
    }

    fn retry<'py>(&self, py: Python<'py>, new_id: String) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        let calls = Arc::clone(&self.calls);
        self.calls.call(py, async move {
            let retried = handle.retry(new_id).await?;
            Ok(Self::answer(&calls, retried))
        })
    }

    fn fork<'py>(
        &self,
        py: Python<'py>,
        operation: u64,
        new_id: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle(py)?;
        let calls = Arc::clone(&self.calls);
        self.calls.call(py, async move {
            let forked = handle.fork(operation, new_id).await?;
            Ok(Self::answer(&calls, forked))
        })
    }
}
