//! Options of the API.

use std::{sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};

use super::{Cors, Limits, RateLimit, Shutdown};
use crate::{
    auth::{Anonymous, Authenticator},
    telemetry::traces::RequestSpans,
};

/// Where the audit events of an API go. Each call that may change something, which is every request
/// with another method than GET, HEAD and OPTIONS, leaves one before it has an effect, and one with its
/// outcome when it has ended.
///
/// Calls without valid credentials and calls above the rate limit leave none, so that no caller can fill
/// the log with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Audit {
    /// Into the log, as the events `system.api.requested` and `system.api.called`, which it causes, with
    /// the data [`ApiCalled`](aios_core::catalog::system::ApiCalled) in the stream
    /// `system/audit/<date>`. The first one shares the commit of the effect, or has an earlier one, so it
    /// is there even if the process is killed before the second one is stored. The answer is sent once the
    /// second one is stored. If it cannot be stored within 5 s, the caller gets the
    /// answer all the same, because the call has had its effect, and the event is written to the log
    /// lines of the process as an error.
    #[default]
    Events,
    /// To the log lines of the process alone, at level `INFO`. This saves a commit for each call.
    LogLines,
}

/// Options of [`api`](super::api).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::{
///     auth::{ApiKey, ApiKeyHash, ApiKeys},
///     http::ApiOptions,
/// };
///
/// let keys = ApiKeys::new([ApiKey::new(ApiKeyHash::of("32 random bytes"), "ci")]);
/// let options = ApiOptions::new()
///     .with_authenticator(keys)
///     .with_max_body_bytes(1 << 20)
///     .with_request_timeout(Duration::from_secs(10));
/// # drop(options);
/// ```
///
/// The router of a public service: callers with a key, a page of another origin, and limits:
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::{
///     auth::ApiKeys,
///     http::{ApiOptions, Audit, Cors, RateLimit, Shutdown},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let shutdown = Shutdown::new(); // the same as for `health` and `serve`
/// let options = ApiOptions::new()
///     .with_authenticator(ApiKeys::new([]))
///     .with_cors(Cors::new(["https://console.example.com"])?)
///     .with_rate_limit(RateLimit::new(50, Duration::from_secs(1))?)
///     .with_audit(Audit::LogLines)
///     .with_shutdown(shutdown.clone());
/// # drop((options, shutdown));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Asked in this order.
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    /// Where the audit events go.
    pub(crate) audit: Audit,
    /// Timestamps, timeouts and expiry.
    pub(crate) clock: Arc<dyn Clock>,
    /// Origins of pages that may use the API.
    pub(crate) cors: Cors,
    /// Shared with the callers of `limits`, unless a setter replaces them.
    pub(crate) limits: Limits,
    /// After which time a client of a stream connects again.
    pub(crate) stream_lifetime: Duration,
    /// Ends streams and waits.
    pub(crate) shutdown: Shutdown,
    /// Takes the spans of requests.
    pub(crate) request_spans: Option<RequestSpans>,
}

impl ApiOptions {
    /// Default of [`with_max_body_bytes`](Self::with_max_body_bytes).
    pub const DEFAULT_MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
    /// Default of [`with_request_timeout`](Self::with_request_timeout).
    pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
    /// Default of [`with_stream_lifetime`](Self::with_stream_lifetime).
    pub const DEFAULT_STREAM_LIFETIME: Duration = Duration::from_secs(600);

    /// Creates the default options: callers on this machine may do everything, and other callers
    /// nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            authenticators: Vec::new(),
            audit: Audit::default(),
            clock: Arc::new(SystemClock),
            cors: Cors::none(),
            limits: Limits::new(Self::DEFAULT_MAX_BODY_BYTES, Self::DEFAULT_REQUEST_TIMEOUT),
            stream_lifetime: Self::DEFAULT_STREAM_LIFETIME,
            shutdown: Shutdown::new(),
            request_spans: None,
        }
    }

    /// Adds an authenticator. Those that were added before are asked first. Without any,
    /// [`Anonymous::on_loopback`] is asked.
    /// The first one that recognises the credentials decides; credentials that it refuses are not
    /// tried with the next one.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticators.push(Arc::new(authenticator));
        self
    }

    /// Sets where the audit events go. The default is [`Audit::Events`].
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = audit;
        self
    }

    /// Sets the other origins whose web pages may use the API. There are none by default.
    #[must_use]
    pub fn with_cors(mut self, cors: Cors) -> Self {
        self.cors = cors;
        self
    }

    /// Sets the clock. The default is the system clock.
    ///
    /// It decides about timestamps of answers, the expiry of credentials, timeouts and the rate
    /// limit. Leases and tasks have the clocks of the store and the runtime.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the size of the largest body of a request that is read, in bytes. The default is 2 MiB.
    ///
    /// A larger body is answered with 413, `BODY_TOO_LARGE`.
    #[must_use]
    pub fn with_max_body_bytes(mut self, bytes: usize) -> Self {
        self.limits = self.limits.detached();
        self.limits.set_max_body_bytes(bytes);
        self
    }

    /// Sets how long a request may take until it is answered with `REQUEST_TIMEOUT`, at least 1 ms.
    /// The default is 30 s. Includes the time in which the client sends the body.
    ///
    /// Streams of events are not limited by it. A request that waits for a result waits for at most
    /// 4/5 of this time.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.detached();
        self.limits.set_request_timeout(timeout);
        self
    }

    /// Sets how long a stream of events lives; then its client connects again and continues after
    /// the last event. A stream also ends with the credentials of its caller. The default is 10
    /// minutes.
    ///
    /// A shorter lifetime spreads the clients sooner over the processes that were started since.
    /// The client of this crate connects again without a gap.
    #[must_use]
    pub fn with_stream_lifetime(mut self, lifetime: Duration) -> Self {
        self.stream_lifetime = lifetime;
        self
    }

    /// Sets how many requests each caller may send. Further ones are answered with 429, `RATE_LIMITED`
    /// and `Retry-After`. There is no limit by default.
    ///
    /// Callers are distinguished by their [subject](crate::auth::Identity::subject) and its scope, so those without
    /// credentials share one limit. Requests that are refused for their credentials are not counted.
    /// Each router counts by itself.
    #[must_use]
    pub fn with_rate_limit(mut self, limit: RateLimit) -> Self {
        self.limits = self.limits.detached();
        self.limits.set_rate_limit(Some(limit));
        self
    }

    /// The limits of requests, to change them while the API runs. The setters of these options give
    /// them new ones, so call this last.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Sets the shutdown with which long requests end: streams of events, and waiting for results.
    /// Pass the one that [`serve`](super::serve) gets.
    ///
    /// Without it, a stream that is open at the shutdown lasts until its lifetime or the drain
    /// timeout of the server ends it.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Gives each request a span of its own, between the one of its caller and those of what it starts. Requests
    /// have none by default.
    ///
    /// The span is in the trace of the caller, or begins a trace. None is made if the trace of the caller is not
    /// recorded. With the feature `otlp`, `RequestExporter` sends the spans to a collector. A
    /// [`Service`](crate::Service) whose settings have `telemetry.traces.endpoint` sends them there, unless its
    /// options have been given another place.
    #[must_use]
    pub fn with_request_spans(mut self, spans: RequestSpans) -> Self {
        self.request_spans = Some(spans);
        self
    }

    /// Completes the options: without an authenticator, callers on this machine may do everything.
    pub(crate) fn finished(mut self) -> Self {
        if self.authenticators.is_empty() {
            self.authenticators.push(Arc::new(Anonymous::on_loopback()));
        }
        self
    }

    /// The longest time for which a request may wait for something, so that it is answered before
    /// it times out.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.limits.request_timeout() * 4 / 5
    }
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self::new()
    }
}
