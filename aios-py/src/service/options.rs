//! The options of the API, from Python.
//!
//! `aios.asgi` creates an API before a runtime is open, and errors of options should be raised
//! there. So the options are checked and kept as [`ApiArguments`]; each session makes its own
//! router of them.
//!
//! Without keys, issuers and access from this machine, an authenticator without keys is added: an
//! API with no authenticator at all would admit callers on this machine.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aios_core::event::Timestamp;
use aios_service::{
    auth::{Anonymous, ApiKey, ApiKeyHash, ApiKeys, FileKeys, JwtIssuer, JwtTokens, Permissions},
    http::{ApiOptions, RateLimit},
};
use pyo3::prelude::*;

use crate::convert::{errors::ErrorInfo, seconds};

/// The options of an API. A runtime that is opened again gets a new router with the same options.
pub(crate) struct ApiArguments {
    /// Distinguishes the options of a process.
    pub(super) serial: u64,
    /// The path before the routes.
    pub(super) prefix: String,
    /// Whether the routes of health checks are served too.
    pub(super) has_health: bool,
    /// Callers with API keys.
    keys: Vec<ApiKey>,
    /// Callers with tokens.
    issuers: Vec<Issuer>,
    /// Whether callers on this machine need no credentials.
    allows_loopback: bool,
    max_body_bytes: usize,
    request_timeout: Duration,
    stream_lifetime: Duration,
    rate_limit: Option<RateLimit>,
}

/// An issuer of tokens, from which an authenticator is created for each router.
struct Issuer {
    /// The issuer that tokens name.
    issuer: String,
    /// The audience that tokens name.
    audience: String,
    keys: String,
    /// How much clocks may differ.
    leeway: Duration,
    /// The permissions of roles.
    roles: Vec<(String, Permissions)>,
}

/// An API key as Python has it.
#[derive(FromPyObject)]
pub(super) struct KeyArg {
    hash: String,
    subject: String,
    permissions: Vec<String>,
    /// Microseconds since the Unix epoch.
    expires_at: Option<i64>,
}

/// An issuer of tokens as Python has it.
#[derive(FromPyObject)]
pub(super) struct IssuerArg {
    issuer: String,
    audience: String,
    keys: String,
    leeway: f64,
    roles: HashMap<String, Vec<String>>,
}

impl ApiArguments {
    /// The options of a router.
    pub(super) fn options(&self) -> ApiOptions {
        let mut options = ApiOptions::new()
            .with_max_body_bytes(self.max_body_bytes)
            .with_request_timeout(self.request_timeout)
            .with_stream_lifetime(self.stream_lifetime);
        if !self.keys.is_empty() {
            options = options.with_authenticator(ApiKeys::new(self.keys.iter().cloned()));
        }
        if !self.issuers.is_empty() {
            let issuers = self.issuers.iter().map(Issuer::create);
            options = options.with_authenticator(JwtTokens::new(issuers));
        }
        options = match self.allows_loopback {
            true => options.with_authenticator(Anonymous::on_loopback()),
            // Without any authenticator, callers on this machine would be admitted.
            false => options.with_authenticator(ApiKeys::default()),
        };
        match self.rate_limit {
            Some(limit) => options.with_rate_limit(limit),
            None => options,
        }
    }
}

impl Issuer {
    /// The issuer for an authenticator.
    fn create(&self) -> JwtIssuer {
        let issuer = JwtIssuer::new(&self.issuer, &self.audience, FileKeys::new(&self.keys));
        let issuer = issuer.with_leeway(self.leeway);
        self.roles
            .iter()
            .fold(issuer, |issuer, (role, permissions)| issuer.with_role(role, permissions.clone()))
    }
}

/// The options as `aios.asgi` passes them.
pub(super) struct RawOptions {
    pub(super) prefix: String,
    pub(super) health: bool,
    pub(super) keys: Vec<KeyArg>,
    pub(super) issuers: Vec<IssuerArg>,
    pub(super) loopback: bool,
    pub(super) max_body_bytes: usize,
    pub(super) request_timeout: f64,
    pub(super) stream_lifetime: f64,
    pub(super) rate_limit: Option<(u32, f64)>,
}

impl RawOptions {
    /// Checks the options. An error names the option.
    pub(super) fn check(self, py: Python<'_>) -> PyResult<ApiArguments> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let rate_limit = self.rate_limit.map(|(requests, per)| {
            let limit = RateLimit::new(requests, seconds(py, "rate_limit", per)?);
            limit.map_err(|error| invalid(py, "rate_limit", &error))
        });
        let keys = self.keys.into_iter().map(|key| key.create(py));
        let issuers = self.issuers.into_iter().map(|issuer| issuer.create(py));
        Ok(ApiArguments {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            prefix: checked_prefix(py, self.prefix)?,
            has_health: self.health,
            keys: keys.collect::<PyResult<_>>()?,
            issuers: issuers.collect::<PyResult<_>>()?,
            allows_loopback: self.loopback,
            max_body_bytes: self.max_body_bytes,
            request_timeout: seconds(py, "request_timeout", self.request_timeout)?,
            stream_lifetime: seconds(py, "stream_lifetime", self.stream_lifetime)?,
            rate_limit: rate_limit.transpose()?,
        })
    }
}

impl KeyArg {
    fn create(self, py: Python<'_>) -> PyResult<ApiKey> {
        let hash: ApiKeyHash =
            self.hash.parse().map_err(|error| invalid(py, "ApiKey.hash", &error))?;
        let permissions = permissions(py, &self.permissions)?;
        let key = ApiKey::new(hash, self.subject).with_permissions(permissions);
        Ok(match self.expires_at {
            Some(micros) => key.with_expiry(Timestamp::from_micros(micros)),
            None => key,
        })
    }
}

impl IssuerArg {
    fn create(self, py: Python<'_>) -> PyResult<Issuer> {
        let roles = self.roles.into_iter();
        let roles = roles.map(|(role, texts)| PyResult::Ok((role, permissions(py, &texts)?)));
        Ok(Issuer {
            issuer: self.issuer,
            audience: self.audience,
            keys: self.keys,
            leeway: seconds(py, "leeway", self.leeway)?,
            roles: roles.collect::<PyResult<_>>()?,
        })
    }
}

/// Permissions from their texts.
fn permissions(py: Python<'_>, texts: &[String]) -> PyResult<Permissions> {
    Permissions::parse(texts.iter().map(String::as_str))
        .map_err(|error| invalid(py, "a permission", &error))
}

/// A path to mount at: empty, or segments of plain characters.
fn checked_prefix(py: Python<'_>, prefix: String) -> PyResult<String> {
    let is_plain = |segment: &str| {
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.~".contains(&it);
        !segment.is_empty() && segment.bytes().all(is_plain)
    };
    let is_valid = prefix.strip_prefix('/').is_some_and(|path| path.split('/').all(is_plain));
    if is_valid || prefix.is_empty() {
        return Ok(prefix);
    }
    let message = format!("prefix is a path such as /api/v1, or empty, not {prefix:?}");
    Err(ErrorInfo::new("runtime", "INVALID_CONFIGURATION", message).into_error(py))
}

/// The error of an option.
fn invalid(py: Python<'_>, name: &str, error: &dyn std::error::Error) -> PyErr {
    let message = format!("{name}: {error}");
    ErrorInfo::new("runtime", "INVALID_CONFIGURATION", message).into_error(py)
}

/// The hash of an API key.
#[pyfunction]
pub(crate) fn hash_api_key(key: &str) -> String {
    ApiKeyHash::of(key).to_string()
}
