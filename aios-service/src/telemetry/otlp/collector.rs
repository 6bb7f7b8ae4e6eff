use std::{collections::BTreeMap, fmt};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use reqwest::Url;

use super::{CollectorError, http};
use crate::{config::Secret, https::http_client};

/// A collector that takes traces and metrics by OTLP over HTTP.
///
/// ```no_run
/// use aios_service::telemetry::{otlp::{Collector, CollectorError}, traces::Span};
///
/// # async fn example(spans: &[Span]) -> Result<(), CollectorError> {
/// let collector = Collector::new("http://collector:4318", "orders")?;
/// collector.send(spans).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Collector {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    service: String,
}

/// What is sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// The path at a collector.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// What a collector says about a request that it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// How many spans or data points of the request it has rejected.
    pub rejected: u64,
    /// The reason, or a warning if nothing was rejected.
    pub message: Option<String>,
}

impl Collector {
    /// A collector at a URL: `http://host:4318`, to which `/v1/traces` or `/v1/metrics` is added, or the
    /// whole URL with its path. `service` is the name of the service in traces and metrics.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if the URL is not one of HTTP.
    pub fn new(url: &str, service: impl Into<String>) -> Result<Self, CollectorError> {
        let invalid = |reason: String| CollectorError::InvalidConfiguration { reason };
        let url = Url::parse(url).map_err(|error| invalid(format!("the URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid("the URL must begin with http:// or https://".to_owned()));
        }
        let http = http_client().map_err(invalid)?;
        Ok(Self { http, url, headers: HeaderMap::new(), service: service.into() })
    }

    /// Adds a header to every request, such as the key of a hosted collector.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if this is not a header. The error does not contain the
    /// value.
    pub fn try_with_header(mut self, name: &str, value: &str) -> Result<Self, CollectorError> {
        let invalid = || CollectorError::InvalidConfiguration {
            reason: format!("{name:?} and its value are not a header of HTTP"),
        };
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Adds the headers of settings, such as `telemetry.traces.headers`: a `_` in a name stands for `-`.
    ///
    /// # Errors
    ///
    /// Those of [`try_with_header`](Self::try_with_header).
    pub fn try_with_secret_headers(
        self,
        headers: &BTreeMap<String, Secret>,
    ) -> Result<Self, CollectorError> {
        headers.iter().try_fold(self, |collector, (name, value)| {
            collector.try_with_header(&name.replace('_', "-"), value.expose())
        })
    }

    /// The name of the service.
    pub(in crate::telemetry) fn service(&self) -> &str {
        &self.service
    }

    /// Sends a message once, and returns the answer.
    ///
    /// # Errors
    ///
    /// [`CollectorError::Unreachable`] if there is no answer within 10 s, and
    /// [`CollectorError::Refused`] if the answer is not a success.
    pub(in crate::telemetry) async fn export<A: Message + Default>(
        &self,
        signal: Signal,
        message: &impl Message,
    ) -> Result<A, CollectorError> {
        let mut url = self.url.clone();
        if matches!(url.path(), "" | "/") {
            url.set_path(signal.path());
        }
        http::post(&self.http, &url, &self.headers, message).await
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Collector")
            .field("url", &http::shown(&self.url))
            .finish_non_exhaustive()
    }
}

impl Receipt {
    /// Longest message that is kept, in characters.
    const MAX_MESSAGE: usize = 1000;

    pub(in crate::telemetry) fn new(rejected: i64, message: &str) -> Self {
        let message = message.trim();
        let message = (!message.is_empty()).then(|| message.chars().take(Self::MAX_MESSAGE));
        Self {
            rejected: u64::try_from(rejected).unwrap_or_default(),
            message: message.map(Iterator::collect),
        }
    }
}
