//! Gets a JSON document from an issuer.
//!
//! The keys decide which callers are admitted, so this client takes as little as possible from the network: it
//! follows no redirects, reads at most 512 KiB, and accepts no status but 200. A fetch happens once
//! in minutes, so its connection is not kept. There is no timeout here, because the cache limits
//! each fetch as a whole.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::auth::AuthError;

/// Longest document that is read, in bytes.
const MAX_BYTES: usize = 512 * 1024;

/// A URL from which no keys can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("keys cannot be fetched: {reason}")]
#[non_exhaustive]
pub struct InvalidIssuerUrl {
    /// The reason.
    pub reason: String,
}

/// An HTTP client that trusts the certificates that the system trusts.
#[derive(Clone, Debug)]
pub(super) struct HttpsClient(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

/// A document of an issuer.
pub(super) struct Document {
    /// The body.
    pub(super) json: String,
    /// How long it may be used, as its headers say.
    pub(super) max_age: Option<Duration>,
}

impl HttpsClient {
    /// Creates a client. Connections are not kept.
    pub(super) fn new() -> Result<Self, InvalidIssuerUrl> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| InvalidIssuerUrl { reason: format!("no TLS client: {error}") })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        // One fetch in minutes: an idle connection would be closed by then.
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_max_idle_per_host(0);
        Ok(Self(client.build(connector.build())))
    }

    /// Gets a document. Redirects are not followed.
    pub(super) async fn get(&self, url: &Uri) -> Result<Document, AuthError> {
        let failed = |reason: String| AuthError::Unavailable { reason: format!("{url}: {reason}") };
        let request = Request::builder()
            .method(Method::GET)
            .uri(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("aios-service/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| failed(error.to_string()))?;
        let response = self.0.request(request).await;
        let response = response.map_err(|error| failed(aios_core::Chain(&error).to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(failed(format!("the answer has status {}, not 200", response.status())));
        }
        let max_age = max_age(response.headers());
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| failed(format!("the answer cannot be read: {error}")))?;
        let json = String::from_utf8(body.to_bytes().to_vec());
        let json = json.map_err(|_| failed("the answer is not UTF-8".to_owned()))?;
        Ok(Document { json, max_age })
    }
}

/// `max-age` of `Cache-Control`; 0 for an answer that must not be stored.
///
/// The first directive that is known decides. A `max-age` without a number is left out, so the
/// lifetime of the options applies.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|it| it.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| match directive {
        it if it.eq_ignore_ascii_case("no-store") || it.eq_ignore_ascii_case("no-cache") => Some(0),
        it => {
            let (name, seconds) = it.split_once('=')?;
            name.eq_ignore_ascii_case("max-age").then(|| seconds.parse().ok())?
        }
    });
    seconds.map(Duration::from_secs)
}

/// Reads a URL to get keys from. It is encrypted, or leads to this machine.
pub(super) fn secure(text: &str) -> Result<Uri, InvalidIssuerUrl> {
    let invalid = |reason: &str| InvalidIssuerUrl { reason: format!("{text:?} {reason}") };
    let uri: Uri = text.parse().map_err(|_| invalid("is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| invalid("is not an absolute URL"))?;
    if authority.as_str().contains('@') {
        return Err(InvalidIssuerUrl { reason: "the URL has credentials".to_owned() });
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if crate::auth::is_loopback(text) => Ok(uri),
        _ => Err(invalid("must begin with https://, except on this machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_the_age_that_an_answer_allows() {
        for (value, expected) in [
            ("max-age=60", Some(60)),
            ("public, max-age=19800, must-revalidate", Some(19800)),
            ("Max-Age=7", Some(7)),
            ("no-store", Some(0)),
            ("no-cache, no-store", Some(0)),
            ("private", None),
            ("max-age=soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{value}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn should_take_urls_that_are_encrypted_or_local_only() {
        for (url, is_secure) in [
            ("https://id.example", true),
            ("https://id.example:8443/realms/one", true),
            ("http://localhost:8080", true),
            ("http://127.0.0.1:1/x", true),
            ("http://[::1]:1", true),
            ("http://id.example", false),
            ("http://localhost.example", false),
            ("http://127.0.0.1@id.example", false),
            ("https://user:secret@id.example", false),
            ("ftp://id.example", false),
            ("id.example", false),
            ("/keys", false),
            ("", false),
        ] {
            assert_eq!(secure(url).is_ok(), is_secure, "{url}");
        }
        let refused = secure("https://user:secret@id.example").unwrap_err();
        assert!(!refused.to_string().contains("secret"));
    }
}
