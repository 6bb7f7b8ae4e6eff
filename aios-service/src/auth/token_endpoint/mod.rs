//! An issuer of tokens for development, so that a service works without a provider.
//!
//! | route | grants or shows |
//! |---|---|
//! | `POST /token` | a token for a client or a user, by a form (RFC 6749) |
//! | `GET /jwks.json` | the public key of the tokens |
//! | `GET /.well-known/openid-configuration` | where the other two are, for `OidcKeys` and clients |
//!
//! Every route is for callers on this machine, because nothing protects a secret from being
//! guessed. The checks are those of [`Anonymous::on_loopback`](super::Anonymous::on_loopback).

mod accounts;
mod grant;
mod signer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State, connect_info::MockConnectInfo},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tracing::warn;

pub use self::signer::InvalidSigningKey;
use self::{accounts::Accounts, grant::Refusal, signer::Signer};
use super::{JwtIssuer, JwtTokens, Permissions, StaticKeys, anonymous::names_loopback};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 8 * 1024;

/// An OAuth2 issuer of tokens for development and tests: its clients and users are part of the program.
///
/// It grants access tokens for client credentials and for passwords (RFC 6749), as JSON Web Tokens of
/// an Ed25519 key that is made at the start. Only callers on the same machine are answered. It has no
/// registration, no refresh tokens and no protection against guessing: use a real provider in
/// production.
///
/// [`router`](Self::router) has its routes, and [`tokens`](Self::tokens) the authenticator that
/// accepts its tokens:
///
/// ```
/// use aios_service::{
///     auth::{Permissions, TokenEndpoint},
///     http::ApiOptions,
/// };
/// use axum::Router;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = TokenEndpoint::new("http://127.0.0.1:8080/oauth", "tea-shop")?
///     .with_client("console", "the secret of the console", Permissions::parse(["runs:*"])?)
///     .with_user("ada", "the password of Ada", Permissions::all());
/// let options = ApiOptions::new().with_authenticator(issuer.tokens());
/// let router: Router = Router::new().nest("/oauth", issuer.router());
/// # drop((options, router));
/// # Ok(())
/// # }
/// ```
///
/// ```text
/// POST /oauth/token  grant_type=client_credentials&client_id=console&client_secret=…&scope=runs:read
/// 200  {"access_token": "eyJ…", "token_type": "Bearer", "expires_in": 900, "scope": "runs:read"}
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(docsrs, doc(cfg(feature = "token-endpoint")))]
pub struct TokenEndpoint {
    /// The value of `iss`.
    issuer: String,
    /// The value of `aud`.
    audience: String,
    /// 1 s to 1 h.
    lifetime: Duration,
    /// Programs.
    clients: Accounts,
    /// People.
    users: Accounts,
    /// The key.
    signer: Arc<Signer>,
    /// Times of tokens.
    clock: Arc<dyn Clock>,
    /// Whether callers on other machines are answered.
    is_anywhere: bool,
}

impl TokenEndpoint {
    /// Default of [`with_lifetime`](Self::with_lifetime).
    pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(900);

    /// Creates an issuer without clients and users, with a new key. `issuer` is the URL at which the
    /// [router](Self::router) is mounted, and becomes `iss` of the tokens; `audience` becomes `aud`.
    ///
    /// # Errors
    ///
    /// [`InvalidSigningKey`] if the system has no random numbers.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
    ) -> Result<Self, InvalidSigningKey> {
        let accounts = Accounts::new()?;
        Ok(Self {
            issuer: issuer.into(),
            audience: audience.into(),
            lifetime: Self::DEFAULT_LIFETIME,
            clients: accounts.clone(),
            users: accounts,
            signer: Arc::new(Signer::generate()?),
            clock: Arc::new(SystemClock),
            is_anywhere: false,
        })
    }

    /// Sets the Ed25519 key that signs the tokens, in PKCS#8 format (DER), so that tokens are valid
    /// beyond a restart.
    ///
    /// # Errors
    ///
    /// [`InvalidSigningKey`] if it is not such a key.
    ///
    /// # Examples
    ///
    /// A key that survives a restart, made by `openssl genpkey -algorithm ed25519 -outform DER`:
    ///
    /// ```no_run
    /// use aios_service::auth::TokenEndpoint;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let issuer = TokenEndpoint::new("http://127.0.0.1:8080/oauth", "tea-shop")?
    ///     .try_with_key(&std::fs::read("development.key")?)?;
    /// # drop(issuer);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_with_key(mut self, pkcs8: &[u8]) -> Result<Self, InvalidSigningKey> {
        self.signer = Arc::new(Signer::from_pkcs8(pkcs8)?);
        Ok(self)
    }

    /// Adds a client, which gets tokens for its id and secret. The secret is kept as a hash.
    ///
    /// A token has the permissions that the request names in `scope`, or all of these. Adding an id
    /// again replaces its secret and permissions.
    #[must_use]
    pub fn with_client(
        mut self,
        id: impl Into<String>,
        secret: &str,
        permissions: Permissions,
    ) -> Self {
        self.clients.add(id.into(), secret, permissions);
        self
    }

    /// Adds a user, who gets tokens for the name and password. The password is kept as a hash.
    #[must_use]
    pub fn with_user(
        mut self,
        name: impl Into<String>,
        password: &str,
        permissions: Permissions,
    ) -> Self {
        self.users.add(name.into(), password, permissions);
        self
    }

    /// Sets how long a token is valid, 1 s to 1 h. The default is 15 minutes.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        self
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Answers callers on other machines too, for example in a network of containers.
    /// [`router`](Self::router) logs a warning then.
    #[must_use]
    pub fn with_access_from_anywhere(mut self) -> Self {
        self.is_anywhere = true;
        self
    }

    /// The authenticator that accepts the tokens of this issuer.
    ///
    /// It has a copy of the public key, so set the key with [`try_with_key`](Self::try_with_key)
    /// before. It works without the [router](Self::router): the key is not fetched.
    #[must_use]
    pub fn tokens(&self) -> JwtTokens {
        let keys = StaticKeys::new(self.key_set().to_string());
        JwtTokens::new([JwtIssuer::new(&self.issuer, &self.audience, keys)])
    }

    /// The routes: `/token`, `/jwks.json` and `/.well-known/openid-configuration`. Errors of `/token`
    /// have the shape of RFC 6749.
    pub fn router(self) -> Router {
        if self.is_anywhere {
            let issuer = &self.issuer;
            warn!(issuer, "the token endpoint for development answers callers on every machine");
        }
        let endpoint = Arc::new(self);
        Router::new()
            .route("/token", post(token))
            .route("/jwks.json", get(key_set))
            .route("/.well-known/openid-configuration", get(discovery))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(Arc::clone(&endpoint), refuse_strangers))
            .with_state(endpoint)
    }

    /// The public key, as a key set.
    fn key_set(&self) -> Value {
        json!({ "keys": [self.signer.jwk()] })
    }
}

/// The state of the routes.
type Endpoint = State<Arc<TokenEndpoint>>;

/// `/token`.
async fn token(State(endpoint): Endpoint, headers: HeaderMap, body: Bytes) -> Response {
    match endpoint.grant(&headers, &body) {
        Ok(token) => json(StatusCode::OK, &token),
        Err(refusal) => refusal.into_response(),
    }
}

/// `/jwks.json`.
async fn key_set(State(endpoint): Endpoint) -> Response {
    json(StatusCode::OK, &endpoint.key_set())
}

/// The discovery document of OpenID Connect.
async fn discovery(State(endpoint): Endpoint) -> Response {
    let issuer = &endpoint.issuer;
    let base = issuer.trim_end_matches('/');
    json(
        StatusCode::OK,
        &json!({
            "issuer": issuer,
            "token_endpoint": format!("{base}/token"),
            "jwks_uri": format!("{base}/jwks.json"),
            "grant_types_supported": ["client_credentials", "password"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
        }),
    )
}

/// Admits callers on this machine, and no pages from other hosts.
async fn refuse_strangers(State(endpoint): Endpoint, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let peer = peer.or_else(|| extensions.get::<MockConnectInfo<SocketAddr>>().map(|peer| peer.0));
    let is_local = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
        && names_loopback(request.headers());
    match is_local || endpoint.is_anywhere {
        true => next.run(request).await,
        false => Refusal::Stranger.into_response(),
    }
}

/// A JSON answer that no cache keeps.
fn json(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.to_string()).into_response()
}
