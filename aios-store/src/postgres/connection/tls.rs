//! Encryption of connections, as an override of what the URL says.

use std::path::PathBuf;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// How a connection is encrypted, and which certificates it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tls {
    /// The connection is not encrypted.
    Disable,
    /// The connection is encrypted if the server supports it. The server's certificate is not checked.
    Prefer,
    /// The connection is encrypted. The server's certificate is not checked.
    Require,
    /// The connection is encrypted, and the server's certificate must be issued by an authority in the
    /// PEM file, or without a file by one that the operating system trusts. The driver also refuses a
    /// certificate that does not name the host, but that is not guaranteed.
    VerifyCa(Option<PathBuf>),
    /// The same as [`VerifyCa`](Self::VerifyCa). The certificate must also name the host.
    VerifyFull(Option<PathBuf>),
}

/// The encryption options, which apply to every connection. `None` leaves a setting to the URL.
#[derive(Clone, Default)]
pub(crate) struct Encryption {
    pub(crate) tls: Option<Tls>,
    /// Certificate and key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl Encryption {
    /// Whether everything is left to the URL.
    pub(crate) fn is_unset(&self) -> bool {
        self.tls.is_none() && self.client.is_none()
    }

    /// Overrides the encryption of a URL.
    pub(crate) fn apply(&self, options: PgConnectOptions) -> PgConnectOptions {
        let options = match &self.tls {
            None => options,
            Some(Tls::Disable) => options.ssl_mode(PgSslMode::Disable),
            Some(Tls::Prefer) => options.ssl_mode(PgSslMode::Prefer),
            Some(Tls::Require) => options.ssl_mode(PgSslMode::Require),
            Some(Tls::VerifyCa(root)) => with_root(options.ssl_mode(PgSslMode::VerifyCa), root),
            Some(Tls::VerifyFull(root)) => with_root(options.ssl_mode(PgSslMode::VerifyFull), root),
        };
        match &self.client {
            Some((certificate, key)) => options.ssl_client_cert(certificate).ssl_client_key(key),
            None => options,
        }
    }
}

/// Sets the file of trusted authorities, if there is one.
fn with_root(options: PgConnectOptions, root: &Option<PathBuf>) -> PgConnectOptions {
    match root {
        Some(root) => options.ssl_root_cert(root),
        None => options,
    }
}
