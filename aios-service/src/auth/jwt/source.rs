use std::{fmt::Debug, path::PathBuf};

use async_trait::async_trait;

use crate::auth::AuthError;

/// Where the keys of an issuer come from: a JSON Web Key Set (RFC 7517).
///
/// Implement this to fetch the keys with your own HTTP client.
#[async_trait]
pub trait KeySource: Debug + Send + Sync + 'static {
    /// Returns the key set as JSON: `{"keys": [...]}`. It is called at the first token, and when a
    /// token names a key that is not known.
    ///
    /// # Errors
    ///
    /// [`AuthError::Unavailable`] if the keys cannot be had for now.
    ///
    /// # Cancel safety
    ///
    /// Must be cancel safe: a fetch that takes longer than 5 s is dropped.
    async fn fetch(&self) -> Result<String, AuthError>;
}

/// A key set that does not change.
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
    async fn fetch(&self) -> Result<String, AuthError> {
        Ok(self.0.clone())
    }
}

/// A key set in a file, which may be replaced while the service runs.
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
    async fn fetch(&self) -> Result<String, AuthError> {
        tokio::fs::read_to_string(&self.0).await.map_err(|error| AuthError::Unavailable {
            reason: format!("failed to read {}: {error}", self.0.display()),
        })
    }
}
