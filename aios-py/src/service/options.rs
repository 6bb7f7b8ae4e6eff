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

use aios_core::{catalog::codes, event::Timestamp};
use aios_service::{
    auth::{
        Anonymous, ApiKey, ApiKeyHash, ApiKeys, FileKeys, JwtIssuer, JwtTokens, OidcKeys,
        Permissions, UrlKeys,
    },
    http::{ApiOptions, Cors, Limits, RateLimit},
};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::convert::{errors::ErrorInfo, seconds};

/// The options of an API. A runtime that is opened again gets a new router with the same options.
pub(crate) struct ApiArguments {
    /// Distinguishes the options.
    pub(super) serial: u64,
    /// The path before the routes.
    pub(super) prefix: String,
    /// Whether the routes of health checks are served too.
    pub(super) has_health: bool,
    /// Whether `/metrics` is served too.
    pub(super) has_metrics: bool,
    /// Callers with API keys.
    keys: Vec<ApiKey>,
    /// Callers with tokens.
    issuers: Vec<Issuer>,
    /// Whether callers on this machine need no credentials.
    allows_loopback: bool,
    stream_lifetime: Duration,
    /// The origins whose web pages may use the API.
    cors: Option<Cors>,
    /// The limits of requests; `None` if there is no API, but health checks alone.
    limits: Option<Mutex<CurrentLimits>>,
}

/// The limits of requests, which may change while they are served.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct LimitValues {
    max_body_bytes: usize,
    request_timeout: Duration,
    rate_limit: Option<RateLimit>,
}

/// The values of the next router, and the limits of the latest one.
struct CurrentLimits {
    values: LimitValues,
    of_router: Option<Limits>,
}

impl LimitValues {
    /// Checks limits of Python. An error names the option.
    pub(super) fn check(
        py: Python<'_>,
        max_body_bytes: usize,
        request_timeout: f64,
        rate_limit: Option<(u32, f64)>,
    ) -> PyResult<Self> {
        let rate_limit = rate_limit.map(|(requests, per)| {
            let limit = RateLimit::new(requests, seconds(py, "rate_limit", per)?);
            limit.map_err(|error| invalid(py, "rate_limit", &error))
        });
        Ok(Self {
            max_body_bytes,
            request_timeout: seconds(py, "request_timeout", request_timeout)?,
            rate_limit: rate_limit.transpose()?,
        })
    }

    /// Sets the limits of a router. A rate that has not changed keeps its counters.
    fn apply(&self, limits: &Limits, before: &Self) {
        limits.set_max_body_bytes(self.max_body_bytes);
        limits.set_request_timeout(self.request_timeout);
        if self.rate_limit != before.rate_limit {
            limits.set_rate_limit(self.rate_limit);
        }
    }
}

/// An issuer of tokens, from which an authenticator is created for each router.
struct Issuer {
    /// The issuer that tokens name.
    issuer: String,
    /// The audience that tokens name.
    audience: String,
    keys: Keys,
    /// How much clocks may differ.
    leeway: Duration,
    /// The permissions of roles.
    roles: Vec<(String, Permissions)>,
}

/// Where the keys of an issuer come from.
enum Keys {
    File(FileKeys),
    Url(UrlKeys),
    Discovery(OidcKeys),
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
    keys: Option<String>,
    leeway: f64,
    roles: HashMap<String, Vec<String>>,
}

impl ApiArguments {
    /// Health checks without an API, and `/metrics` if wanted.
    pub(super) fn health_alone(has_metrics: bool) -> Self {
        Self {
            serial: next_serial(),
            prefix: String::new(),
            has_health: true,
            has_metrics,
            keys: Vec::new(),
            issuers: Vec::new(),
            allows_loopback: false,
            stream_lifetime: Duration::ZERO,
            cors: None,
            limits: None,
        }
    }

    /// Whether there is an API.
    pub(super) fn has_api(&self) -> bool {
        self.limits.is_some()
    }

    /// Sets limits of requests, including requests in progress.
    pub(super) fn set_limits(&self, values: LimitValues) {
        let Some(limits) = &self.limits else { return };
        let mut limits = limits.lock();
        if let Some(of_router) = &limits.of_router {
            values.apply(of_router, &limits.values);
        }
        limits.values = values;
    }

    /// The options of a router; `None` if there is no API.
    pub(super) fn options(&self) -> Option<ApiOptions> {
        let mut limits = self.limits.as_ref()?.lock();
        let options = self.options_with(&limits.values);
        // Clones share the limits.
        limits.of_router = Some(options.limits());
        Some(options)
    }

    fn options_with(&self, limits: &LimitValues) -> ApiOptions {
        let mut options = ApiOptions::new()
            .with_max_body_bytes(limits.max_body_bytes)
            .with_request_timeout(limits.request_timeout)
            .with_stream_lifetime(self.stream_lifetime);
        if let Some(cors) = &self.cors {
            options = options.with_cors(cors.clone());
        }
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
        match limits.rate_limit {
            Some(limit) => options.with_rate_limit(limit),
            None => options,
        }
    }
}

/// Distinguishes the options of a process.
fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Issuer {
    /// The issuer for an authenticator.
    fn create(&self) -> JwtIssuer {
        let (name, audience) = (&self.issuer, &self.audience);
        let issuer = match &self.keys {
            Keys::File(keys) => JwtIssuer::new(name, audience, keys.clone()),
            Keys::Url(keys) => JwtIssuer::new(name, audience, keys.clone()),
            Keys::Discovery(keys) => JwtIssuer::new(name, audience, keys.clone()),
        };
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
    pub(super) metrics: bool,
    pub(super) keys: Vec<KeyArg>,
    pub(super) issuers: Vec<IssuerArg>,
    pub(super) loopback: bool,
    pub(super) max_body_bytes: usize,
    pub(super) request_timeout: f64,
    pub(super) stream_lifetime: f64,
    pub(super) rate_limit: Option<(u32, f64)>,
    pub(super) cors_origins: Vec<String>,
}

impl RawOptions {
    /// Checks the options. An error names the option.
    pub(super) fn check(self, py: Python<'_>) -> PyResult<ApiArguments> {
        let (size, timeout) = (self.max_body_bytes, self.request_timeout);
        let values = LimitValues::check(py, size, timeout, self.rate_limit)?;
        let keys = self.keys.into_iter().map(|key| key.create(py));
        let issuers = self.issuers.into_iter().map(|issuer| issuer.create(py));
        Ok(ApiArguments {
            serial: next_serial(),
            prefix: checked_prefix(py, self.prefix)?,
            has_health: self.health,
            has_metrics: self.metrics,
            keys: keys.collect::<PyResult<_>>()?,
            issuers: issuers.collect::<PyResult<_>>()?,
            allows_loopback: self.loopback,
            stream_lifetime: seconds(py, "stream_lifetime", self.stream_lifetime)?,
            cors: cors(py, &self.cors_origins)?,
            limits: Some(Mutex::new(CurrentLimits { values, of_router: None })),
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
        let keys = match self.keys {
            None => OidcKeys::new(&self.issuer).map(Keys::Discovery),
            Some(keys) if keys.contains("://") => UrlKeys::new(&keys).map(Keys::Url),
            Some(keys) => Ok(Keys::File(FileKeys::new(keys))),
        };
        Ok(Issuer {
            issuer: self.issuer,
            audience: self.audience,
            keys: keys.map_err(|error| invalid(py, "TokenIssuer", &error))?,
            leeway: seconds(py, "leeway", self.leeway)?,
            roles: roles.collect::<PyResult<_>>()?,
        })
    }
}

/// The permission of web pages; `None` if there are no origins.
fn cors(py: Python<'_>, origins: &[String]) -> PyResult<Option<Cors>> {
    if origins.is_empty() {
        return Ok(None);
    }
    let cors = Cors::new(origins.iter().map(String::as_str));
    cors.map(Some).map_err(|error| invalid(py, "cors_origins", &error))
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
    Err(ErrorInfo::new("runtime", codes::INVALID_CONFIGURATION, message).into_error(py))
}

/// The error of an option.
fn invalid(py: Python<'_>, name: &str, error: &dyn std::error::Error) -> PyErr {
    let message = format!("{name}: {error}");
    ErrorInfo::new("runtime", codes::INVALID_CONFIGURATION, message).into_error(py)
}

/// The hash of an API key.
#[pyfunction]
pub(crate) fn hash_api_key(key: &str) -> String {
    ApiKeyHash::of(key).to_string()
}
