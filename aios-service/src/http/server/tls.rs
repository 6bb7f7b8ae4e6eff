//! Certificates of a server, which are read again when their files change.
//!
//! Certificates are renewed by other programs, several times a year. The files are read on a
//! schedule and compared with what was read last, which works on every file system and with the
//! symbolic links of Kubernetes. Two files can't be replaced at once: a certificate that does not
//! fit its key is refused, and the old pair stays until the other file has changed too.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aios_core::clock::Clock;
use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::Mutex;
use tracing::{error, info};

use crate::blocking;

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The certificate of a server and its private key, for
/// [`ServeOptions::with_tls`](super::ServeOptions::with_tls). Clones share their state.
///
/// TLS 1.2 and 1.3 are served, by rustls with ring. While
/// [`serve_with`](super::serve_with) runs, it reads the files every 10 s. When they have changed, new
/// connections get the new certificate. If the new files cannot be used, for example because only
/// one of the two was replaced yet, that is logged once, and the old certificate stays.
///
/// # Examples
///
/// ```no_run
/// use aios_service::http::{ServeOptions, Shutdown, Tls, serve_with};
/// use axum::Router;
/// use tokio::net::TcpListener;
///
/// # async fn example(router: Router) -> Result<(), Box<dyn std::error::Error>> {
/// // cert-manager and certbot replace these files; the service needs no restart.
/// let tls = Tls::from_files("/etc/tls/tls.crt", "/etc/tls/tls.key").await?;
/// let options = ServeOptions::new().with_tls(tls);
/// serve_with(TcpListener::bind("0.0.0.0:8443").await?, router, options, Shutdown::on_signals()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub struct Tls {
    /// The files, and what was read from them.
    files: Arc<Files>,
    /// Asks for the current certificate at each handshake.
    config: Arc<ServerConfig>,
}

/// A certificate or private key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
#[non_exhaustive]
pub struct InvalidCertificate {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

/// The files of a certificate.
struct Files {
    /// The chain, in PEM.
    certificates: PathBuf,
    /// The private key, in PEM.
    key: PathBuf,
    /// rustls with ring.
    provider: Arc<CryptoProvider>,
    /// The pair that new connections get.
    current: Arc<Current>,
    /// The contents that were read last, good or bad. Held while reading.
    seen: Mutex<Contents>,
}

/// The bytes of both files.
type Contents = (Vec<u8>, Vec<u8>);

/// The certificate in use. Locked only to copy or to replace the pointer.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Tls {
    /// Reads a certificate and its private key from PEM files. The file of the certificate has it
    /// first, and then those of the authorities between it and a root that clients trust.
    ///
    /// # Errors
    ///
    /// [`InvalidCertificate`] names the file that cannot be read or used.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn from_files(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, InvalidCertificate> {
        let certificates = certificates.into();
        let key = key.into();
        let provider = Arc::new(ring::default_provider());
        let contents = read(&certificates, &key).await?;
        let certified = certified(&contents, &certificates, &key, &provider)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(certified))));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&certificates, error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let seen = Mutex::new(contents);
        let files = Arc::new(Files { certificates, key, provider, current, seen });
        Ok(Self { files, config: Arc::new(config) })
    }

    /// Reads the files again at once, and returns whether they have changed. Connections that are
    /// open keep the certificate with which they began.
    ///
    /// # Errors
    ///
    /// [`InvalidCertificate`] names the file that cannot be read or used. The old certificate stays.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the new certificate is used or not.
    ///
    /// Contents that were refused are remembered, and are not an error again: the next call returns
    /// `false` until one of the files changes.
    pub async fn reload(&self) -> Result<bool, InvalidCertificate> {
        let files = &*self.files;
        let mut seen = files.seen.lock().await;
        let contents = read(&files.certificates, &files.key).await?;
        if *seen == contents {
            return Ok(false);
        }
        *seen = contents;
        let certified = certified(&seen, &files.certificates, &files.key, &files.provider)?;
        *files.current.0.write() = Arc::new(certified);
        Ok(true)
    }

    /// The configuration of handshakes.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again from time to time.
    pub(super) async fn watch(&self, clock: &dyn Clock) {
        let mut last = None;
        loop {
            clock.sleep(CHECK_INTERVAL).await;
            match self.reload().await {
                Ok(true) => {
                    info!(certificate = %self.files.certificates.display(), "use a new certificate")
                }
                // The same fault is logged once.
                Ok(false) => continue,
                Err(error) if last.as_ref() == Some(&error) => continue,
                Err(error) => {
                    error!(%error, "failed to use a new certificate; the old one stays");
                    last = Some(error);
                    continue;
                }
            }
            last = None;
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("certificates", &self.files.certificates)
            .finish_non_exhaustive()
    }
}

/// Reads both files.
async fn read(certificates: &Path, key: &Path) -> Result<Contents, InvalidCertificate> {
    let paths = (certificates.to_owned(), key.to_owned());
    let read = |path: &Path| std::fs::read(path).map_err(|error| invalid(path, error));
    let contents = blocking::call(move || Ok((read(&paths.0)?, read(&paths.1)?))).await;
    contents.unwrap_or_else(|| Err(invalid(certificates, "no thread can read it")))
}

/// Parses the pair, and checks that the key is that of the certificate.
fn certified(
    (chain, private): &Contents,
    certificates: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, InvalidCertificate> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(certificates, error))?;
    if chain.is_empty() {
        return Err(invalid(certificates, "the file has no certificate in PEM format"));
    }
    let private = PrivateKeyDer::from_pem_slice(private).map_err(|error| invalid(key, error))?;
    // Fails also if the key is not that of the certificate.
    CertifiedKey::from_der(chain, private, provider).map_err(|error| invalid(key, error))
}

/// The fault of a file.
fn invalid(path: &Path, reason: impl fmt::Display) -> InvalidCertificate {
    InvalidCertificate { path: path.to_owned(), reason: reason.to_string() }
}
