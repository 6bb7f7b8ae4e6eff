use std::path::PathBuf;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// How the connection is encrypted, and whom it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tls {
    /// Not at all.
    Disable,
    /// If the server can; nobody's certificate is checked.
    Prefer,
    /// Always; nobody's certificate is checked.
    Require,
    /// Always, with a server whose certificate comes from an authority that the operating system
    /// trusts, or from one in the file. The driver refuses a certificate that does not name the host
    /// here as well.
    VerifyCa(Option<PathBuf>),
    /// As [`VerifyCa`](Self::VerifyCa); that the certificate has to name the host is promised.
    VerifyFull(Option<PathBuf>),
}

/// What was said about encryption, for every connection that is made.
#[derive(Clone, Default)]
pub(crate) struct Encryption {
    pub(crate) tls: Option<Tls>,
    /// Certificate and key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl Encryption {
    pub(crate) fn is_unsaid(&self) -> bool {
        self.tls.is_none() && self.client.is_none()
    }

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

fn with_root(options: PgConnectOptions, root: &Option<PathBuf>) -> PgConnectOptions {
    match root {
        Some(root) => options.ssl_root_cert(root),
        None => options,
    }
}
