//! Encrypted connections, with an authority of our own.

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

/// A server that only talks encrypted, and everybody's certificates.
struct Scene {
    folder: TempDir,
    server: PostgresServer,
}

impl Scene {
    /// `rule` is the last line of `pg_hba.conf`.
    fn new(rule: &str) -> Option<Self> {
        let folder = certificates();
        fs::write(folder.path().join("hba"), format!("{rule}\n")).unwrap();
        for_the_server(folder.path());
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
        PostgresOptions::new(&self.url(host)).unwrap().with_tls(tls)
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(folder).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, a certificate for `localhost` and one for the user `aios` from the first of them.
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

/// Lets the server's user in, and gives it its key, which it wants for itself.
fn for_the_server(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let key = folder.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Only root can, and only for root the server is another user.
    Command::new("chown").arg("postgres").arg(key).output().ok();
}

async fn refusal(options: PostgresOptions) -> (StoreError, String) {
    let error = PostgresStore::connect_with(options).await.unwrap_err();
    let message = Failure::from_error(error.code(), &error).message;
    (error, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_trust_the_right_server_only() {
    let Some(scene) = Scene::new("hostssl all all 127.0.0.1/32 trust") else { return };
    let store = PostgresStore::connect_with(scene.options("localhost", "ca.pem")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 0);
    for options in [
        scene.options("localhost", "other.pem"),
        scene.options("127.0.0.1", "ca.pem"),
        scene.options("localhost", "ca.pem").with_tls(Tls::VerifyFull(None)),
    ] {
        let (error, message) = refusal(options).await;
        assert!(message.contains("certificate"), "{message}");
        assert!(!error.is_retryable(), "{message}");
    }
    let verify_ca = |host: &str, authority: &str| {
        let tls = Tls::VerifyCa(Some(scene.file(authority)));
        scene.options(host, authority).with_tls(tls)
    };
    PostgresStore::connect_with(verify_ca("localhost", "ca.pem")).await.unwrap();
    // The driver knows one of the two ways in which rustls says that a name does not fit.
    for options in [verify_ca("localhost", "other.pem"), verify_ca("127.0.0.1", "ca.pem")] {
        let (error, message) = refusal(options).await;
        assert!(message.contains("certificate") && !error.is_retryable(), "{message}");
    }
    let open = scene.options("localhost", "ca.pem").with_tls(Tls::Disable);
    let (error, message) = refusal(open).await;
    assert!(message.contains("pg_hba.conf") && !error.is_retryable(), "{message}");
}

/// Opens a store whose pool and listener are connected, and returns how their sockets are set.
async fn sockets(server: &PostgresServer, options: PostgresOptions) -> Option<Vec<bool>> {
    let store = PostgresStore::connect_with(options).await.unwrap();
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == "0" {
        tokio::task::yield_now().await;
    }
    join_all((0..4).map(|_| store.head())).await;
    let sockets = aios_tests::socket::without_delay(&[server.port()])?;
    assert!(sockets.len() >= 2, "{sockets:?}");
    store.close().await;
    Some(sockets)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_at_once_what_it_has_to_say() {
    let rule = "hostssl all all 127.0.0.1/32 trust\nhostnossl all all 127.0.0.1/32 trust";
    let Some(scene) = Scene::new(rule) else { return };
    let url = scene.url("127.0.0.1");
    let options = || PostgresOptions::new(&url).unwrap();
    for options in [
        options(),
        options().with_tls(Tls::Require),
        scene.options("localhost", "ca.pem"),
        options().with_tls(Tls::Disable),
    ] {
        let Some(sockets) = sockets(&scene.server, options).await else { return };
        assert!(sockets.iter().all(|is_set| *is_set), "{sockets:?}");
    }
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    let Some(sockets) = sockets(&scene.server, PostgresOptions::from_pool(pool)).await else {
        return;
    };
    assert!(sockets.iter().all(|is_set| *is_set), "{sockets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_show_who_it_is() {
    let Some(scene) = Scene::new("hostssl all all 127.0.0.1/32 cert") else { return };
    let options = scene.options("localhost", "ca.pem");
    let (error, message) = refusal(options.clone()).await;
    assert!(message.contains("certificate") && !error.is_retryable(), "{message}");
    let (certificate, key) = (scene.file("client.pem"), scene.file("client.key"));
    let options = options.with_client_certificate(certificate, key);
    let store = PostgresStore::connect_with(options).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 0);
}
