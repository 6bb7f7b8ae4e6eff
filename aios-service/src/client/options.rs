//! Options of the client.
//!
//! The options are not checked here. `Client::new` checks them all, so setters cannot fail.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::{
    clock::{Clock, SystemClock},
    retry::RetryPolicy,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{ClientError, TokenGrant};

/// Options of a [`Client`](super::Client).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::client::{Client, ClientOptions, TokenGrant};
///
/// # fn main() -> Result<(), aios_service::client::ClientError> {
/// let grant = TokenGrant::client_credentials("https://id.example/token", "ci", "secret")
///     .with_scope("runs:start runs:read");
/// let options = ClientOptions::new().with_token_grant(grant).with_timeout(Duration::from_secs(10));
/// let client = Client::new("https://aios.example", options)?;
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// A bearer token that does not change.
    token: Option<String>,
    /// An API key.
    api_key: Option<String>,
    /// How tokens are obtained; overrides `token`.
    pub(super) grant: Option<TokenGrant>,
    /// Of each attempt.
    pub(super) timeout: Duration,
    /// How often requests are repeated.
    pub(super) retry: RetryPolicy,
    /// The clock of timeouts and pauses.
    pub(super) clock: Arc<dyn Clock>,
}

impl ClientOptions {
    /// Default of [`with_timeout`](Self::with_timeout).
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Creates the default options: no credentials.
    #[must_use]
    pub fn new() -> Self {
        let delays = (Duration::from_millis(200), Duration::from_secs(5));
        Self {
            token: None,
            api_key: None,
            grant: None,
            timeout: Self::DEFAULT_TIMEOUT,
            retry: RetryPolicy::new().with_delays(delays.0, delays.1),
            clock: Arc::new(SystemClock),
        }
    }

    /// Sends a bearer token with every request.
    ///
    /// The token is not renewed. Use [`with_token_grant`](Self::with_token_grant) for tokens that
    /// expire.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends a bearer token that a token endpoint grants, and renews it before it expires or when the
    /// service refuses it. [`with_token`](Self::with_token) is then without effect.
    #[must_use]
    pub fn with_token_grant(mut self, grant: TokenGrant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Sends an API key with every request.
    ///
    /// A service checks its authenticators in turn, so a request with both a key and a token is
    /// decided by the one that comes first there.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets how long each attempt of a request may take, from the connection to the end of the
    /// response; at least 1 ms. The default is 30 s. Waiting for the result of a run adds the time that
    /// the service is asked to wait; an event stream has this time for the beginning of its response.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Sets how often and with what pauses requests are repeated. The default makes 5 attempts, 200 ms
    /// after the first failure, doubling up to 5 s. Codes in
    /// [`non_retryable`](RetryPolicy::non_retryable) are not repeated.
    ///
    /// While the service says that an earlier attempt of a `POST` is being handled (`REQUEST_IN_PROGRESS`),
    /// attempts are not counted, unless the policy has only one. That ends with the earlier attempt, and at
    /// the latest 10 s after the time that a request may take, 40 s by default: so much later, the service
    /// lets a request be repeated whose process was killed.
    ///
    /// # Examples
    ///
    /// A client in a request handler, which prefers a fast error, and one in a job, which waits for
    /// a restart of the service. An attempt whose outcome is unknown is repeated by both, except
    /// for the calls that say otherwise:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_core::retry::RetryPolicy;
    /// use aios_service::client::ClientOptions;
    ///
    /// let handler = ClientOptions::new()
    ///     .with_timeout(Duration::from_secs(2))
    ///     .with_retry(RetryPolicy::never());
    /// let job = ClientOptions::new().with_retry(
    ///     RetryPolicy::new()
    ///         .with_max_attempts(50)
    ///         .with_delays(Duration::from_millis(200), Duration::from_secs(30)),
    /// );
    /// # drop((handler, job));
    /// ```
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The headers of every request.
    ///
    /// The values are marked as sensitive, so that neither the HTTP library nor its `Debug` output
    /// shows them.
    pub(super) fn headers(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        let token = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let api_key = HeaderName::from_static("x-api-key");
        for (name, secret) in [(header::AUTHORIZATION, token), (api_key, self.api_key.clone())] {
            let Some(secret) = secret else { continue };
            let mut value = HeaderValue::try_from(secret).map_err(|_| {
                let reason = format!("the credential for the header {name} has invalid characters");
                ClientError::InvalidConfiguration { reason }
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        Ok(headers)
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Credentials are not shown.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientOptions")
            .field("has_token", &self.token.is_some())
            .field("grant", &self.grant)
            .field("has_api_key", &self.api_key.is_some())
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
