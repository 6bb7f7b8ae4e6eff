//! Bearer tokens: JSON Web Tokens that an OAuth2 or OpenID Connect issuer has signed.
//!
//! The steps are ordered so that nothing in a token is believed before its signature is verified,
//! except the issuer that it names, which only selects the keys:
//!
//! ```text
//! parse ─► issuer by `iss` ─► keys of that issuer ─► key by `kid` ─► algorithm ─► signature
//!       ─► audience, times ─► subject, permissions
//! ```

mod cache;
mod claims;
#[cfg(feature = "oidc")]
mod https;
mod keys;
#[cfg(feature = "oidc")]
mod remote;
mod source;
mod token;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aios_core::event::Timestamp;
use async_trait::async_trait;

pub use self::source::{FileKeys, KeySetDocument, KeySource, StaticKeys};
use self::{
    cache::{KeyCache, Policy},
    claims::Claims,
    token::Token,
};
#[cfg(feature = "oidc")]
pub use self::{
    https::InvalidIssuerUrl,
    remote::{OidcKeys, UrlKeys},
};
use super::{AuthError, Authenticator, Credentials, Identity, Permission, Permissions};

/// An issuer of tokens, and what its tokens allow.
///
/// A token is accepted only if its signature fits a key of the issuer, with the one algorithm of
/// that key; if `iss` and `aud` are those that are given here; and if `exp`, which every token must
/// have, and `nbf` allow it. The algorithms are RS256, RS384, RS512, PS256, PS384, PS512, ES256,
/// ES384 and EdDSA; `none` and algorithms with a shared secret are never accepted.
///
/// The caller is `sub`. Texts of `scope`, `scp` and `permissions` that are permissions, such as
/// `runs:read`, are granted, and those of the `roles` that [`with_role`](Self::with_role) knows.
///
/// # Keys
///
/// Keys are fetched at the first token and then once in their
/// [lifetime](Self::with_key_lifetime), in the background. A token with an unknown key makes them be
/// fetched at once, but only if the last fetch began a
/// [refresh interval](Self::with_refresh_interval) ago. While the source fails, each failure is
/// logged and known keys stay in use [for a while](Self::with_stale_if_error); a token with an
/// unknown key is then answered with `AUTHENTICATION_UNAVAILABLE`.
///
/// | setting | default | bounds |
/// |---|---|---|
/// | [`with_leeway`](Self::with_leeway) | 30 s | the difference between the clocks of issuer and service |
/// | [`with_refresh_interval`](Self::with_refresh_interval) | 30 s | how often tokens can cause a fetch |
/// | [`with_key_lifetime`](Self::with_key_lifetime) | 10 min | how long a withdrawn key is accepted |
/// | [`with_stale_if_error`](Self::with_stale_if_error) | 24 h | how long the service works without its issuer |
/// | [`with_fetch_timeout`](Self::with_fetch_timeout) | 5 s | how long a token waits for an unknown key |
///
/// # Examples
///
/// An issuer that replaces its keys often, and whose groups are roles:
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::auth::{FileKeys, JwtIssuer, Permissions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = FileKeys::new("/etc/aios/keys.json");
/// let issuer = JwtIssuer::new("https://id.example.com", "aios", keys)
///     .with_key_lifetime(Duration::from_secs(60))
///     .with_stale_if_error(Duration::from_secs(3600))
///     .with_role("viewer", Permissions::parse(["runs:read", "tasks:read"])?)
///     .with_role("admin", Permissions::all());
/// # drop(issuer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct JwtIssuer {
    /// The value that `aud` must contain.
    audience: String,
    /// Tolerated difference between clocks.
    leeway: Duration,
    /// Permissions of each role; other roles grant nothing.
    roles: HashMap<String, Permissions>,
    /// The keys, shared with the tasks that fetch them.
    keys: Arc<KeyCache>,
    /// When keys are fetched.
    policy: Policy,
}

impl JwtIssuer {
    /// Default of [`with_leeway`](Self::with_leeway).
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
    /// Default of [`with_refresh_interval`](Self::with_refresh_interval).
    pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(30);
    /// Default of [`with_key_lifetime`](Self::with_key_lifetime).
    pub const DEFAULT_KEY_LIFETIME: Duration = Duration::from_secs(600);
    /// Default of [`with_stale_if_error`](Self::with_stale_if_error).
    pub const DEFAULT_STALE_IF_ERROR: Duration = Duration::from_secs(24 * 60 * 60);
    /// Default of [`with_fetch_timeout`](Self::with_fetch_timeout).
    pub const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

    /// Creates an issuer from the values that `iss` and `aud` must have, and its keys.
    ///
    /// Nothing is fetched until the first token comes, so a service starts although its issuer is
    /// not reachable. `issuer` is compared with `iss` byte by byte, also a slash at its end.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        source: impl KeySource,
    ) -> Self {
        Self {
            audience: audience.into(),
            leeway: Self::DEFAULT_LEEWAY,
            roles: HashMap::new(),
            keys: Arc::new(KeyCache::new(issuer.into(), source)),
            policy: Policy {
                fetch_timeout: Self::DEFAULT_FETCH_TIMEOUT,
                refresh_interval: Self::DEFAULT_REFRESH_INTERVAL,
                key_lifetime: Self::DEFAULT_KEY_LIFETIME,
                stale_if_error: Self::DEFAULT_STALE_IF_ERROR,
            },
        }
    }

    /// Sets the difference between clocks that `exp` and `nbf` tolerate. The default is 30 s.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets the shortest time between two fetches of the keys. A token with an unknown key makes
    /// the keys be fetched again, but not more often than this, however many such tokens come. The
    /// default is 30 s.
    #[must_use]
    pub fn with_refresh_interval(mut self, interval: Duration) -> Self {
        self.policy.refresh_interval = interval;
        self
    }

    /// Sets how long keys are used until they are fetched again, so that a key that the issuer has
    /// withdrawn is not accepted forever. An issuer can shorten it with `Cache-Control: max-age`, to
    /// no less than the refresh interval. The default is 10 minutes.
    #[must_use]
    pub fn with_key_lifetime(mut self, lifetime: Duration) -> Self {
        self.policy.key_lifetime = lifetime;
        self
    }

    /// Sets how long keys are used beyond their lifetime while they cannot be fetched. After that,
    /// every token is answered with `AUTHENTICATION_UNAVAILABLE`. The default is 24 hours.
    #[must_use]
    pub fn with_stale_if_error(mut self, duration: Duration) -> Self {
        self.policy.stale_if_error = duration;
        self
    }

    /// Sets how long the key source may take to answer. The default is 5 s.
    #[must_use]
    pub fn with_fetch_timeout(mut self, timeout: Duration) -> Self {
        self.policy.fetch_timeout = timeout;
        self
    }

    /// Grants permissions to tokens whose claim `roles` names this role.
    ///
    /// The permissions of all roles of a token are granted together. Setting a role again replaces
    /// its permissions.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>, permissions: Permissions) -> Self {
        self.roles.insert(role.into(), permissions);
        self
    }

    /// Verifies a token that names this issuer.
    async fn check(
        &self,
        token: &Token<'_>,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<Identity, AuthError> {
        let keys = self.keys.keys(token.key_id(), elapsed, self.policy).await?;
        let key = keys.find(token.key_id()).ok_or_else(|| invalid("the key is unknown"))?;
        token.verify(key)?;
        let claims = token.claims();
        claims.check(&self.audience, now, self.leeway)?;
        Ok(Identity {
            subject: claims.subject()?.into(),
            scope: format!("jwt:{}", self.keys.issuer()).into(),
            permissions: self.permissions(claims),
            expires_at: claims.expires_at(),
        })
    }

    /// The permissions that the claims grant. Texts that are not permissions, such as `openid`,
    /// grant nothing.
    fn permissions(&self, claims: &Claims) -> Permissions {
        let direct = claims.scopes().filter_map(|scope| scope.parse::<Permission>().ok());
        let roles = claims.roles().filter_map(|role| self.roles.get(role));
        let of_roles = roles.flat_map(Permissions::iter).cloned();
        direct.chain(of_roles).collect()
    }
}

/// Lets in callers with a token of one of several issuers, sent as `Authorization: Bearer …`.
///
/// # Examples
///
/// ```
/// use aios_service::{
///     auth::{FileKeys, JwtIssuer, JwtTokens, Permissions},
///     http::ApiOptions,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = FileKeys::new("/etc/aios/keys.json"); // or `OidcKeys`, with the feature `oidc`
/// let issuer = JwtIssuer::new("https://id.example.com", "aios", keys)
///     .with_role("operator", Permissions::parse(["runs:*", "tasks:*"])?);
/// let options = ApiOptions::new().with_authenticator(JwtTokens::new([issuer]));
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct JwtTokens(Vec<JwtIssuer>);

impl JwtTokens {
    /// Creates an authenticator for the tokens of these issuers.
    ///
    /// The issuer of a token is the first of these whose name is its `iss`.
    pub fn new(issuers: impl IntoIterator<Item = JwtIssuer>) -> Self {
        Self(issuers.into_iter().collect())
    }
}

#[async_trait]
impl Authenticator for JwtTokens {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Identity>, AuthError> {
        let Some(text) = credentials.bearer() else { return Ok(None) };
        let token = Token::parse(text)?;
        // The issuer is only looked up by what the token says; its keys decide.
        let issuer = self.0.iter().find(|it| token.claims().is_from(it.keys.issuer()));
        let issuer = issuer.ok_or_else(|| invalid("the issuer is unknown"))?;
        issuer.check(&token, credentials.now, credentials.elapsed).await.map(Some)
    }
}

/// The error of a token that is not accepted.
fn invalid(reason: &str) -> AuthError {
    AuthError::Invalid { reason: reason.to_owned() }
}
