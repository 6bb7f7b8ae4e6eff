//! A collector: its address, its protocol, and the requests to it.

use std::{collections::BTreeMap, fmt};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use reqwest::Url;

use super::{CollectorError, http};
#[cfg(feature = "otlp-grpc")]
use crate::https::http2_client;
use crate::{
    config::{Protocol, Secret},
    https::http_client,
};

/// Headers that are not those of a user.
const RESERVED: [&str; 6] =
    ["connection", "content-length", "content-type", "host", "te", "transfer-encoding"];

/// A collector that accepts traces and metrics by OTLP, over HTTP unless its protocol is gRPC.
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
    /// Speaks HTTP/2 only if the protocol is gRPC.
    http: reqwest::Client,
    /// Without a path, the one of the signal is added.
    url: Url,
    /// Of the user; marked as sensitive.
    headers: HeaderMap,
    /// Name of the service.
    service: String,
    /// How messages are sent.
    protocol: Protocol,
}

/// The kind of data that is sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) enum Signal {
    /// Spans.
    Traces,
    /// Values.
    Metrics,
}

impl Signal {
    /// The path at a collector.
    fn path(self, protocol: Protocol) -> &'static str {
        match (protocol, self) {
            (Protocol::HttpProtobuf, Self::Traces) => "v1/traces",
            (Protocol::HttpProtobuf, Self::Metrics) => "v1/metrics",
            (Protocol::Grpc, Self::Traces) => {
                "opentelemetry.proto.collector.trace.v1.TraceService/Export"
            }
            (Protocol::Grpc, Self::Metrics) => {
                "opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
            }
        }
    }
}

/// The answer of a collector to a request that it has accepted.
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
        let protocol = Protocol::HttpProtobuf;
        Ok(Self { http, url, headers: HeaderMap::new(), service: service.into(), protocol })
    }

    /// Sets the protocol, instead of protobuf over HTTP. With gRPC, for which this crate needs the feature
    /// `otlp-grpc`, the URL is `http://host:4317` or `https://host:4317`, without a path.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if the protocol is gRPC and the URL has a path, or the
    /// program is built without the feature `otlp-grpc`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::{
    ///     config::Protocol,
    ///     telemetry::otlp::{Collector, CollectorError},
    /// };
    ///
    /// # fn main() -> Result<(), CollectorError> {
    /// let hosted = Collector::new("https://otlp.example.com/otlp", "orders")?
    ///     .try_with_header("x-api-key", "s3cr3t")?;
    /// assert!(!format!("{hosted:?}").contains("s3cr3t"));
    ///
    /// // gRPC has no path.
    /// let url = "http://collector:4317/v1/traces";
    /// assert!(Collector::new(url, "orders")?.try_with_protocol(Protocol::Grpc).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_with_protocol(mut self, protocol: Protocol) -> Result<Self, CollectorError> {
        let invalid = |reason: String| CollectorError::InvalidConfiguration { reason };
        if protocol == Protocol::Grpc && !matches!(self.url.path(), "" | "/") {
            let reason =
                "the URL of a collector of gRPC has no path, such as http://collector:4317";
            return Err(invalid(reason.to_owned()));
        }
        self.http = match protocol {
            Protocol::HttpProtobuf => http_client(),
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => http2_client(),
            #[cfg(not(feature = "otlp-grpc"))]
            Protocol::Grpc => Err("the protocol is grpc, and the program is built without the \
                                   feature `otlp-grpc` of aios-service"
                .to_owned()),
        }
        .map_err(invalid)?;
        self.protocol = protocol;
        Ok(self)
    }

    /// Adds a header to every request, such as the key of a hosted collector.
    ///
    /// # Errors
    ///
    /// [`CollectorError::InvalidConfiguration`] if this is not a header, or one that the protocol sets
    /// itself, such as `content-type`. The error does not contain the value.
    pub fn try_with_header(mut self, name: &str, value: &str) -> Result<Self, CollectorError> {
        let invalid = || CollectorError::InvalidConfiguration {
            reason: format!("{name:?} and its value are not a header of HTTP"),
        };
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("grpc-") {
            let reason = format!("the header {name} is set by the protocol; leave it out");
            return Err(CollectorError::InvalidConfiguration { reason });
        }
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
    /// [`CollectorError::Unreachable`] if there is no answer within 10 s,
    /// [`CollectorError::Refused`] or [`CollectorError::GrpcStatus`] if the answer is not a success.
    pub(in crate::telemetry) async fn export<A: Message + Default>(
        &self,
        signal: Signal,
        message: &impl Message,
    ) -> Result<A, CollectorError> {
        let mut url = self.url.clone();
        if matches!(url.path(), "" | "/") {
            url.set_path(signal.path(self.protocol));
        }
        match self.protocol {
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => super::grpc::call(&self.http, &url, &self.headers, message).await,
            _ => http::post(&self.http, &url, &self.headers, message).await,
        }
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
