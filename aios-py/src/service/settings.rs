//! Settings of a service, for `aios.Settings`.
//!
//! The layers, from the defaults to the environment, are read and merged by `aios-service`, so that
//! services in both languages have the same rules. Python passes the names and JSON Schemas of its
//! own sections, and receives the values as plain data, with the secrets: a URL comes as it is and
//! as it may be shown. The files are read without the interpreter's lock.

use std::collections::BTreeMap;

use aios_core::event::Payload;
use aios_service::config::{Fault, Redaction, Secret, SecretUrl, Settings, SettingsError};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::convert::{errors::ErrorInfo, json as convert};

/// The sources of settings, which Python passes as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    /// The names of sections with their JSON Schemas.
    sections: Vec<(String, Value)>,
    /// The folder with the files.
    folder: Option<String>,
    /// The variables instead of those of the process.
    environment: Option<Vec<(String, String)>>,
    /// Values below all other layers.
    defaults: Vec<(String, Value)>,
    /// Values above all other layers.
    values: Vec<(String, Value)>,
    /// Whether sections that Python does not name are allowed.
    other_sections: bool,
}

impl Sources {
    /// Reads and merges the layers.
    fn load(self) -> Result<Value, SettingsError> {
        let mut builder = Settings::builder();
        let names: Vec<_> = self.sections.iter().map(|(name, _)| name.clone()).collect();
        for (name, schema) in self.sections {
            builder = builder.section_schema(name, schema);
        }
        if let Some(folder) = self.folder {
            builder = builder.folder(folder);
        }
        if let Some(variables) = self.environment {
            builder = builder.environment(variables);
        }
        for (key, value) in self.defaults {
            builder = builder.default_value(key, value);
        }
        for (key, value) in self.values {
            builder = builder.value(key, value);
        }
        if self.other_sections {
            builder = builder.other_sections();
        }
        Ok(row(&builder.load()?, &names))
    }
}

/// A URL, and how it is shown.
fn url(url: Option<&SecretUrl>) -> Value {
    url.map_or(Value::Null, |url| json!([url.expose(), url.to_string()]))
}

/// The headers of requests to a collector.
fn headers(headers: &BTreeMap<String, Secret>) -> Map<String, Value> {
    headers.iter().map(|(name, value)| (name.replace('_', "-"), json!(value.expose()))).collect()
}

/// Settings with their secrets.
fn row(settings: &Settings, sections: &[String]) -> Value {
    let own = sections.iter().map(|name| {
        let value = settings.section::<Value>(name).cloned();
        (name.clone(), value.unwrap_or_default())
    });
    let entries = settings.entries().iter();
    let entries = entries.map(|it| json!([it.key, it.value, it.origin.to_string()]));
    let similar = settings.similar_names().iter().map(ToString::to_string);
    json!({
        "environment": settings.environment(),
        "common": common(settings),
        "sections": own.collect::<Map<_, _>>(),
        "entries": entries.collect::<Vec<_>>(),
        "fingerprints": settings.fingerprints().collect::<BTreeMap<_, _>>(),
        "ignored_variables": settings.ignored_variables(),
        "other_sections": settings.other_sections(),
        "similar_names": similar.collect::<Vec<_>>(),
    })
}

/// The sections that every service has. Durations are in seconds.
fn common(settings: &Settings) -> Value {
    let http = settings.http();
    let log = settings.log();
    let shutdown = settings.shutdown();
    let rate_limit = http
        .rate_limit
        .map(|limit| json!({"requests": limit.requests, "per": limit.per.get().as_secs_f64()}));
    let timeout = settings.agent().timeout.map(|timeout| timeout.get().as_secs_f64());
    let telemetry = settings.telemetry();
    let key = |key: Option<&Secret>| key.map(|it| it.expose().to_owned());
    json!({
        "database": {"url": url(settings.database().url.as_ref())},
        "broker": {"url": url(settings.broker().url.as_ref())},
        "redis": {"url": url(settings.redis().url.as_ref())},
        "log": log,
        "agent": {"timeout": timeout},
        "http": {
            "listen": http.listen,
            "request_timeout": http.request_timeout.get().as_secs_f64(),
            "max_body_bytes": http.max_body_bytes,
            "rate_limit": rate_limit,
        },
        "shutdown": {
            "accept_delay": shutdown.accept_delay.get().as_secs_f64(),
            "deadline": shutdown.deadline.get().as_secs_f64(),
        },
        "metrics": settings.metrics(),
        "telemetry": {
            "service_name": telemetry.service_name,
            "traces": {
                "endpoint": url(telemetry.traces.endpoint.as_ref()),
                "headers": headers(&telemetry.traces.headers),
                "protocol": telemetry.traces.protocol,
            },
            "metrics": {
                "endpoint": url(telemetry.metrics.endpoint.as_ref()),
                "headers": headers(&telemetry.metrics.headers),
                "protocol": telemetry.metrics.protocol,
                "interval": telemetry.metrics.interval.get().as_secs_f64(),
            },
        },
        "process": settings.process(),
        "anthropic": {"api_key": key(settings.anthropic().api_key.as_ref())},
        "openai": {"api_key": key(settings.openai().api_key.as_ref())},
    })
}

/// The error, with its faults as details.
fn refused(error: &SettingsError) -> ErrorInfo {
    let fault = |fault: &Fault| {
        json!({
            "key": fault.key,
            "origin": fault.origin.to_string(),
            "fault": fault.kind.to_string(),
        })
    };
    let faults = error.faults().iter().map(fault).collect();
    ErrorInfo::new("runtime", error.code(), error.to_string()).with_details(faults)
}

/// Reads all layers, and returns the values as plain data.
#[pyfunction]
pub(crate) fn load_settings<'py>(py: Python<'py>, sources: &str) -> PyResult<Bound<'py, PyAny>> {
    let sources: Sources =
        serde_json::from_str(sources).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let loaded = py.detach(|| sources.load());
    let row = loaded.map_err(|error| refused(&error).into_error(py))?;
    let row = Payload::encode(&row).map_err(|error| ErrorInfo::from(error).into_error(py))?;
    convert::read(py, row.as_str())
}

/// Whether the log writes `***` instead of the value of a field, which may be a number. `redact` has the
/// names of the settings.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "a list of Python is converted")]
pub(crate) fn is_redacted(redact: Vec<String>, field: &str, is_number: bool) -> bool {
    let redaction = Redaction::new(&redact);
    if is_number { redaction.covers_number(field) } else { redaction.covers(field) }
}
