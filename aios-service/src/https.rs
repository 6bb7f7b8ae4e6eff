//! The HTTP client of this crate: rustls with ring.

use std::{fmt::Display, sync::Arc, time::Duration};

use aios_core::Chain;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that follows no redirects, repeats nothing by itself and uses no proxy. The error is a reason
/// for people.
pub(crate) fn http_client() -> Result<reqwest::Client, String> {
    let invalid = |error: &dyn Display| format!("the HTTP client cannot be created: {error}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .build()
        .map_err(|error| invalid(&Chain(&error)))
}
