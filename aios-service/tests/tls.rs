//! TLS, HTTP/2, and certificates that change.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use aios_service::http::{ServeOptions, Shutdown, Tls, serve_with};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode, Version},
    routing::get,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Builder, Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::Answer;

/// A busy machine takes long; a test that fails must end.
const GENEROUS: Duration = Duration::from_secs(30);

/// Files of a server, and the clients that trust them.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    /// Writes a new certificate, and returns a client that trusts no other.
    fn renew(&self) -> ClientConfig {
        let new = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.certificate(), new.cert.pem()).unwrap();
        std::fs::write(self.key(), new.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(new.cert.der().clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    async fn load(&self) -> Tls {
        Tls::from_files(self.certificate(), self.key()).await.unwrap()
    }
}

async fn start(options: ServeOptions) -> SocketAddr {
    let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>, headers: HeaderMap| {
        assert!(headers["host"].to_str().unwrap().starts_with("localhost:"));
        peer.ip().to_string()
    };
    start_router(Router::new().route("/peer", get(peer)), options).await
}

async fn start_router(router: Router, options: ServeOptions) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_with(listener, router, options, Shutdown::new()));
    address
}

fn client(config: &ClientConfig, version: Version) -> Client<HttpsConnector<HttpConnector>, Body> {
    client_with(config, version, Client::builder(TokioExecutor::new()))
}

fn client_with(
    config: &ClientConfig,
    version: Version,
    mut builder: Builder,
) -> Client<HttpsConnector<HttpConnector>, Body> {
    let connector = HttpsConnectorBuilder::new().with_tls_config(config.clone()).https_only();
    match version {
        Version::HTTP_2 => builder.http2_only(true).build(connector.enable_http2().build()),
        _ => builder.build(connector.enable_http1().build()),
    }
}

/// A request for the address of the client.
fn request(address: SocketAddr, header: &str) -> Request<Body> {
    Request::get(format!("https://localhost:{}/peer", address.port()))
        .header("x", header)
        .body(Body::empty())
        .unwrap()
}

async fn ask(
    address: SocketAddr,
    config: &ClientConfig,
    version: Version,
    header: &str,
) -> Result<(StatusCode, Version), Error> {
    let response = client(config, version).request(request(address, header)).await?;
    Ok((response.status(), response.version()))
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_both_versions_of_http_over_tls() {
    let files = Files::new();
    let trusting = files.renew();
    let address = start(ServeOptions::new().with_tls(files.load().await)).await;
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let answer = ask(address, &trusting, version, "").await.unwrap();
        assert_eq!(answer, (StatusCode::OK, version));
    }
    let other = Files::new().renew();
    assert!(ask(address, &other, Version::HTTP_11, "").await.is_err(), "an unknown certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_close_connections_without_tls() {
    let files = Files::new();
    let trusting = files.renew();
    let options = ServeOptions::new()
        .with_tls(files.load().await)
        .with_header_timeout(Duration::from_millis(200));
    let address = start(options).await;
    for text in ["GET /peer HTTP/1.1\r\nHost: localhost\r\n\r\n", "", "\x16\x03\x01"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{text:?}");
    }
    assert!(ask(address, &trusting, Version::HTTP_2, "").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_limit_the_headers_of_http_2() {
    let files = Files::new();
    let trusting = files.renew();
    let options = ServeOptions::new().with_tls(files.load().await).with_max_header_bytes(8192);
    let address = start(options).await;
    assert!(ask(address, &trusting, Version::HTTP_2, &"x".repeat(4000)).await.is_ok());
    let large = ask(address, &trusting, Version::HTTP_2, &"x".repeat(100_000)).await;
    assert!(large.map_or(true, |(status, _)| status == 431));
    let larger = client(&trusting, Version::HTTP_2).request(request(address, &"x".repeat(9000)));
    let (parts, body) = larger.await.unwrap().into_parts();
    let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    let refused = Answer { status: parts.status, headers: parts.headers, body };
    assert_eq!(refused.fault(), (431, "HEADERS_TOO_LARGE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_close_http_2_connections_without_a_request() {
    let files = Files::new();
    let mut trusting = files.renew();
    trusting.alpn_protocols = vec![b"h2".to_vec()];
    let options = ServeOptions::new()
        .with_tls(files.load().await)
        .with_idle_timeout(Duration::from_millis(200));
    let address = start(options).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The server says what it supports, and then closes the connection.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_use_new_certificates_and_keep_the_old_one_when_they_are_bad() {
    let files = Files::new();
    let first = files.renew();
    let tls = files.load().await;
    let address = start(ServeOptions::new().with_tls(tls.clone())).await;
    assert_eq!(tls.reload().await, Ok(false));

    let second = files.renew();
    assert_eq!(tls.reload().await, Ok(true));
    assert!(ask(address, &second, Version::HTTP_11, "").await.is_ok());
    assert!(ask(address, &first, Version::HTTP_11, "").await.is_err());

    let key = std::fs::read(files.key()).unwrap();
    files.renew();
    std::fs::write(files.key(), key).unwrap();
    let mismatch = tls.reload().await.unwrap_err();
    assert_eq!(mismatch.path, files.key(), "{mismatch}");
    std::fs::write(files.certificate(), "nothing").unwrap();
    let empty = tls.reload().await.unwrap_err();
    assert_eq!(empty.path, files.certificate(), "{empty}");
    std::fs::remove_file(files.key()).unwrap();
    assert_eq!(tls.reload().await.unwrap_err().path, files.key());
    assert!(ask(address, &second, Version::HTTP_2, "").await.is_ok());

    let third = files.renew();
    assert_eq!(tls.reload().await, Ok(true));
    assert!(ask(address, &third, Version::HTTP_2, "").await.is_ok());
    assert!(!format!("{tls:?}").contains("PRIVATE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_notice_that_the_files_have_changed() {
    let files = Files::new();
    files.renew();
    let address = start(ServeOptions::new().with_tls(files.load().await)).await;
    let second = files.renew();
    while ask(address, &second, Version::HTTP_11, "").await.is_err() {
        SystemClock.sleep(Duration::from_millis(100)).await;
    }
}

/// A client that lets the server send no byte of a body, and answers its pings, keeps no other out.
#[tokio::test(flavor = "multi_thread")]
async fn should_close_http_2_connections_whose_client_takes_nothing() {
    let files = Files::new();
    let trusting = files.renew();
    let short = Duration::from_millis(200);
    let options = ServeOptions::new()
        .with_tls(files.load().await)
        .with_max_connections(1)
        .with_write_timeout(short)
        .with_idle_timeout(short);
    let address = start(options).await;
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_initial_stream_window_size(0);
    let stuck = client_with(&trusting, Version::HTTP_2, builder);
    let response = stuck.request(request(address, "")).await.unwrap();
    let other = ask(address, &trusting, Version::HTTP_2, "");
    let other = tokio::time::timeout(GENEROUS, other).await.expect("the other is kept out");
    assert_eq!(other.unwrap().0, StatusCode::OK);
    drop(response);
}

/// Each part that a client takes gives it more time, however large the body is.
#[tokio::test(flavor = "multi_thread")]
async fn should_send_large_bodies_over_http_2() {
    let files = Files::new();
    let trusting = files.renew();
    let large = Bytes::from((0..1_000_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    let body = large.clone();
    let router = Router::new().route("/large", get(async move || body));
    let address = start_router(router, ServeOptions::new().with_tls(files.load().await)).await;
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let url = format!("https://localhost:{}/large", address.port());
        let request = Request::get(url).body(Body::empty()).unwrap();
        let response = client(&trusting, version).request(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "4000000");
        let got = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
        assert!(got == large, "{version:?}");
    }
}
