//! Encrypted connections, with a private certificate authority.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_core::{
    broker::{Broker, BrokerError, BrokerExt, Health},
    failure::Failure,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(folder).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Creates an authority, and a certificate for `localhost` that it signed.
fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    authority(path, "ca");
    authority(path, "other");
    openssl(path, "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request");
    fs::write(path.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        path,
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    );
    folder
}

fn authority(folder: &Path, name: &str) {
    let arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -addext keyUsage=keyCertSign";
    openssl(folder, &format!("{arguments} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
}

/// The configuration with which a server presents its certificate.
fn tls_settings(folder: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("listeners.ssl.default = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {}", file("ca.pem")),
        format!("ssl_options.certfile = {}", file("cert.pem")),
        format!("ssl_options.keyfile = {}", file("key.pem")),
    ]
}

async fn connect(
    scheme: &str,
    host: &str,
    port: u16,
    ca: Option<String>,
) -> Result<RabbitMqBroker, BrokerError> {
    let mut options = RabbitMqOptions::new(format!("{scheme}://guest:guest@{host}:{port}/%2f"))
        .with_connect_deadline(Duration::from_secs(2));
    if let Some(ca) = ca {
        options = options.with_ca_certificates(ca);
    }
    RabbitMqBroker::connect_with(options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_trust_the_right_authority_only() {
    let folder = certificates();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut settings = tls_settings(folder.path(), port);
    settings.push("ssl_options.verify = verify_none".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = RabbitMqServer::start_with(&settings) else { return };
    let pem = |name: &str| Some(fs::read_to_string(file(name)).unwrap());

    let broker = connect("amqps", "localhost", port, pem("ca.pem")).await.unwrap();
    assert_eq!(broker.health_now(), Health::Connected);
    let plain = RabbitMqBroker::connect(&server.url()).await.unwrap();
    // Each broker publishes and consumes on its own connection.
    if let Some(sockets) = aios_tests::socket::without_delay(&[port, server.port()]) {
        assert_eq!(sockets, [true; 4]);
    }
    plain.close(DAY).await.unwrap();
    broker.close(DAY).await.unwrap();

    for (host, ca) in
        [("localhost", pem("other.pem")), ("localhost", None), ("127.0.0.1", pem("ca.pem"))]
    {
        let error = connect("amqps", host, port, ca).await.unwrap_err();
        let message = Failure::from_error(error.code(), &error).message;
        assert!(message.contains("certificate"), "{message}");
    }
    let error = connect("amqp", "localhost", port, None).await.unwrap_err();
    assert!(matches!(error.code(), "BROKER_BACKEND" | "BROKER_TIMEOUT"), "{error:?}");
    let error = connect("amqps", "localhost", server.port(), pem("ca.pem")).await.unwrap_err();
    assert!(matches!(error.code(), "BROKER_BACKEND" | "BROKER_TIMEOUT"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_show_its_certificate_to_a_server_that_asks() {
    let folder = certificates();
    let path = |name: &str| folder.path().join(name);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut settings = tls_settings(folder.path(), port);
    settings.push("ssl_options.verify = verify_peer".to_owned());
    settings.push("ssl_options.fail_if_no_peer_cert = true".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = RabbitMqServer::start_with(&settings) else { return };
    let options = || {
        RabbitMqOptions::new(format!("amqps://guest:guest@localhost:{port}/%2f"))
            .with_ca_certificates(fs::read_to_string(path("ca.pem")).unwrap())
            .with_connect_deadline(Duration::from_secs(2))
    };
    let file = |name: &str| fs::read(path(name)).unwrap();
    let known = options().with_client_certificate(file("cert.pem"), file("key.pem"));
    let broker = RabbitMqBroker::connect_with(known).await.unwrap();
    assert_eq!(broker.health_now(), Health::Connected);
    broker.close(DAY).await.unwrap();

    let unknown = options().with_client_certificate(file("other.pem"), file("other.key"));
    for (refused, alert) in [(options(), "certificate required"), (unknown, "bad certificate")] {
        let error = RabbitMqBroker::connect_with(refused).await.unwrap_err();
        assert!(matches!(error, BrokerError::Backend { .. }), "{error:?}");
        // In TLS 1.3 the client may see the closed connection before the reason.
        let log = server.log().to_lowercase();
        assert!(log.contains(alert), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_say_at_once_that_the_password_is_wrong() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let url = format!("amqp://guest:wrong@127.0.0.1:{}/%2f", server.port());
    let options = RabbitMqOptions::new(url).with_connect_deadline(DAY);
    let error = RabbitMqBroker::connect_with(options).await.unwrap_err();
    let message = Failure::from_error(error.code(), &error).message;
    assert!(message.contains("ACCESS_REFUSED") || message.contains("refused"), "{message}");
    assert!(!error.is_retryable());
}
