//! Requests and responses of the clients that providers publish.
//!
//! A model in Python may use the client of a provider instead of the native one. The translation of
//! messages, tools and errors is the same then: these functions write the body of a request and
//! read the body of a response, and Python only passes them to the client.

use aios_core::event::Payload;
use aios_llm::{
    ModelError, ModelRequest, ModelResponse,
    providers::{AnthropicModel, OpenAiModel, ProviderOptions, read_retry_after, status_error},
};
use pyo3::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::{model::refused, parse};
use crate::convert::{errors::ErrorInfo, json};

/// A protocol of which requests are written and responses are read.
enum Format {
    OpenAi(OpenAiModel),
    Anthropic(AnthropicModel),
}

impl Format {
    /// A model of a protocol, which makes no requests itself.
    fn new(py: Python<'_>, protocol: &str, model: &str, name: Option<&str>) -> PyResult<Self> {
        let mut options = ProviderOptions::new(model);
        if let Some(name) = name {
            options = options.with_name(name);
        }
        let refused = |error: ModelError| refused(py, &error);
        Ok(match protocol {
            "anthropic" => Self::Anthropic(AnthropicModel::new(options).map_err(refused)?),
            _ => Self::OpenAi(OpenAiModel::new(options).map_err(refused)?),
        })
    }

    /// The body of a request.
    fn body(&self, request: &ModelRequest) -> Value {
        match self {
            Self::OpenAi(model) => model.request_body(request),
            Self::Anthropic(model) => model.request_body(request),
        }
    }

    /// The response in a body.
    fn read(&self, body: &Value) -> Result<ModelResponse, ModelError> {
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

/// The body of a request, as the client of a provider takes it.
#[pyfunction]
pub(crate) fn model_request_body<'py>(
    protocol: &str,
    model: &str,
    request: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = request.py();
    let request: ModelRequest = parse(json::write(request)?.as_str())?;
    to_python(py, &Format::new(py, protocol, model, None)?.body(&request))
}

/// The response in a body, as the client of a provider returns it.
#[pyfunction]
pub(crate) fn model_response<'py>(
    protocol: &str,
    name: &str,
    body: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = body.py();
    let body: Value = parse(json::write(body)?.as_str())?;
    match Format::new(py, protocol, "", Some(name))?.read(&body) {
        Ok(response) => to_python(py, &response),
        Err(error) => Err(ErrorInfo::from(error.to_task_error()).into_error(py)),
    }
}

/// The error of a response whose status is not 200, with its header `Retry-After`.
#[pyfunction]
pub(crate) fn model_status_error(
    py: Python<'_>,
    name: &str,
    status: u16,
    retry_after: Option<&str>,
    body: &str,
) -> PyErr {
    let delay = retry_after.and_then(read_retry_after);
    let error = status_error(name, status, delay, body);
    ErrorInfo::from(error.to_task_error()).into_error(py)
}
