//! Requests and responses of the clients that providers publish.
//!
//! A model in Python may use the client of a provider instead of the native one. The translation of
//! messages, tools and errors is the same then: these functions write the body of a request and
//! read the body of a response, and Python only passes them to the client.

use std::collections::BTreeMap;

use aios_core::event::Payload;
use aios_llm::{
    ModelError, ModelRequest, ModelResponse,
    model::StreamEvent,
    providers::{
        AnthropicModel, OpenAiModel, ProviderOptions, ResponseEvents, read_retry_after,
        status_error,
    },
};
use parking_lot::Mutex;
use pyo3::{exceptions::PyRuntimeError, prelude::*};
use serde::Serialize;

use super::{function::NativePieces, model::refused, parse};
use crate::convert::{errors::ErrorInfo, json};

/// The events of a response that the client of a provider receives in pieces.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeResponseEvents {
    /// Builds the response.
    events: Mutex<ResponseEvents>,
    /// Errors do not show them.
    keys: Vec<String>,
}

#[pymethods]
impl NativeResponseEvents {
    #[new]
    fn new(py: Python<'_>, protocol: &str, name: &str, keys: Vec<String>) -> PyResult<Self> {
        let format = Format::new(py, protocol, ProviderOptions::new("").with_name(name))?;
        Ok(Self { events: Mutex::new(format.events()), keys })
    }

    /// Takes the data of an event, and passes its pieces on. Returns the response once it is complete.
    fn take<'py>(
        &self,
        event: &Bound<'py, PyAny>,
        pieces: &NativePieces,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = event.py();
        if pieces.is_cancelled() {
            return Err(PyRuntimeError::new_err("the call was cancelled"));
        }
        let event = json::write(event)?.as_str().to_owned();
        let mut events = self.events.lock();
        // An event that is an error is read again without the keys.
        let taken = events.take(&event).or_else(|_| events.take(&hidden(self.keys.clone(), event)));
        drop(events);
        for piece in taken.map_err(|error| failed(py, &error))? {
            if let StreamEvent::Finished(response) = piece {
                return to_python(py, &response).map(Some);
            }
            pieces.push(py, piece)?;
        }
        Ok(None)
    }

    /// Takes the end of the stream, and returns the response.
    fn end<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let ended = self.events.lock().end();
        match ended.map_err(|error| failed(py, &error))? {
            StreamEvent::Finished(response) => to_python(py, &response).map(Some),
            _ => Ok(None),
        }
    }
}

/// The exception of an error.
fn failed(py: Python<'_>, error: &ModelError) -> PyErr {
    ErrorInfo::from(error.to_task_error()).into_error(py)
}

/// A protocol of which requests are written and responses are read.
enum Format {
    OpenAi(OpenAiModel),
    Anthropic(AnthropicModel),
}

impl Format {
    /// A model of a protocol, which makes no requests itself.
    fn new(py: Python<'_>, protocol: &str, options: ProviderOptions) -> PyResult<Self> {
        let refused = |error: ModelError| refused(py, &error);
        Ok(match protocol {
            "anthropic" => Self::Anthropic(AnthropicModel::new(options).map_err(refused)?),
            _ => Self::OpenAi(OpenAiModel::new(options).map_err(refused)?),
        })
    }

    /// The body of a request, as JSON.
    fn body(&self, request: &ModelRequest) -> String {
        match self {
            Self::OpenAi(model) => model.request_body(request),
            Self::Anthropic(model) => model.request_body(request),
        }
    }

    /// The headers that a request needs in addition to those of the client.
    fn headers(&self, request: &ModelRequest) -> BTreeMap<&'static str, &'static str> {
        match self {
            Self::OpenAi(_) => BTreeMap::new(),
            Self::Anthropic(model) => model.request_header(request).into_iter().collect(),
        }
    }

    /// Reads a response in pieces.
    fn events(&self) -> ResponseEvents {
        match self {
            Self::OpenAi(model) => model.response_events(),
            Self::Anthropic(model) => model.response_events(),
        }
    }

    /// The response in a body.
    fn read(&self, body: &str) -> Result<ModelResponse, ModelError> {
        match self {
            Self::OpenAi(model) => model.read_response(body),
            Self::Anthropic(model) => model.read_response(body),
        }
    }
}

/// A value as Python data.
fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = Payload::encode(value).map_err(|error| ErrorInfo::from(error).into_error(py))?;
    json::read(py, text.as_str())
}

/// A request as the client of a provider accepts it: the body, and the headers that it needs in addition
/// to those of the client. Servers of other providers, which the URL tells, know other fields.
#[pyfunction]
pub(crate) fn model_request<'py>(
    protocol: &str,
    model: &str,
    base_url: &str,
    request: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = request.py();
    let request: ModelRequest = parse(json::write(request)?.as_str())?;
    let options = ProviderOptions::new(model).with_base_url(base_url);
    let format = Format::new(py, protocol, options)?;
    Ok((json::read(py, &format.body(&request))?, to_python(py, &format.headers(&request))?))
}

/// The response in a body, as the client of a provider returns it. Errors do not show the keys.
#[pyfunction]
pub(crate) fn model_response<'py>(
    protocol: &str,
    name: &str,
    body: &Bound<'py, PyAny>,
    keys: Vec<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = body.py();
    let body = json::write(body)?.as_str().to_owned();
    let format = Format::new(py, protocol, ProviderOptions::new("").with_name(name))?;
    // A body that is an error is read again without the keys: the message may be shortened, and have a
    // part of one.
    match format.read(&body).or_else(|_| format.read(&hidden(keys, body))) {
        Ok(response) => to_python(py, &response),
        Err(error) => Err(failed(py, &error)),
    }
}

/// The error of a response whose status is not 200, with its header `Retry-After`. It does not show the
/// keys.
#[pyfunction]
pub(crate) fn model_status_error(
    py: Python<'_>,
    name: &str,
    status: u16,
    retry_after: Option<&str>,
    body: String,
    keys: Vec<String>,
) -> PyErr {
    let delay = retry_after.and_then(read_retry_after);
    // Before the message is shortened, so that no part of a key is left.
    let error = status_error(name, status, delay, &hidden(keys, body));
    failed(py, &error)
}

/// A text without the keys, which providers quote in errors.
fn hidden(keys: Vec<String>, text: String) -> String {
    let keys = keys.into_iter().filter(|key| !key.is_empty());
    keys.fold(text, |text, key| text.replace(&key, "[key]"))
}
