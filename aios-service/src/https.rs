//! The HTTP client of this crate: rustls with ring.
//!
//! The client of the API and the exporters of telemetry share it. Redirects, retries and proxies of
//! the library are off: each of them could send a request, with its credentials, to a place or at a
//! time that the caller does not know of. What has to be repeated is repeated by the code that
//! knows whether it may be.

use std::{fmt::Display, sync::Arc, time::Duration};

use aios_core::Chain;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that follows no redirects, repeats nothing by itself and uses no proxy. The error is a reason
/// for people.
pub(crate) fn http_client() -> Result<reqwest::Client, String> {
    client(reqwest::Client::builder(), tls()?)
}

/// The same, which speaks HTTP/2 only. A connection whose other side is silent is given up, so that the
/// next request gets a new one.
#[cfg(feature = "otlp-grpc")]
pub(crate) fn http2_client() -> Result<reqwest::Client, String> {
    /// How often the other side is asked, and how long it may take to answer.
    const PING: Duration = Duration::from_secs(4);

    let mut tls = tls()?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let builder = reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING);
    client(builder, tls)
}

/// The configuration of TLS, which trusts what the system trusts. A certificate of the system that
/// can't be read is left out.
fn tls() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Completes a client.
fn client(
    builder: reqwest::ClientBuilder,
    tls: rustls::ClientConfig,
) -> Result<reqwest::Client, String> {
    builder
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .build()
        .map_err(|error| invalid(&Chain(&error)))
}

/// The reason as a sentence.
fn invalid(error: &dyn Display) -> String {
    format!("the HTTP client cannot be created: {error}")
}
