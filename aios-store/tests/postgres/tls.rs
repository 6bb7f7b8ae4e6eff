//! Encrypted connections, with a private certificate authority.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use aios_core::{
    failure::Failure,
    store::{EventStore, StoreError},
};
use aios_store::postgres::{PostgresOptions, PostgresStore, Tls};
use aios_tests::postgres::PostgresServer;
use futures_util::future::join_all;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

/// A server with TLS, and the certificates of the server and the client.
struct Setup {
    folder: TempDir,
    server: PostgresServer,
}

impl Setup {
    /// `rule` is the last line of `pg_hba.conf`.
    fn new(rule: &str) -> Option<Self> {
        let folder = certificates();
        fs::write(folder.path().join("hba"), format!("{rule}\n")).unwrap();
        grant_to_server(folder.path());
        let setting = |name: &str, file: &str| format!("{name}={}/{file}", folder.path().display());
        let server = PostgresServer::start_with(&[
            "ssl=on",
            &setting("ssl_ca_file", "ca.pem"),
            &setting("ssl_cert_file", "server.pem"),
            &setting("ssl_key_file", "server.key"),
            &setting("hba_file", "hba"),
        ])?;
        Some(Self { folder, server })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, host: &str) -> String {
        format!("postgres://aios@{host}:{}/postgres", self.server.port())
    }

    fn options(&self, host: &str, authority: &str) -> PostgresOptions {
        let tls = Tls::VerifyFull(Some(self.file(authority)));
        PostgresOptions::new(&self.url(host)).with_tls(tls)
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(folder).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Creates two authorities, and certificates for `localhost` and for the user `aios` from the first one.
fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    for name in ["ca", "other"] {
        let arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -addext keyUsage=keyCertSign";
        openssl(path, &format!("{arguments} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    }
    certificate(path, "server", "localhost");
    certificate(path, "client", "aios");
    folder
}

fn certificate(folder: &Path, file: &str, name: &str) {
    let request = format!("req -newkey rsa:2048 -nodes -subj /CN={name}");
    openssl(folder, &format!("{request} -keyout {file}.key -out request"));
    fs::write(folder.join("names"), format!("subjectAltName=DNS:{name}\n")).unwrap();
    let sign = "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2";
    openssl(folder, &format!("{sign} -extfile names -out {file}.pem"));
}

/// Makes the folder readable for the user of the server, and that user the owner of the server's key.
fn grant_to_server(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let key = folder.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Fails unless run as root. Without root, the server runs as the same user, so it is not needed.
    Command::new("chown").arg("postgres").arg(key).output().ok();
}

async fn connect_error(options: PostgresOptions) -> (StoreError, String) {
    let error = PostgresStore::connect_with(options).await.unwrap_err();
    let message = Failure::from_error(error.code(), &error).message;
    (error, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_trust_the_right_server_only() {
    let Some(setup) = Setup::new("hostssl all all 127.0.0.1/32 trust") else { return };
    let store = PostgresStore::connect_with(setup.options("localhost", "ca.pem")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 0);
    for options in [
        setup.options("localhost", "other.pem"),
        setup.options("127.0.0.1", "ca.pem"),
        setup.options("localhost", "ca.pem").with_tls(Tls::VerifyFull(None)),
    ] {
        let (error, message) = connect_error(options).await;
        assert!(message.contains("certificate"), "{message}");
        assert!(!error.is_retryable(), "{message}");
    }
    let verify_ca = |host: &str, authority: &str| {
        let tls = Tls::VerifyCa(Some(setup.file(authority)));
        setup.options(host, authority).with_tls(tls)
    };
    PostgresStore::connect_with(verify_ca("localhost", "ca.pem")).await.unwrap();
    // The driver recognises only one of the two errors of rustls for a wrong name.
    for options in [verify_ca("localhost", "other.pem"), verify_ca("127.0.0.1", "ca.pem")] {
        let (error, message) = connect_error(options).await;
        assert!(message.contains("certificate") && !error.is_retryable(), "{message}");
    }
    let open = setup.options("localhost", "ca.pem").with_tls(Tls::Disable);
    let (error, message) = connect_error(open).await;
    assert!(message.contains("pg_hba.conf") && !error.is_retryable(), "{message}");
}

/// Opens a store, waits until its pool and listener are connected, and returns for each socket whether
/// `TCP_NODELAY` is set.
async fn sockets(server: &PostgresServer, options: PostgresOptions) -> Option<Vec<bool>> {
    let store = PostgresStore::connect_with(options).await.unwrap();
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == "0" {
        tokio::task::yield_now().await;
    }
    join_all((0..4).map(|_| store.head())).await;
    let sockets = aios_tests::socket::without_delay(&[server.port()])?;
    assert!(sockets.len() >= 2, "{sockets:?}");
    store.close().await.unwrap();
    Some(sockets)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_set_tcp_nodelay() {
    let rule = "hostssl all all 127.0.0.1/32 trust\nhostnossl all all 127.0.0.1/32 trust";
    let Some(setup) = Setup::new(rule) else { return };
    let url = setup.url("127.0.0.1");
    let options = || PostgresOptions::new(&url);
    for options in [
        options(),
        options().with_tls(Tls::Require),
        setup.options("localhost", "ca.pem"),
        options().with_tls(Tls::Disable),
    ] {
        let Some(sockets) = sockets(&setup.server, options).await else { return };
        assert!(sockets.iter().all(|is_set| *is_set), "{sockets:?}");
    }
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    let Some(sockets) = sockets(&setup.server, PostgresOptions::from_pool(pool)).await else {
        return;
    };
    assert!(sockets.iter().all(|is_set| *is_set), "{sockets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_authenticate_with_a_client_certificate() {
    let Some(setup) = Setup::new("hostssl all all 127.0.0.1/32 cert") else { return };
    let options = setup.options("localhost", "ca.pem");
    let (error, message) = connect_error(options.clone()).await;
    assert!(message.contains("certificate") && !error.is_retryable(), "{message}");
    let (certificate, key) = (setup.file("client.pem"), setup.file("client.key"));
    let options = options.with_client_certificate(certificate, key);
    let store = PostgresStore::connect_with(options).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 0);
}
