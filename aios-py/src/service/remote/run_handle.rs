//! Handles of runs of a service.

use std::sync::Arc;

use aios_core::event::Payload;
use aios_service::client::RunHandle;
use pyo3::prelude::*;

use super::{collect, events::Follower, output::RemoteOutputStream, rows};
use crate::{
    calls::{Answer, Calls},
    convert::{errors::ErrorInfo, json, records},
};

/// Maximum number of events that Python receives at once.
const PAGE: usize = 500;

/// The native part of `aios.RunHandle` of a remote client.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct RemoteRunHandle {
    calls: Arc<Calls>,
    /// The handle, which has the id of the run and the client.
    run: RunHandle,
    /// Where a reader of the events is, between two calls of `events`.
    followed: Follower,
}

impl RemoteRunHandle {
    /// The run, for commands in the current trace of the caller, if there is one.
    fn traced(&self, py: Python<'_>) -> PyResult<RunHandle> {
        let current = py.import("aios._trace")?.call_method0("current")?;
        Ok(match current.extract::<Option<String>>()? {
            Some(traceparent) => self.run.with_traceparent(&traceparent),
            None => self.run.clone(),
        })
    }

    /// Returns a handle from a call.
    pub(super) fn answer(calls: &Arc<Calls>, run: RunHandle) -> Answer {
        let handle = Self { calls: Arc::clone(calls), run, followed: Follower::default() };
        Answer::Object(Box::new(move |py| Ok(Py::new(py, handle)?.into_any())))
    }
}

#[pymethods]
impl RemoteRunHandle {
    #[getter]
    fn id(&self) -> &str {
        self.run.id()
    }

    /// The same handle for one reader of the events: it keeps its stream between two pages, and waits for
    /// no other reader.
    fn reader(&self) -> Self {
        Self {
            calls: Arc::clone(&self.calls),
            run: self.run.clone(),
            followed: Follower::default(),
        }
    }

    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let run = self.run.clone();
        self.calls.call(py, async move { Ok(Answer::Json(run.result::<Payload>().await?)) })
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let run = self.run.clone();
        self.calls.call(py, async move {
            let run = run.status().await?;
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&rows::run(&run))?))
        })
    }

    fn signal<'py>(
        &self,
        name: String,
        payload: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let written = json::write_as(payload, || format!("the payload of signal {name:?}"))?;
        let run = self.traced(payload.py())?;
        self.calls.call(payload.py(), async move {
            run.signal(&name, &written).await?;
            Ok::<_, ErrorInfo>(Answer::Nothing)
        })
    }

    fn cancel<'py>(&self, py: Python<'py>, reason: String) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        self.calls.call(py, async move {
            run.cancel(&reason).await?;
            Ok::<_, ErrorInfo>(Answer::Nothing)
        })
    }

    fn terminate<'py>(&self, py: Python<'py>, reason: String) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        self.calls.call(py, async move {
            run.terminate(&reason).await?;
            Ok::<_, ErrorInfo>(Answer::Nothing)
        })
    }

    fn pause<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        self.calls.call(py, async move {
            run.pause().await?;
            Ok::<_, ErrorInfo>(Answer::Nothing)
        })
    }

    fn resume<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        self.calls.call(py, async move {
            run.resume().await?;
            Ok::<_, ErrorInfo>(Answer::Nothing)
        })
    }

    fn journal<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        limit: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let run = self.run.clone();
        self.calls.call(py, async move {
            let fetch = async |page| run.journal(&page).await;
            let (events, _) = collect(limit, Some(after.to_string()), fetch).await?;
            Ok::<_, ErrorInfo>(Answer::Json(records::events(&events)?))
        })
    }

    /// Events of the run with this id after a version; see `NativeRunHandle.events`.
    fn events<'py>(&self, py: Python<'py>, after: u64) -> PyResult<Bound<'py, PyAny>> {
        let run = self.run.clone();
        let followed = self.followed.clone();
        self.calls.call(py, async move {
            let page = followed.next_by(after, PAGE, |event| event.version, |_| run.events(0));
            match page.await? {
                Some(events) => Ok::<_, ErrorInfo>(Answer::Json(records::events(&events)?)),
                None => Ok(Answer::Nothing),
            }
        })
    }

    fn fork<'py>(
        &self,
        py: Python<'py>,
        operation: u64,
        new_id: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        let calls = Arc::clone(&self.calls);
        self.calls.call(py, async move {
            let forked = run.fork(operation, Some(&new_id)).await?;
            Ok::<_, ErrorInfo>(Self::answer(&calls, forked))
        })
    }

    fn retry<'py>(&self, py: Python<'py>, new_id: String) -> PyResult<Bound<'py, PyAny>> {
        let run = self.traced(py)?;
        let calls = Arc::clone(&self.calls);
        self.calls.call(py, async move {
            let retried = run.retry(Some(&new_id)).await?;
            Ok::<_, ErrorInfo>(Self::answer(&calls, retried))
        })
    }

    fn stream(&self, name: &str, after: u64) -> RemoteOutputStream {
        RemoteOutputStream::new(&self.calls, self.run.stream(name, after))
    }
}
