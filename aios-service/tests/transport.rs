//! Clients that are slow, send too much or hold connections.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use aios_service::http::{ApiOptions, ServeOptions, Shutdown, api, serve_with};
use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, StatusCode},
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::{Answer, Service};

const SHORT: Duration = Duration::from_millis(200);

/// Serves routes of this test, and the API at `/api`.
async fn start(router: Router, options: ServeOptions) -> SocketAddr {
    let service = Service::in_memory().await;
    let router = router.nest("/api", api(service.runtime, ApiOptions::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_with(listener, router, options, Shutdown::new()));
    address
}

fn own() -> Router {
    Router::new()
        .route("/own", get(async || "mine"))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
}

async fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// The bytes that come until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset also ends the connection.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get_own(address: SocketAddr) -> String {
    let head = "GET /own HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    rest(connect(address, head).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_others_when_half_open_connections_reach_the_limit() {
    let address = start(own(), ServeOptions::new().with_max_connections(20)).await;
    let mut half_open = Vec::new();
    for number in 0..200 {
        let text = if number % 2 == 0 { "GET /own HTTP/1.1\r\nHo" } else { "" };
        half_open.push(connect(address, text).await);
    }
    for _ in 0..10 {
        assert!(get_own(address).await.ends_with("mine"));
    }
    let mut closed = 0;
    for stream in half_open.into_iter().take(150) {
        rest(stream).await;
        closed += 1;
    }
    assert_eq!(closed, 150, "those that waited longest were closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_the_host_of_an_absolute_target() {
    let named = get(async |headers: HeaderMap| headers["host"].to_str().unwrap().to_owned());
    let address = start(Router::new().route("/host", named), ServeOptions::new()).await;
    let ask = async |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        rest(connect(address, &head).await).await
    };
    assert!(ask("/host").await.ends_with("\r\n\r\nlocalhost"));
    assert!(ask("http://example.org/host").await.ends_with("\r\n\r\nexample.org"));
    // Callers without credentials are on this machine, and name it.
    let refused = ask("http://example.org/api/runs").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(ask("http://localhost/api/runs").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_close_no_connection_with_a_request_for_another() {
    let (begun, mut begins) = mpsc::channel::<()>(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = async move || {
        begun.send(()).await.unwrap();
        let _ = released.clone().wait_for(|released| *released).await;
        "done"
    };
    let router = own().route("/slow", get(slow));
    let address = start(router, ServeOptions::new().with_max_connections(1)).await;
    let head = "GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let slow = connect(address, head).await;
    begins.recv().await.unwrap();
    let waiting = tokio::spawn(get_own(address));
    release.send_replace(true);
    assert!(rest(slow).await.ends_with("done"));
    assert!(waiting.await.unwrap().ends_with("mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_close_connections_whose_headers_do_not_end() {
    let address = start(own(), ServeOptions::new().with_header_timeout(SHORT)).await;
    for text in ["", "GET /own HTTP/1.1\r\nHo", "GET /own HTTP/1.1\r\nHost: localhost\r\n"] {
        assert_eq!(rest(connect(address, text).await).await, "", "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_close_connections_without_a_request() {
    let address = start(own(), ServeOptions::new().with_idle_timeout(SHORT)).await;
    assert_eq!(rest(connect(address, "GET").await).await, "");
    let stream = connect(address, "GET /own HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(rest(stream).await.ends_with("mine"), "a connection that is kept after a request");
}

/// A proxy keeps connections for longer than a client may take for headers.
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_a_connection_between_requests_until_the_idle_timeout() {
    let options = ServeOptions::new().with_header_timeout(SHORT);
    let address = start(own(), options.with_idle_timeout(Duration::from_secs(60))).await;
    let head = "GET /own HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stream = connect(address, head).await;
    let mut answer = vec![0; 4096];
    for _ in 0..2 {
        let length = stream.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..length]).ends_with("mine"));
        SystemClock.sleep(SHORT * 4).await;
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    let length = stream.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..length]).ends_with("mine"));
    stream.write_all(b"GET /own HTTP/1.1\r\nHo").await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), rest(stream)).await;
    assert_eq!(closed.unwrap(), "", "headers that do not end close it earlier");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_fail_requests_whose_bodies_do_not_end() {
    let address = start(own(), ServeOptions::new().with_body_timeout(SHORT)).await;
    let head = "POST /length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    for body in
        ["Content-Length: 10\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"]
    {
        let answer = rest(connect(address, &format!("{head}{body}")).await).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let whole = connect(address, &format!("{head}Content-Length: 5\r\n\r\n12345")).await;
    assert!(rest(whole).await.ends_with('5'));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_stop_reading_chunked_bodies_above_the_limit() {
    let address = start(own(), ServeOptions::new()).await;
    let head = "POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut reader, mut writer) = connect(address, head).await.into_split();
    let sending = tokio::spawn(async move {
        let chunk = format!("10000\r\n{}\r\n", "[".repeat(0x10000));
        // Until the server closes the connection.
        while writer.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(reader);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_headers_that_are_too_large_or_too_many() {
    let options = ServeOptions::new().with_max_header_bytes(8 * 1024);
    let address = start(own(), options).await;
    let head = "GET /own HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let large = format!("{head}x: {}\r\n\r\n", "x".repeat(9000));
    let many = format!("{head}{}\r\n", "x: y\r\n".repeat(200));
    for text in [large, many] {
        let refused = refusal(&rest(connect(address, &text).await).await);
        assert_eq!(refused.fault(), (431, "HEADERS_TOO_LARGE"), "{refused:?}");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains("8192 bytes"));
    }
    let fitting = format!("{head}x: {}\r\n\r\n", "x".repeat(7000));
    assert!(rest(connect(address, &fitting).await).await.ends_with("mine"));
}

/// The whole answer of a server that closes the connection.
fn refusal(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let (line, lines) = head.split_once("\r\n").unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HeaderMap = lines
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer:?}"));
    Answer { status, headers, body }
}

/// Requests that are refused before a route is looked for, over HTTP/1.1.
const UNREADABLE: [(&str, u16, &str); 6] = [
    ("GET /own\r\n\r\n", 400, "MALFORMED_REQUEST"),
    ("\u{1} /own HTTP/1.1\r\n\r\n", 400, "MALFORMED_REQUEST"),
    ("GET /own HTTP/3.1\r\n\r\n", 400, "MALFORMED_REQUEST"),
    ("GET /own HTTP/1.1\r\nno header\r\n\r\n", 400, "MALFORMED_REQUEST"),
    ("POST /length HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
    ("GET ht/tp:own HTTP/1.1\r\n\r\n", 400, "MALFORMED_REQUEST"),
];

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_requests_that_cannot_be_read_in_the_shape_of_errors() {
    let options = ServeOptions::new().with_max_header_bytes(256 * 1024);
    let address = start(own(), options).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000));
    let unreadable = UNREADABLE.into_iter().chain([(long.as_str(), 414, "URI_TOO_LONG")]);
    let before = "GET /own HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (text, status, code) in unreadable {
        let refused = refusal(&rest(connect(address, text).await).await);
        assert_eq!(refused.fault(), (status, code), "{text:.40}");
        for (name, value) in [
            ("connection", "close"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(refused.headers[name], value, "{text:.40}");
        }
        assert!(refused.headers.contains_key("date"), "{text:.40}");
        // The answer before it is unchanged, whether the client waits for it or not.
        let mut stream = connect(address, before).await;
        let mut first = vec![0; 4096];
        let length = stream.read(&mut first).await.unwrap();
        assert!(String::from_utf8_lossy(&first[..length]).ends_with("mine"));
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(refusal(&rest(stream).await).fault(), (status, code), "{text:.40}");
        let both = rest(connect(address, &format!("{before}{text}")).await).await;
        let (first, refused) = both.split_once("mine").unwrap();
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert_eq!(refusal(refused).fault(), (status, code), "{text:.40}");
    }
}

/// The answers of handlers are not mistaken for refusals of the server.
#[tokio::test(flavor = "multi_thread")]
async fn should_send_the_refusals_of_handlers_as_they_are() {
    let refused = get(async || (StatusCode::BAD_REQUEST, ""));
    let text: &'static str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let quoted = get(async move || {
        let parts = [&text[..1], &text[1..], text];
        let parts = parts.map(|part| Bytes::from_static(part.as_bytes()));
        Body::from_stream(stream::iter(parts).then(async |part| {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(part)
        }))
    });
    let router = own().route("/refused", refused).route("/quoted", quoted);
    let address = start(router, ServeOptions::new()).await;
    let ask = async |path: &str| {
        let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        rest(connect(address, &head).await).await
    };
    let answer = ask("/refused").await;
    assert!(answer.starts_with("HTTP/1.0 400") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(!answer.contains("x-request-id"), "{answer}");
    let answer = ask("/quoted").await;
    assert!(answer.ends_with(&format!("\r\n\r\n{text}{text}")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_disconnect_clients_that_take_nothing() {
    /// Tells that the body was dropped.
    struct Dropped(mpsc::Sender<()>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }

    let (ended, mut ends) = mpsc::channel(1);
    let endless = async move || {
        let dropped = Dropped(ended.clone());
        let chunks = stream::repeat(Bytes::from(vec![b'x'; 64 * 1024]));
        Body::from_stream(chunks.map(move |chunk| {
            let _ = &dropped;
            Ok::<_, Infallible>(chunk)
        }))
    };
    let router = own().route("/endless", get(endless));
    let address = start(router, ServeOptions::new().with_write_timeout(SHORT)).await;
    let silent = connect(address, "GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    ends.recv().await.unwrap();
    drop(silent);
}
