//! A provider on this machine for tests, and the switch that forbids requests to others.
//!
//! The server has a thread of its own, so it needs neither a client nor the event loop. A function
//! that chooses the reply is called on that thread, attached to the interpreter. The interpreter's
//! lock is therefore released where this module waits for the server: at its start and its end.

use std::time::Duration;

use aios_core::{catalog::codes, event::Payload};
use aios_llm::{
    ModelResponse, model,
    testing::{FakeProvider, FakeReply, FakeRequest},
};
use parking_lot::Mutex;
use pyo3::{exceptions::PyOSError, prelude::*};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::parse;
use crate::convert::{errors::ErrorInfo, json};

/// `aios.testing.FakeReply` as JSON.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Reply {
    Response { response: ModelResponse },
    CutOff { response: ModelResponse, pieces: usize },
    Stalled { response: ModelResponse, pieces: usize },
    Status { status: u16, message: String },
    RateLimited { retry_after: f64 },
    Overloaded,
    ContextOverflow,
    Malformed,
    Hang,
}

impl From<Reply> for FakeReply {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Response { response } => Self::response(response),
            Reply::CutOff { response, pieces } => Self::cut_off(response, pieces),
            Reply::Stalled { response, pieces } => Self::stalled(response, pieces),
            Reply::Status { status, message } => Self::status(status, message),
            Reply::RateLimited { retry_after } => {
                Self::rate_limited(Duration::try_from_secs_f64(retry_after).unwrap_or_default())
            }
            Reply::Overloaded => Self::overloaded(),
            Reply::ContextOverflow => Self::context_overflow(),
            Reply::Malformed => Self::malformed(),
            Reply::Hang => Self::hang(),
        }
    }
}

/// A reply from Python.
fn read_reply(reply: &Bound<'_, PyAny>) -> PyResult<FakeReply> {
    Ok(parse::<Reply>(json::write(reply)?.as_str())?.into())
}

/// Calls a Python function for the reply to a request.
fn respond(function: &Py<PyAny>, request: &FakeRequest) -> FakeReply {
    let answer = Python::attach(|py| {
        let row = Payload::encode(&row(request));
        let row = row.map_err(|error| ErrorInfo::from(error).into_error(py))?;
        let request = json::read(py, row.as_str())?;
        read_reply(&function.bind(py).call1((request,))?)
    });
    answer.unwrap_or_else(|error| FakeReply::status(500, format!("the function failed: {error}")))
}

/// A request as Python takes it.
fn row(request: &FakeRequest) -> serde_json::Value {
    let FakeRequest { path, headers, body, .. } = request;
    json!({"path": path, "headers": headers, "body": body})
}

/// The native part of `aios.testing.FakeProvider`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeFakeProvider {
    /// The server and its threads; `None` when it is closed.
    running: Mutex<Option<(FakeProvider, Runtime)>>,
}

impl NativeFakeProvider {
    /// Uses the server, or raises that it is closed.
    fn with<T>(&self, py: Python<'_>, read: impl FnOnce(&FakeProvider) -> T) -> PyResult<T> {
        let running = self.running.lock();
        let provider = running.as_ref().map(|(provider, _)| read(provider));
        provider.ok_or_else(|| {
            let message = "the provider is closed";
            ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message).into_error(py)
        })
    }
}

/// Ends the server without waiting for it: it may wait for the interpreter's lock, which the caller holds.
impl Drop for NativeFakeProvider {
    fn drop(&mut self) {
        let running = self.running.lock().take();
        if let Some((provider, runtime)) = running {
            drop(provider);
            runtime.shutdown_background();
        }
    }
}

#[pymethods]
impl NativeFakeProvider {
    #[new]
    fn new(
        py: Python<'_>,
        replies: Vec<Bound<'_, PyAny>>,
        function: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let replies =
            replies.into_iter().map(|reply| read_reply(&reply)).collect::<PyResult<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("aios-fake-provider")
            .enable_io()
            .build()?;
        let started = py.detach(|| {
            runtime.block_on(async {
                match function {
                    None => FakeProvider::start(replies).await,
                    Some(function) => {
                        FakeProvider::respond_with(move |request| respond(&function, request)).await
                    }
                }
            })
        });
        let provider = started.map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self { running: Mutex::new(Some((provider, runtime))) })
    }

    #[getter]
    fn openai_url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, FakeProvider::openai_url)
    }

    #[getter]
    fn anthropic_url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, FakeProvider::anthropic_url)
    }

    #[getter]
    fn gemini_url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, FakeProvider::gemini_url)
    }

    #[getter]
    fn bedrock_url(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, FakeProvider::bedrock_url)
    }

    fn requests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows: Vec<_> = self.with(py, FakeProvider::requests)?.iter().map(row).collect();
        let rows = Payload::encode(&rows);
        let rows = rows.map_err(|error| ErrorInfo::from(error).into_error(py))?;
        json::read(py, rows.as_str())
    }

    fn replies_left(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, FakeProvider::replies_left)
    }

    fn push(&self, reply: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = reply.py();
        let reply = read_reply(reply)?;
        self.with(py, |provider| provider.push(reply))
    }

    fn close(&self, py: Python<'_>) {
        let running = self.running.lock().take();
        // A thread of the server may wait for the interpreter.
        py.detach(|| drop(running));
    }
}

/// Forbids or allows requests to real providers in this process.
#[pyfunction]
pub(crate) fn forbid_real_requests(forbidden: bool) {
    model::forbid_real_requests(forbidden);
}

/// Fails if requests to real providers are forbidden.
#[pyfunction]
pub(crate) fn check_real_requests(py: Python<'_>, name: &str) -> PyResult<()> {
    let checked = model::check_real_requests(name);
    checked.map_err(|error| ErrorInfo::from(error.to_task_error()).into_error(py))
}
