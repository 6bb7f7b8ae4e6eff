//! A server on a real socket, and its health.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_service::http::{ApiOptions, Shutdown, api, health, serve};
use axum::{
    Router, body::Body, extract::connect_info::MockConnectInfo, http::Request, routing::get,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Service, answer};

struct Server {
    service: Service,
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn server() -> Server {
    server_with(Shutdown::new()).await
}

async fn server_with(shutdown: Shutdown) -> Server {
    let service = Service::in_memory().await;
    let options = ApiOptions::new().with_shutdown(shutdown.clone());
    let router = Router::new()
        .route("/own", get(async || "mine"))
        .nest("/some/where", api(Arc::clone(&service.runtime), options))
        .merge(health(Arc::clone(&service.runtime), shutdown.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, router, shutdown.clone()));
    Server { service, address, shutdown, serving }
}

impl Server {
    /// Sends text, and returns what comes back until the end of the connection.
    async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        let head = "Host: localhost\r\nConnection: close";
        self.raw(&format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_the_api_beside_own_routes() {
    let server = server().await;
    assert!(server.get("/own").await.ends_with("mine"));
    assert!(server.get("/some/where/runs").await.starts_with("HTTP/1.1 200"));
    let missing = server.get("/some/where/nothing").await;
    assert!(
        missing.starts_with("HTTP/1.1 404") && missing.contains("ROUTE_NOT_FOUND"),
        "{missing}"
    );
    server.shutdown.begin();
    server.serving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_be_mounted_at_a_path_with_parameters() {
    let service = Service::in_memory().await;
    let peer = MockConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4711)));
    let mounted = api(Arc::clone(&service.runtime), ApiOptions::new());
    let of_tenant = Router::new().nest("/shops/{tenant}/api", mounted);
    let router = Router::new().nest("/of/{region}", of_tenant).layer(peer);
    let ask = async |method: &str, path: &str, body: &'static str| {
        let request =
            Request::builder().method(method).uri(format!("/of/eu/shops/tea%20shop/api{path}"));
        let request =
            request.header("host", "localhost").header("content-type", "application/json");
        answer(&router, request.body(Body::from(body)).unwrap()).await
    };
    let start = r#"{ "run_id": "r/1" }"#;
    let started = ask("POST", "/workflows/approval/actions/execute", start).await;
    assert_eq!(started.status, 202, "{started:?}");
    assert_eq!(started.headers["location"], "/of/eu/shops/tea%20shop/api/runs/r%2F1");
    assert_eq!(ask("GET", "/runs/r%2F1", "").await.body["data"]["id"], "r/1");
    assert_eq!(ask("GET", "/runs/r%2F1?nothing=1", "").await.fault(), (400, "MALFORMED_REQUEST"));
    let page = ask("GET", "/dead-letters/groups/a.group", "").await;
    assert_eq!(page.fault(), (404, "UNKNOWN_ADDRESS"));
    let message = page.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("a.group"), "{page:?}");
    let missing = ask("GET", "/runs/gone/streams/words", "").await;
    assert_eq!(missing.fault(), (404, "RUN_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_finish_requests_and_take_no_more_when_it_shuts_down() {
    let server = server().await;
    let run = server.service.runtime.start("approval", &1).id("r1").await.unwrap();
    let waiting = server.get("/some/where/runs/r1/result?wait=20s");
    let end = async {
        // The request waits once the server has accepted it; until then, it is not refused either.
        while server.get("/health/ready").await.contains("503") {}
        server.shutdown.begin();
    };
    let (answer, ()) = tokio::join!(waiting, end);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 202"), "{answer}");
    server.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
    run.cancel("done").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_that_it_is_not_ready_before_it_takes_no_more_connections() {
    let server = server_with(Shutdown::new().with_accept_delay(Duration::from_secs(3))).await;
    assert!(server.get("/health/ready").await.starts_with("HTTP/1.1 200"));
    server.shutdown.begin();
    assert!(server.get("/health/ready").await.starts_with("HTTP/1.1 503"));
    assert!(server.get("/own").await.ends_with("mine"));
    server.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_others_beside_connections_that_say_nothing() {
    let server = server().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /own HTTP/1.1\r\nHo").await.unwrap();
        silent.push(stream);
    }
    assert!(server.get("/own").await.ends_with("mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_smuggled_headers_and_large_ones() {
    let server = server().await;
    let id = "x-request-id: a\r\nset-cookie: b";
    let answer = server
        .raw(&format!("GET /some/where/runs/%0d%0aset-cookie:%20x HTTP/1.1\r\nHost: localhost\r\n{id}\r\nConnection: close\r\n\r\n"))
        .await;
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(!head.contains("set-cookie"), "{answer}");
    let large =
        format!("GET /own HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(large.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_tell_that_it_is_alive_and_not_ready_while_it_shuts_down() {
    let service = Service::in_memory().await;
    let shutdown = Shutdown::new();
    let router = health(Arc::clone(&service.runtime), shutdown.clone());
    let ask = async |path: &str| {
        let get = axum::http::Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        crate::support::answer(&router, get).await
    };
    for path in ["/health/live", "/health/ready", "/health/startup"] {
        assert_eq!(ask(path).await.status, 200, "{path}");
    }
    shutdown.begin();
    let ready = ask("/health/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body["checks"]["process"], "shutting down");
    assert_eq!(ask("/health/live").await.status, 200);
    service.runtime.broker().close(Duration::from_secs(1)).await.unwrap();
    assert_eq!(ask("/health/ready").await.body["checks"]["broker"], "closed");
    assert_eq!(ask("/health/live").await.status, 200, "live depends on no server");
}
