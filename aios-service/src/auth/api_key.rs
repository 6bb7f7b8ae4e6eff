//! API keys, known by their hashes.
//!
//! A key is random and long, so a plain SHA-256 is enough: there is nothing to guess, and the check
//! of a request stays cheap. For passwords, which people choose, this would be wrong.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use aios_core::event::Timestamp;
use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{AuthError, Authenticator, Credentials, Identity, Permissions, hex};

/// Scope of the owners of keys.
const SCOPE: &str = "api_key";

/// The SHA-256 of an API key, written as 64 hexadecimal digits.
///
/// A key must be random and at least 128 bits long, for example 32 bytes of `openssl rand -hex 32`.
/// The hash of such a key can be stored and shown; a hash of a password could be guessed.
///
/// # Examples
///
/// A configuration stores the hash; only the owner has the key:
///
/// ```
/// use aios_service::auth::ApiKeyHash;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stored = ApiKeyHash::of("the output of `openssl rand -hex 32`").to_string();
/// let hash: ApiKeyHash = stored.parse()?;
/// assert_eq!(hash, ApiKeyHash::of("the output of `openssl rand -hex 32`"));
/// assert!("not a hash".parse::<ApiKeyHash>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiKeyHash([u8; 32]);

/// A text that is not the hash of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hash of an API key has 64 hexadecimal digits")]
pub struct InvalidApiKeyHash;

impl ApiKeyHash {
    /// Hashes a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

impl FromStr for ApiKeyHash {
    type Err = InvalidApiKeyHash;

    fn from_str(text: &str) -> Result<Self, InvalidApiKeyHash> {
        hex::decode(text).map(Self).ok_or(InvalidApiKeyHash)
    }
}

impl fmt::Display for ApiKeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiKeyHash({self})")
    }
}

/// An API key: its hash, whose it is, and what its owner may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The key itself is not kept.
    hash: ApiKeyHash,
    /// The owner, as requests with the key are known.
    identity: Identity,
}

impl ApiKey {
    /// Creates a key that does not end and allows nothing.
    #[must_use]
    pub fn new(hash: ApiKeyHash, subject: impl Into<Arc<str>>) -> Self {
        let subject = subject.into();
        let (scope, permissions) = (SCOPE.into(), Permissions::default());
        let identity = Identity { subject, scope, permissions, expires_at: None };
        Self { hash, identity }
    }

    /// Sets what the owner may do.
    #[must_use]
    pub fn with_permissions(mut self, permissions: Permissions) -> Self {
        self.identity.permissions = permissions;
        self
    }

    /// Sets when the key ends.
    ///
    /// A stream of events that was opened with the key ends at this time too.
    ///
    /// # Examples
    ///
    /// A key for a job that runs for a week:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_core::clock::{Clock, SystemClock};
    /// use aios_service::auth::{ApiKey, ApiKeyHash, Permissions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hash: ApiKeyHash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse()?;
    /// let week = Duration::from_secs(7 * 24 * 3600);
    /// let key = ApiKey::new(hash, "migration")
    ///     .with_permissions(Permissions::parse(["runs:start"])?)
    ///     .with_expiry(SystemClock.now() + week);
    /// # drop(key);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_expiry(mut self, expires_at: Timestamp) -> Self {
        self.identity.expires_at = Some(expires_at);
        self
    }
}

/// Lets in the owners of API keys, sent as `X-API-Key`.
///
/// # Examples
///
/// ```
/// use aios_service::auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash = ApiKeyHash::of("d9c8…, 32 random bytes");
/// let permissions = Permissions::parse(["runs:read", "runs:start"])?;
/// let keys = ApiKeys::new([ApiKey::new(hash, "ci").with_permissions(permissions)]);
/// # drop(keys);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(HashMap<ApiKeyHash, Identity>);

impl ApiKeys {
    /// Creates a set of keys.
    ///
    /// Of two keys with the same hash, the later one counts.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.hash, key.identity)).collect())
    }
}

#[async_trait]
impl Authenticator for ApiKeys {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Identity>, AuthError> {
        let Some(key) = credentials.api_key() else { return Ok(None) };
        let invalid = |reason: &str| AuthError::Invalid { reason: reason.to_owned() };
        // The key is found by its hash, so the time of the search says nothing about the key.
        let identity = self.0.get(&ApiKeyHash::of(key)).ok_or_else(|| invalid("unknown key"))?;
        if identity.expires_at.is_some_and(|end| end <= credentials.now) {
            return Err(invalid(&format!("the key of {} has expired", identity.subject)));
        }
        Ok(Some(identity.clone()))
    }
}
