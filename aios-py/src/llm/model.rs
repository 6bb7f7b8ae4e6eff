//! Models as Python passes them: those of providers, Python functions, and wrappers around models.
//!
//! A wrapper contains the models that it wraps, so a model is a tree. Its nodes are converted once
//! for each Python object: a model that occurs in two agents, or twice in one, is one model, and
//! shares its cache, its circuit breaker or its rate.

use std::sync::Arc;

use aios_core::{catalog::codes, event::Event};
use aios_llm::{
    LanguageModel, ModelError,
    middleware::{Cache, Circuit, CircuitBreaker, Fallback, Rate, RateLimit},
    model::{Capabilities, ModelErrorKind},
    providers::{AwsCredentials, ProviderOptions, connect},
    testing::{Recorded, SchemaModel},
};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::Deserialize;

use super::{
    Shared,
    function::{FunctionArg, PyModel},
    parse,
};
use crate::{
    convert::{errors::ErrorInfo, seconds},
    python::PythonExecutors,
};

type Wrapped = Vec<ModelArg>;

/// `aios._llm.model.BoundModel`.
#[derive(FromPyObject)]
pub(super) struct ModelArg {
    /// Identity of the Python object, which agents may share.
    key: usize,
    /// The name in prices, traces and errors.
    name: String,
    /// Selects the type of the settings.
    kind: String,
    /// The settings of its kind, as JSON.
    settings: String,
    /// The wrapped models.
    models: Wrapped,
    /// The function, if the model is one.
    invoke: Option<FunctionArg>,
}

/// The settings of a model of a provider.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderSettings {
    protocol: String,
    model: String,
    api_key: String,
    base_url: Option<String>,
    timeout: Option<f64>,
    region: Option<String>,
    /// Access key id, secret access key and session token.
    aws_credentials: Option<(String, String, Option<String>)>,
}

/// The settings of a Python function.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionSettings {
    native_output: bool,
    native_output_with_tools: bool,
    tools: bool,
    in_pieces: bool,
}

/// The settings of a model that falls back to others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FallbackSettings {
    /// Codes of errors; `None` for the default.
    on: Option<Vec<String>>,
}

/// The settings of a circuit breaker.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CircuitBreakerSettings {
    /// Identity of the circuit, which models may share.
    circuit: usize,
    failures: u32,
    open_for: f64,
}

/// The settings of a cache.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheSettings {
    capacity: usize,
}

/// The settings of a rate limit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitSettings {
    /// Identity of the rate, which models may share.
    rate: usize,
    requests: u32,
    per: f64,
    longest_wait: f64,
}

/// The envelopes of a journal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedSettings {
    journal: Vec<String>,
}

/// A model that agents share.
type Model = Arc<dyn LanguageModel>;

/// An invalid option of a model.
pub(super) fn refused(py: Python<'_>, error: &ModelError) -> PyErr {
    let message = error.to_string();
    ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message).into_error(py)
}

impl ModelArg {
    /// Whether code of the model runs on the event loop.
    pub(super) fn uses_loop(&self) -> bool {
        self.invoke.iter().any(|function| function.is_async)
            || self.models.iter().any(Self::uses_loop)
    }

    /// The model, which is the same one for all agents that have the same Python object.
    pub(super) fn into_model(
        self,
        py: Python<'_>,
        executors: &Arc<PythonExecutors>,
        shared: &mut Shared,
    ) -> PyResult<Model> {
        if let Some(known) = shared.models.get(&self.key) {
            return Ok(Arc::clone(known));
        }
        let key = self.key;
        let kind = self.kind;
        let settings = self.settings;
        let inner = self.models.into_iter().map(|model| model.into_model(py, executors, shared));
        let inner = inner.collect::<PyResult<Vec<_>>>()?;
        let model = match (kind.as_str(), self.invoke) {
            ("function", Some(function)) => {
                let settings: FunctionSettings = parse(&settings)?;
                let capabilities = Capabilities::none()
                    .with_native_output(settings.native_output)
                    .with_native_output_with_tools(settings.native_output_with_tools)
                    .with_tools(settings.tools);
                let call = function.into_call(format!("model {:?}", self.name), executors);
                let in_pieces = settings.in_pieces;
                Arc::new(PyModel { name: self.name, capabilities, call, in_pieces })
            }
            ("provider", _) => provider(py, self.name, parse(&settings)?)?,
            ("rate_limit", _) => rate_limit(py, &parse(&settings)?, inner, shared)?,
            ("circuit_breaker", _) => circuit_breaker(py, &parse(&settings)?, inner, shared)?,
            _ => wrapper(py, &kind, &settings, inner)?,
        };
        shared.models.insert(key, Arc::clone(&model));
        Ok(model)
    }
}

/// A model of a provider.
fn provider(py: Python<'_>, name: String, settings: ProviderSettings) -> PyResult<Model> {
    let mut options =
        ProviderOptions::new(settings.model).with_api_key(settings.api_key).with_name(name);
    if let Some(url) = settings.base_url {
        options = options.with_base_url(url);
    }
    if let Some(timeout) = settings.timeout {
        options = options.with_timeout(seconds(py, "timeout", timeout)?);
    }
    if let Some(region) = settings.region {
        options = options.with_region(region);
    }
    if let Some((id, secret, token)) = settings.aws_credentials {
        let credentials = AwsCredentials::new(id, secret);
        let credentials = match token {
            Some(token) => credentials.with_session_token(token),
            None => credentials,
        };
        options = options.with_aws_credentials(move || credentials.clone());
    }
    connect(&settings.protocol, options).map_err(|error| refused(py, &error))
}

/// A model with a rate, which may have other models too.
fn rate_limit(
    py: Python<'_>,
    settings: &RateLimitSettings,
    inner: Vec<Model>,
    shared: &mut Shared,
) -> PyResult<Model> {
    let RateLimitSettings { rate, requests, per, longest_wait } = *settings;
    let per = seconds(py, "per", per)?;
    let longest_wait = seconds(py, "longest_wait", longest_wait)?;
    let rate = shared.rates.entry(rate).or_insert_with(|| Rate::new(requests, per)).clone();
    let model = inner.into_iter().next();
    let model = model.ok_or_else(|| PyValueError::new_err("rate_limit needs a model"))?;
    Ok(Arc::new(RateLimit::new(model, rate).with_longest_wait(longest_wait)))
}

/// A model with a circuit, which may have other models too.
fn circuit_breaker(
    py: Python<'_>,
    settings: &CircuitBreakerSettings,
    inner: Vec<Model>,
    shared: &mut Shared,
) -> PyResult<Model> {
    let CircuitBreakerSettings { circuit, failures, open_for } = *settings;
    let open_for = seconds(py, "open_for", open_for)?;
    let circuit =
        shared.circuits.entry(circuit).or_insert_with(|| Circuit::new(failures, open_for)).clone();
    let model = inner.into_iter().next();
    let model = model.ok_or_else(|| PyValueError::new_err("circuit_breaker needs a model"))?;
    Ok(Arc::new(CircuitBreaker::with_circuit(model, circuit)))
}

/// A model around others, or one for tests.
fn wrapper(py: Python<'_>, kind: &str, settings: &str, inner: Vec<Model>) -> PyResult<Model> {
    let mut inner = inner.into_iter();
    let mut first =
        || inner.next().ok_or_else(|| PyValueError::new_err(format!("{kind} needs a model")));
    Ok(match kind {
        "fallback" => {
            let settings: FallbackSettings = parse(settings)?;
            let fallback = Fallback::new(first()?);
            let fallback = inner.fold(fallback, |fallback, model| fallback.or(model));
            Arc::new(match settings.on {
                None => fallback,
                Some(codes) => fallback.on(ModelErrorKind::ALL
                    .into_iter()
                    .filter(|kind| codes.iter().any(|code| code == kind.code()))),
            })
        }
        "cache" => Arc::new(Cache::new(first()?, parse::<CacheSettings>(settings)?.capacity)),
        "recorded" => {
            let settings: RecordedSettings = parse(settings)?;
            let journal = settings.journal.iter().map(|text| Event::from_json(text));
            let journal = journal.collect::<Result<Vec<_>, _>>();
            let model = journal.and_then(|journal| Recorded::from_journal(&journal));
            Arc::new(model.map_err(|error| ErrorInfo::from(error).into_error(py))?)
        }
        _ => Arc::new(SchemaModel::new()),
    })
}
