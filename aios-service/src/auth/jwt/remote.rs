//! Keys over HTTPS: by their URL, and by the discovery of OpenID Connect.

use async_trait::async_trait;
use axum::http::Uri;
use serde::Deserialize;

use super::{
    https::{HttpsClient, InvalidIssuerUrl, secure},
    source::{KeySetDocument, KeySource},
};
use crate::auth::AuthError;

/// Path of the discovery document of an issuer.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// A key set at a URL.
///
/// The URL begins with `https://`; `http://` is allowed on this machine only. The certificates that
/// the system trusts are trusted. Redirects are not followed, and a document has at most 512 KiB.
/// `max-age` of `Cache-Control` limits how long the keys are used.
///
/// # Examples
///
/// An issuer without a discovery document:
///
/// ```
/// use aios_service::auth::{JwtIssuer, UrlKeys};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = UrlKeys::new("https://id.example.com/keys.json")?;
/// let issuer = JwtIssuer::new("https://id.example.com", "aios", keys);
/// assert!(UrlKeys::new("http://id.example.com/keys.json").is_err()); // not encrypted
/// # drop(issuer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(docsrs, doc(cfg(feature = "oidc")))]
pub struct UrlKeys {
    /// Where the keys are.
    url: Uri,
    /// Shared by clones.
    client: HttpsClient,
}

impl UrlKeys {
    /// Creates the source from the URL of a key set. Reads the certificates of the system.
    ///
    /// # Errors
    ///
    /// [`InvalidIssuerUrl`] if the URL is not absolute, not encrypted, or has credentials.
    pub fn new(url: &str) -> Result<Self, InvalidIssuerUrl> {
        Ok(Self { url: secure(url)?, client: HttpsClient::new()? })
    }
}

#[async_trait]
impl KeySource for UrlKeys {
    async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
        fetch(&self.client, &self.url).await
    }
}

/// The key set that an issuer names in its discovery document (OpenID Connect Discovery 1.0).
///
/// Each fetch reads `/.well-known/openid-configuration` below the URL of the issuer and then the
/// key set at its `jwks_uri`. `issuer` in the document must be the URL of the issuer, exactly.
/// In all other respects, it is like [`UrlKeys`].
///
/// ```
/// use aios_service::auth::{JwtIssuer, JwtTokens, OidcKeys};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = "https://id.example/realms/tea";
/// let tokens = JwtTokens::new([JwtIssuer::new(issuer, "tea-shop", OidcKeys::new(issuer)?)]);
/// # drop(tokens);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(docsrs, doc(cfg(feature = "oidc")))]
pub struct OidcKeys {
    /// As it is written in `iss`.
    issuer: String,
    url: Uri,
    client: HttpsClient,
}

/// The part of a discovery document that matters here.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl OidcKeys {
    /// Creates the source from the URL of an issuer, as in the `iss` of its tokens. Reads the
    /// certificates of the system.
    ///
    /// # Errors
    ///
    /// [`InvalidIssuerUrl`] if the URL is not absolute, not encrypted, or has credentials or a
    /// query.
    pub fn new(issuer: &str) -> Result<Self, InvalidIssuerUrl> {
        if secure(issuer)?.query().is_some() || issuer.contains('#') {
            let reason = format!("{issuer:?} has a query or a fragment");
            return Err(InvalidIssuerUrl { reason });
        }
        let url = secure(&format!("{}{DISCOVERY}", issuer.trim_end_matches('/')))?;
        Ok(Self { issuer: issuer.to_owned(), url, client: HttpsClient::new()? })
    }

    /// Reads where the keys are. The document has to name the issuer that was asked for, so that no
    /// other issuer can vouch for its tokens.
    async fn discover(&self) -> Result<Uri, AuthError> {
        let failed =
            |reason: String| AuthError::Unavailable { reason: format!("{}: {reason}", self.url) };
        let document = self.client.get(&self.url).await?;
        let discovery: Discovery =
            serde_json::from_str(&document.json).map_err(|error| failed(error.to_string()))?;
        if discovery.issuer != self.issuer {
            let ours = &self.issuer;
            let theirs = discovery.issuer;
            return Err(failed(format!("it names the issuer {theirs:?}, not {ours:?}")));
        }
        secure(&discovery.jwks_uri).map_err(|error| failed(error.to_string()))
    }
}

#[async_trait]
impl KeySource for OidcKeys {
    async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
        fetch(&self.client, &self.discover().await?).await
    }
}

/// Fetches a key set.
async fn fetch(client: &HttpsClient, url: &Uri) -> Result<KeySetDocument, AuthError> {
    let document = client.get(url).await?;
    let keys = KeySetDocument::new(document.json);
    Ok(document.max_age.map_or(keys.clone(), |max_age| keys.with_max_age(max_age)))
}
