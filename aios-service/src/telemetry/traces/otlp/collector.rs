use std::{fmt, time::Duration};

use aios_core::Chain;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::{Response, Url};

use super::message::request;
use crate::{https::http_client, telemetry::traces::Span};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The path of traces at a collector.
const PATH: &str = "v1/traces";
/// How much of an answer is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends spans to a collector of traces by OTLP over HTTP.
///
/// ```no_run
/// use aios_service::telemetry::traces::{Collector, Span};
///
/// # async fn example(spans: &[Span]) -> Result<(), aios_service::telemetry::traces::CollectorError> {
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

impl Collector {
    /// A collector at a URL: `http://host:4318`, to which `/v1/traces` is added, or the whole URL of its
    /// traces. `service` is the name of the service in the traces.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if the URL is not one of HTTP.
    pub fn new(url: &str, service: impl Into<String>) -> Result<Self, CollectorError> {
        let invalid = |reason: String| CollectorError::InvalidConfiguration { reason };
        let mut url = Url::parse(url).map_err(|error| invalid(format!("the URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid("the URL must begin with http:// or https://".to_owned()));
        }
        if matches!(url.path(), "" | "/") {
            url.set_path(PATH);
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

    /// Sends spans once. Returns how many of them the collector rejects although it takes the request.
    ///
    /// # Errors
    ///
    /// [`CollectorError::Unreachable`] if there is no answer within 10 s, and
    /// [`CollectorError::Refused`] if the answer is not a success.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the spans. Spans that are sent again have the same ids.
    pub async fn send(&self, spans: &[Span]) -> Result<u64, CollectorError> {
        let unreachable = |error: &reqwest::Error| CollectorError::Unreachable {
            url: shown(&self.url),
            reason: Chain(error).to_string(),
        };
        let sent = self
            .http
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .timeout(TIMEOUT)
            .body(request(&self.service, spans));
        let response = sent.send().await.map_err(|error| unreachable(&error.without_url()))?;
        let status = response.status();
        let body = read(response).await.map_err(|error| unreachable(&error.without_url()))?;
        if !status.is_success() {
            return Err(CollectorError::Refused { url: shown(&self.url), status: status.as_u16() });
        }
        let answer = ExportTraceServiceResponse::decode(&*body).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or_default())
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collector").field("url", &shown(&self.url)).finish_non_exhaustive()
    }
}

/// The URL without credentials and parameters.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Reads the answer. What is longer than an answer can be is left out.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            body.clear();
            break;
        }
    }
    Ok(body)
}

/// Why spans were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// The URL or a header of the collector is invalid.
    #[error("invalid collector of traces: {reason}")]
    #[non_exhaustive]
    InvalidConfiguration {
        /// The reason.
        reason: String,
    },
    /// The collector does not answer.
    #[error("the collector of traces at {url} does not answer: {reason}")]
    #[non_exhaustive]
    Unreachable {
        /// Its URL.
        url: String,
        /// The error of the connection.
        reason: String,
    },
    /// The collector answers that it does not take the spans.
    #[error("the collector of traces at {url} answers with status {status}")]
    #[non_exhaustive]
    Refused {
        /// Its URL.
        url: String,
        /// The status.
        status: u16,
    },
}

impl CollectorError {
    /// Stable name of the error, in [`aios_core::catalog::codes`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfiguration { .. } => "INVALID_CLIENT_CONFIGURATION",
            Self::Unreachable { .. } => "COLLECTOR_UNREACHABLE",
            Self::Refused { .. } => "COLLECTOR_REFUSED",
        }
    }

    /// Whether the collector may take the same spans later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidConfiguration { .. } => false,
            Self::Unreachable { .. } => true,
            // The others of the specification of OTLP do not go away by themselves.
            Self::Refused { status, .. } => [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ]
            .iter()
            .any(|retryable| retryable.as_u16() == *status),
        }
    }
}
