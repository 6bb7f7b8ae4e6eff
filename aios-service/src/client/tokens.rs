//! Tokens of an OAuth2 token endpoint (RFC 6749), renewed before they expire.
//!
//! One token is kept for all clones of a client.
//!
//! | event | effect |
//! |---|---|
//! | no token, or four fifths of its lifetime have passed | the next request gets a new one first |
//! | the answer has no `expires_in`, or none that is a number or its text | a lifetime of 60 s is assumed |
//! | several requests need a token | one of them requests it, the others wait for the lock |
//! | the service answers 401 | the token is forgotten, and the request is sent once more with a new one |
//! | the endpoint refuses the grant | `UNAUTHENTICATED`, not repeated |
//! | the endpoint fails, is busy (429) or cannot be reached | an error that is repeated like one of the service |
//!
//! A refused token is only forgotten if it is still the latest: another request may have renewed it
//! already.

use std::{fmt, time::Duration};

use aios_core::catalog::codes;
use axum::http::{HeaderValue, header};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    ClientError,
    response::{read, retry_after, unreachable},
};

/// Lifetime of a token whose answer has none.
const LIFETIME: Duration = Duration::from_secs(60);

/// How a client gets tokens from a token endpoint, such as that of an OIDC provider or of
/// [`TokenEndpoint`](crate::auth): pass it to
/// [`ClientOptions::with_token_grant`](super::ClientOptions::with_token_grant).
///
/// # Examples
///
/// A client of a service that issues tokens itself, as in development:
///
/// ```
/// # use std::sync::Arc;
/// #
/// # use aios_agents::prelude::*;
/// use aios_service::{
///     auth::{Permissions, TokenEndpoint},
///     client::{Client, ClientOptions, TokenGrant},
///     http::{ApiOptions, Shutdown, api, serve},
/// };
/// use axum::Router;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .start()
/// #     .await?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let base = format!("http://{}", listener.local_addr()?);
/// let issuer = TokenEndpoint::new(format!("{base}/oauth"), "tea-shop")?
///     .with_client("ci", "secret", Permissions::parse(["runs:*"])?);
/// let options = ApiOptions::new().with_authenticator(issuer.tokens());
/// let router = Router::new()
///     .nest("/oauth", issuer.router())
///     .nest("/api/v1", api(Arc::new(runtime), options));
/// tokio::spawn(serve(listener, router, Shutdown::new()));
///
/// let grant = TokenGrant::client_credentials(format!("{base}/oauth/token"), "ci", "secret")
///     .with_scope("runs:read");
/// let client =
///     Client::new(&format!("{base}/api/v1"), ClientOptions::new().with_token_grant(grant))?;
/// assert_eq!(client.me().await?.permissions, ["runs:read"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenGrant {
    /// Of the token endpoint.
    url: String,
    /// The fields of the request, with the secret.
    form: Vec<(&'static str, String)>,
}

impl TokenGrant {
    /// Gets tokens for a client: `grant_type=client_credentials`. `url` is that of the token endpoint.
    #[must_use]
    pub fn client_credentials(
        url: impl Into<String>,
        client_id: impl Into<String>,
        secret: impl Into<String>,
    ) -> Self {
        let form = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("client_id", client_id.into()),
            ("client_secret", secret.into()),
        ];
        Self { url: url.into(), form }
    }

    /// Gets tokens for a user of an endpoint for development: `grant_type=password`.
    #[must_use]
    pub fn password(
        url: impl Into<String>,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        let form = vec![
            ("grant_type", "password".to_owned()),
            ("username", user.into()),
            ("password", password.into()),
        ];
        Self { url: url.into(), form }
    }

    /// Asks for these permissions alone, separated by spaces.
    #[must_use]
    pub fn with_scope(self, scope: impl Into<String>) -> Self {
        self.with_parameter("scope", scope)
    }

    /// Adds a parameter that the provider needs, such as `audience` or `resource`.
    ///
    /// The same name can be added several times, as `resource` of RFC 8707.
    #[must_use]
    pub fn with_parameter(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.form.push((name, value.into()));
        self
    }
}

/// Secrets are not shown.
impl fmt::Debug for TokenGrant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenGrant").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The latest token of a grant.
pub(super) struct Tokens {
    /// Of the token endpoint.
    url: Url,
    form: Vec<(&'static str, String)>,
    /// Locked while a token is requested, so that many callers cause one request.
    latest: Mutex<Option<Token>>,
}

/// A token that was granted.
struct Token {
    /// The value of `Authorization`, marked as sensitive.
    header: HeaderValue,
    /// When another one is asked for, on the clock of the client.
    renew_at: Duration,
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: Value,
}

/// An error of a token endpoint.
#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    /// No token yet.
    pub(super) fn new(grant: TokenGrant) -> Result<Self, ClientError> {
        let url = Url::parse(&grant.url).map_err(|error| ClientError::InvalidConfiguration {
            reason: format!("the URL of the token endpoint: {error}"),
        })?;
        Ok(Self { url, form: grant.form, latest: Mutex::default() })
    }

    /// The header with a token that is valid now. Callers wait while one of them asks for a new one.
    pub(super) async fn header(
        &self,
        http: &reqwest::Client,
        now: Duration,
    ) -> Result<HeaderValue, ClientError> {
        let mut latest = self.latest.lock().await;
        if let Some(token) = latest.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.header.clone());
        }
        let token = self.request(http, now).await?;
        Ok(latest.insert(token).header.clone())
    }

    /// Forgets a token that the service has refused.
    pub(super) async fn forget(&self, header: &HeaderValue) {
        let mut latest = self.latest.lock().await;
        if latest.as_ref().is_some_and(|token| token.header == *header) {
            *latest = None;
        }
    }

    /// Asks for a token.
    async fn request(&self, http: &reqwest::Client, now: Duration) -> Result<Token, ClientError> {
        let mut form = Url::parse("x:").map_err(|error| invalid(&error))?;
        form.query_pairs_mut().extend_pairs(&self.form);
        let form = form.query().unwrap_or_default().to_owned();
        let sent = http
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form);
        let response = sent.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = read(response, &None).await?;
        if !status.is_success() {
            return Err(refused(status.as_u16(), &body, retry_after));
        }
        let granted: Granted = serde_json::from_slice(&body).map_err(|error| invalid(&error))?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", granted.access_token))
            .map_err(|error| invalid(&error))?;
        header.set_sensitive(true);
        // A token must not expire on its way.
        let used_for = lifetime(&granted.expires_in) / 5 * 4;
        Ok(Token { header, renew_at: now.saturating_add(used_for) })
    }
}

/// The lifetime of a token. It is a hint, which some issuers write as a text or with a fraction.
fn lifetime(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    lifetime.unwrap_or(LIFETIME)
}

/// The error of a refused grant. A failure of the endpoint may be repeated, a refusal not.
fn refused(status: u16, body: &[u8], retry_after: Option<Duration>) -> ClientError {
    let refused = serde_json::from_slice::<Refused>(body);
    let message = match refused {
        Ok(Refused { error, error_description }) => {
            format!("the token endpoint refuses the grant: {error}: {error_description}")
        }
        Err(_) => format!("the token endpoint answers with the status {status}"),
    };
    let is_away = status == 429 || status >= 500;
    let code = if is_away { codes::SERVICE_UNREACHABLE } else { codes::UNAUTHENTICATED };
    let (code, details) = (code.to_owned(), Value::Null);
    ClientError::Service { status, code, message, details, request_id: None, retry_after }
}

/// The error of an answer that is not one of a token endpoint.
fn invalid(error: &dyn fmt::Display) -> ClientError {
    let reason = format!("the answer of the token endpoint: {error}");
    ClientError::InvalidResponse { reason, request_id: None }
}
