//! Where keys come from, as a port.

use std::{fmt::Debug, path::PathBuf, time::Duration};

use async_trait::async_trait;

use crate::{auth::AuthError, blocking};

/// Where the keys of an issuer come from: a JSON Web Key Set (RFC 7517).
///
/// Implement this to fetch the keys with your own HTTP client.
///
/// # Examples
///
/// Keys from a store of secrets. An error keeps the keys in use that were fetched before:
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::auth::{AuthError, JwtIssuer, KeySetDocument, KeySource};
/// use async_trait::async_trait;
///
/// #[derive(Debug)]
/// struct SecretStore;
///
/// impl SecretStore {
///     async fn read(&self, name: &str) -> std::io::Result<String> {
///         // … a request to the store
/// #       Ok(format!("{{\"keys\": [], \"name\": {name:?}}}"))
///     }
/// }
///
/// #[async_trait]
/// impl KeySource for SecretStore {
///     async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
///         let json = self.read("issuer-keys").await;
///         let json = json.map_err(|error| AuthError::Unavailable { reason: error.to_string() })?;
///         Ok(KeySetDocument::new(json).with_max_age(Duration::from_secs(300)))
///     }
/// }
///
/// let issuer = JwtIssuer::new("https://id.example.com", "aios", SecretStore);
/// # drop(issuer);
/// ```
#[async_trait]
pub trait KeySource: Debug + Send + Sync + 'static {
    /// Returns the key set. It is called at the first token, when a token names a key that is not
    /// known, and when the keys are older than their lifetime; never twice at the same time, and not
    /// more often than [`JwtIssuer::with_refresh_interval`](super::JwtIssuer::with_refresh_interval)
    /// allows.
    ///
    /// # Errors
    ///
    /// [`AuthError::Unavailable`] if the keys cannot be had for now.
    ///
    /// # Cancel safety
    ///
    /// Must be cancel safe: a fetch that takes longer than
    /// [`JwtIssuer::with_fetch_timeout`](super::JwtIssuer::with_fetch_timeout) is dropped.
    async fn fetch(&self) -> Result<KeySetDocument, AuthError>;
}

/// A JSON Web Key Set as its source returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySetDocument {
    /// The key set: `{"keys": [...]}`.
    pub json: String,
    /// For how long the source says that the keys may be used without asking it again. It can shorten
    /// [`JwtIssuer::with_key_lifetime`](super::JwtIssuer::with_key_lifetime), and cannot extend it.
    pub max_age: Option<Duration>,
}

impl KeySetDocument {
    /// Creates a document from a key set as JSON.
    pub fn new(json: impl Into<String>) -> Self {
        Self { json: json.into(), max_age: None }
    }

    /// Sets for how long the source says that the keys may be used.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }
}

/// A key set that does not change.
///
/// A key that the issuer withdraws stays valid until the program starts again. Use [`FileKeys`] or
/// a source over HTTPS where keys are replaced.
///
/// # Examples
///
/// ```
/// use aios_service::auth::{JwtIssuer, StaticKeys};
///
/// let keys = StaticKeys::new(
///     r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "2026-03",
///                   "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
/// );
/// let issuer = JwtIssuer::new("https://id.example.com", "aios", keys);
/// # drop(issuer);
/// ```
#[derive(Clone, Debug)]
pub struct StaticKeys(String);

impl StaticKeys {
    /// Creates the source from a key set as JSON, which is read at the first token.
    pub fn new(json: impl Into<String>) -> Self {
        Self(json.into())
    }
}

#[async_trait]
impl KeySource for StaticKeys {
    async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
        Ok(KeySetDocument::new(self.0.clone()))
    }
}

/// A key set in a file, which may be replaced while the service runs.
///
/// The file is read at each fetch. Replace it by renaming a complete file, so that no fetch reads a
/// part. A file that is missing or has no usable key is an error that is logged; the keys of the
/// last fetch stay in use.
#[derive(Clone, Debug)]
pub struct FileKeys(PathBuf);

impl FileKeys {
    /// Creates the source from the path of a file with a key set as JSON.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

#[async_trait]
impl KeySource for FileKeys {
    async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
        let path = self.0.clone();
        let json = blocking::call(move || std::fs::read_to_string(path)).await;
        let json = json.unwrap_or_else(|| Err(std::io::ErrorKind::ResourceBusy.into()));
        json.map(KeySetDocument::new).map_err(|error| AuthError::Unavailable {
            reason: format!("failed to read {}: {error}", self.0.display()),
        })
    }
}
