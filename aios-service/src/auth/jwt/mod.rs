//! Bearer tokens: JSON Web Tokens that an OAuth2 or OpenID Connect issuer has signed.

mod claims;
mod keys;
mod source;
mod token;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aios_core::event::Timestamp;
use async_trait::async_trait;
use tokio::sync::Mutex;

pub use self::source::{FileKeys, KeySource, StaticKeys};
use self::{claims::Claims, keys::KeySet, token::Token};
use super::{AuthError, Authenticator, Credentials, Identity, Permission, Permissions};

/// How long the key source may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// An issuer of tokens, and what its tokens allow.
///
/// A token is accepted only if its signature fits a key of the issuer, with the one algorithm of
/// that key; if `iss` and `aud` are those that are given here; and if `exp`, which every token must
/// have, and `nbf` allow it. The algorithms are RS256, RS384, RS512, PS256, PS384, PS512, ES256,
/// ES384 and EdDSA; `none` and algorithms with a shared secret are never accepted.
///
/// The caller is `sub`. Texts of `scope`, `scp` and `permissions` that are permissions, such as
/// `runs:read`, are granted, and those of the `roles` that [`with_role`](Self::with_role) knows.
#[derive(Debug)]
pub struct JwtIssuer {
    issuer: String,
    audience: String,
    source: Box<dyn KeySource>,
    leeway: Duration,
    refresh_interval: Duration,
    roles: HashMap<String, Permissions>,
    keys: RwLock<Arc<KeySet>>,
    fetched_at: Mutex<Option<Timestamp>>,
}

impl JwtIssuer {
    /// Default of [`with_leeway`](Self::with_leeway).
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
    /// Default of [`with_refresh_interval`](Self::with_refresh_interval).
    pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

    /// Creates an issuer from the values that `iss` and `aud` must have, and its keys.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        source: impl KeySource,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            source: Box::new(source),
            leeway: Self::DEFAULT_LEEWAY,
            refresh_interval: Self::DEFAULT_REFRESH_INTERVAL,
            roles: HashMap::new(),
            keys: RwLock::default(),
            fetched_at: Mutex::default(),
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
        self.refresh_interval = interval;
        self
    }

    /// Grants permissions to tokens whose claim `roles` names this role.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>, permissions: Permissions) -> Self {
        self.roles.insert(role.into(), permissions);
        self
    }

    async fn check(&self, token: &Token<'_>, now: Timestamp) -> Result<Identity, AuthError> {
        let mut keys = self.cached();
        if keys.find(token.key_id()).is_none() {
            keys = self.refreshed(&keys, now).await?;
        }
        let key = keys.find(token.key_id()).ok_or_else(|| invalid("the key is unknown"))?;
        token.verify(key)?;
        let claims = token.claims();
        claims.check(&self.audience, now, self.leeway)?;
        Ok(Identity {
            subject: claims.subject()?.into(),
            permissions: self.permissions(claims),
            expires_at: claims.expires_at(),
        })
    }

    fn cached(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keys that may be newer than `seen`: fetched, unless the last fetch is too short ago.
    async fn refreshed(
        &self,
        seen: &Arc<KeySet>,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, AuthError> {
        // Held while fetching, so that many requests cause one fetch. Requests with known keys do
        // not wait for it.
        let mut fetched_at = self.fetched_at.lock().await;
        let is_due = fetched_at.is_none_or(|at| now.duration_since(at) >= self.refresh_interval);
        if is_due && Arc::ptr_eq(seen, &self.cached()) {
            *fetched_at = Some(now);
            let keys = Arc::new(self.fetch().await?);
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        let keys = self.cached();
        match keys.is_empty() {
            false => Ok(keys),
            true => Err(AuthError::Unavailable {
                reason: format!("there are no usable keys of {}", self.issuer),
            }),
        }
    }

    async fn fetch(&self) -> Result<KeySet, AuthError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.source.fetch()).await;
        let late = |_| AuthError::Unavailable {
            reason: format!("the keys of {} did not come within {FETCH_TIMEOUT:?}", self.issuer),
        };
        KeySet::from_json(&fetched.map_err(late)??)
    }

    fn permissions(&self, claims: &Claims) -> Permissions {
        let direct = claims.scopes().filter_map(|scope| scope.parse::<Permission>().ok());
        let roles = claims.roles().filter_map(|role| self.roles.get(role));
        let of_roles = roles.flat_map(Permissions::iter).cloned();
        direct.chain(of_roles).collect()
    }
}

/// Lets in callers with a token of one of several issuers, sent as `Authorization: Bearer …`.
#[derive(Debug)]
pub struct JwtTokens(Vec<JwtIssuer>);

impl JwtTokens {
    /// Creates an authenticator for the tokens of these issuers.
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
        let issuer = self.0.iter().find(|it| token.claims().is_from(&it.issuer));
        let issuer = issuer.ok_or_else(|| invalid("the issuer is unknown"))?;
        issuer.check(&token, credentials.now).await.map(Some)
    }
}

fn invalid(reason: &str) -> AuthError {
    AuthError::Invalid { reason: reason.to_owned() }
}
