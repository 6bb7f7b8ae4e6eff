//! The caller of a request, and its permissions.
//!
//! An [`Authenticator`] turns the credentials of a request into an [`Identity`]. The API asks its
//! authenticators in turn; a request that none of them knows is answered with 401. Most routes require
//! one [`Permission`]; the OpenAPI document lists them. A caller that lacks any of them gets 403. `/me`
//! and `/openapi.json` need only an identity.
//!
//! | the authenticators return | the request is answered with |
//! |---|---|
//! | an identity | the answer of the route, or 403 `PERMISSION_DENIED` without a permission that it requires |
//! | `None` from each of them | 401 `UNAUTHENTICATED` |
//! | [`AuthError::Invalid`] | 401 `UNAUTHENTICATED`, without the reason |
//! | [`AuthError::Unavailable`] | 503 `AUTHENTICATION_UNAVAILABLE`, which clients may repeat |
//!
//! Without an authenticator, only callers on this machine are admitted; see
//! [`Anonymous::on_loopback`]. The reason of an error is logged with the id of the request, which
//! the answer has too.

mod anonymous;
mod api_key;
pub(crate) mod hex;
mod jwt;
mod permission;
#[cfg(feature = "token-endpoint")]
mod token_endpoint;

use std::{fmt::Debug, net::SocketAddr, sync::Arc, time::Duration};

use aios_core::event::Timestamp;
use async_trait::async_trait;
use axum::http::HeaderMap;

pub use self::{
    anonymous::Anonymous,
    api_key::{ApiKey, ApiKeyHash, ApiKeys, InvalidApiKeyHash},
    jwt::{FileKeys, JwtIssuer, JwtTokens, KeySetDocument, KeySource, StaticKeys},
    permission::{InvalidPermission, Permission, Permissions},
};

#[cfg(feature = "oidc")]
pub(crate) use self::anonymous::is_loopback;
#[cfg(feature = "oidc")]
pub use self::jwt::{InvalidIssuerUrl, OidcKeys, UrlKeys};
#[cfg(feature = "token-endpoint")]
pub use self::token_endpoint::{InvalidSigningKey, TokenEndpoint};

/// A caller whose credentials were checked.
///
/// The subject is part of the log: it is written to every event that a request causes, and cannot
/// be changed there. Use an id that stays the same when a person changes their name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Stable name of the caller. It becomes `user_id` of the events that the caller causes.
    pub subject: Arc<str>,
    /// The authority that vouches for the subject: `api_key`, `anonymous`, or `jwt:` and the issuer of a
    /// token. Callers with the same subject and different scopes are different callers: neither finds the
    /// answers of the other by an `Idempotency-Key`, and each has its own rate limit.
    pub scope: Arc<str>,
    /// The caller's permissions.
    pub permissions: Permissions,
    /// When the credentials end. Streams of events end then; `None` if they do not end.
    pub expires_at: Option<Timestamp>,
}

/// The credentials of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Credentials<'a> {
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// Address of the other end of the connection. `None` if the server does not report it: see
    /// [`serve`](crate::http::serve).
    pub peer: Option<SocketAddr>,
    /// The time now, by which credentials expire.
    pub now: Timestamp,
    /// The monotonic time of the same clock, for the age of what an authenticator keeps.
    pub elapsed: Duration,
}

impl<'a> Credentials<'a> {
    /// The token of `Authorization: Bearer …`.
    ///
    /// The scheme is compared without regard to case. `None` for another scheme, too, such as
    /// `Basic`, so that an authenticator of bearer tokens leaves such a request to the next one.
    #[must_use]
    pub fn bearer(&self) -> Option<&'a str> {
        let value = self.headers.get("authorization")?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The value of `X-API-Key`.
    #[must_use]
    pub fn api_key(&self) -> Option<&'a str> {
        self.headers.get("x-api-key")?.to_str().ok()
    }
}

/// Why a caller is not known.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The credentials are not valid. The reason is logged and not returned to the caller.
    #[error("the credentials are not valid: {reason}")]
    Invalid {
        /// The reason, without any secret.
        reason: String,
    },
    /// The credentials cannot be checked for now.
    #[error("the credentials cannot be checked: {reason}")]
    Unavailable {
        /// The reason.
        reason: String,
    },
}

/// Checks the credentials of requests.
///
/// # Examples
///
/// Callers that a proxy has already authenticated. Use it only where no other client can reach the service:
///
/// ```
/// use aios_service::auth::{AuthError, Authenticator, Credentials, Identity, Permissions};
/// use async_trait::async_trait;
///
/// #[derive(Debug)]
/// struct Proxy;
///
/// #[async_trait]
/// impl Authenticator for Proxy {
///     async fn authenticate(
///         &self,
///         credentials: Credentials<'_>,
///     ) -> Result<Option<Identity>, AuthError> {
///         // Without the header, the next authenticator is asked.
///         let Some(user) = credentials.headers.get("x-forwarded-user") else { return Ok(None) };
///         let user = user.to_str().map_err(|_| AuthError::Invalid {
///             reason: "x-forwarded-user is not text".to_owned(),
///         })?;
///         let permissions = Permissions::all();
///         let (subject, scope) = (user.into(), "proxy".into());
///         Ok(Some(Identity { subject, scope, permissions, expires_at: None }))
///     }
/// }
///
/// let options = aios_service::http::ApiOptions::new().with_authenticator(Proxy);
/// # drop(options);
/// ```
#[async_trait]
pub trait Authenticator: Debug + Send + Sync + 'static {
    /// Returns the caller, or `None` if the request has no credentials of the kind that this
    /// authenticator checks; then the next authenticator is asked.
    ///
    /// # Errors
    ///
    /// [`AuthError`] if the request has such credentials and they are not valid or cannot be
    /// checked. No further authenticator is asked.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the client disconnects or the request takes too long, so it must
    /// be cancel safe.
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Identity>, AuthError>;
}
