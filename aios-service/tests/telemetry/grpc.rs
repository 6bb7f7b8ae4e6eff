//! Traces and metrics at a collector of gRPC.

use std::{convert::Infallible, future::pending, process::Command, sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_service::{
    config::Protocol,
    telemetry::{
        Metrics,
        otlp::{Collector, CollectorError},
    },
};
use axum::{
    body::Bytes,
    http::{HeaderMap, Request, Response},
};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest,
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use parking_lot::Mutex;
use prost::Message;
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{service, settings, stop};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The URL to which a process of a test sends.
const URL: &str = "AIOS_TEST_COLLECTOR_URL";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
/// `google.rpc.Status` with a `RetryInfo` of 2 s, as headers have it.
const RETRY_IN_2_S: &str = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg";

/// How a collector answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Takes all but this many spans.
    Rejects(i64),
    /// With a status, a message and its details.
    Status(u32, &'static str, Option<&'static str>),
    /// With a status of HTTP, as a proxy does.
    Http(u16),
    Nothing,
}

/// A call: its path, its headers and its message.
type Call = (String, HeaderMap, Bytes);
type Calls = Arc<Mutex<Vec<Call>>>;

/// A collector on a free port. Returns its URL and the calls that it gets.
async fn collector(answer: Answer) -> (String, Calls) {
    let calls = Calls::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shared = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer, Arc::clone(&shared)));
        }
    });
    (url, calls)
}

/// A collector over TLS. Returns its port, its certificate in PEM and the calls that it gets.
async fn tls_collector() -> (u16, String, Calls) {
    let new = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(new.signing_key.serialize_der());
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![new.cert.der().clone()], key.into())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let calls = Calls::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the handshake.
            if let Ok(stream) = tls.accept(stream).await {
                tokio::spawn(serve(stream, Answer::Rejects(0), Arc::clone(&shared)));
            }
        }
    });
    (port, new.cert.pem(), calls)
}

async fn serve<S>(stream: S, answer: Answer, calls: Calls)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let serve = service_fn(move |request| take(request, answer, Arc::clone(&calls)));
    let connection = http2::Builder::new(TokioExecutor::new());
    // Fails if the client goes away.
    let _ = connection.serve_connection(TokioIo::new(stream), serve).await;
}

async fn take(
    request: Request<Incoming>,
    answer: Answer,
    calls: Calls,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (prefix, message) = body.split_at(5);
    assert_eq!(prefix[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
    calls.lock().push((head.uri.path().to_owned(), head.headers, body.slice(5..)));
    let response = Response::builder().header("content-type", "application/grpc");
    let (response, frames) = match answer {
        Answer::Rejects(rejected) => {
            let error_message = "too old".to_owned();
            let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message };
            let message = ExportTraceServiceResponse { partial_success: Some(partial) };
            let message = message.encode_to_vec();
            let mut data = vec![0];
            data.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            data.extend(message);
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            (response, vec![Frame::data(Bytes::from(data)), Frame::trailers(trailers)])
        }
        Answer::Status(status, message, details) => {
            let mut response =
                response.header("grpc-status", status).header("grpc-message", message);
            if let Some(details) = details {
                response = response.header("grpc-status-details-bin", details);
            }
            (response, Vec::new())
        }
        Answer::Http(status) => (response.status(status), Vec::new()),
        Answer::Nothing => pending().await,
    };
    let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok)));
    Ok(response.body(BodyExt::boxed(body)).unwrap())
}

fn client(url: &str) -> Collector {
    Collector::new(url, "orders").unwrap().try_with_protocol(Protocol::Grpc).unwrap()
}

async fn refusal(answer: Answer) -> CollectorError {
    let (url, _) = collector(answer).await;
    client(&url).send(&[]).await.unwrap_err()
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.step("greet", || async { Ok::<_, TaskError>(format!("Hello, {name}!")) }).await
}

/// The recorder is that of the thread, so the service runs on one thread.
#[tokio::test]
async fn should_send_traces_and_metrics_by_grpc() {
    let (url, calls) = collector(Answer::Rejects(0)).await;
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let settings = settings()
        .value("telemetry.traces.endpoint", url.as_str())
        .value("telemetry.traces.protocol", "grpc")
        .value("telemetry.traces.headers.x_api_key", "hunter2")
        .value("telemetry.metrics.endpoint", url.as_str())
        .value("telemetry.metrics.protocol", "grpc");
    let service = service(settings).metrics(metrics.clone()).workflow("welcome", welcome);
    let service = service.start().await.unwrap();
    let run = service.runtime().start("welcome", "Ada").await.unwrap();
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
    stop(service).await;

    let calls = calls.lock();
    let of = |path: &str| calls.iter().filter(|call| call.0 == path).collect::<Vec<_>>();
    let mut names = Vec::new();
    for (_, headers, message) in of(TRACES) {
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "10S"),
            ("x-api-key", "hunter2"),
        ] {
            assert_eq!(headers[name], value);
        }
        let request = ExportTraceServiceRequest::decode(message.clone()).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|it| it.scope_spans);
        names.extend(scopes.flat_map(|it| it.spans).map(|span| span.name));
    }
    assert!(names.iter().any(|name| name == "workflow welcome"), "{names:?}");
    let (_, _, last) = *of(METRICS).last().unwrap();
    let last = ExportMetricsServiceRequest::decode(last.clone()).unwrap();
    assert!(aios_tests::otlp::metric(&last, "aios_runs_started_total").is_some(), "{last:#?}");
}

/// The process that the next test starts.
#[tokio::test]
#[ignore = "started as a process by another test"]
async fn sending_process() {
    let Some(url) = std::env::var_os(URL) else { return };
    client(url.to_str().unwrap()).send(&[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_over_tls_to_a_collector_that_the_system_trusts() {
    let (port, certificate, calls) = tls_collector().await;
    let url = format!("https://localhost:{port}");
    let error = client(&url).send(&[]).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(matches!(error, CollectorError::Unreachable { .. }), "{error:?}");
    assert!(calls.lock().is_empty());

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "telemetry::grpc::sending_process"]);
    command.env(URL, url).env("SSL_CERT_FILE", file.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let calls = calls.lock();
    let [(path, ..)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(path, TRACES);
}

#[tokio::test]
async fn should_tell_what_the_collector_rejects() {
    let (url, _) = collector(Answer::Rejects(3)).await;
    let receipt = client(&url).send(&[]).await.unwrap();
    assert_eq!((receipt.rejected, receipt.message.as_deref()), (3, Some("too old")));
}

#[tokio::test]
async fn should_tell_which_statuses_go_away() {
    for (answer, says, is_retryable) in [
        (Answer::Status(14, "", None), "UNAVAILABLE", true),
        (Answer::Status(4, "", None), "DEADLINE_EXCEEDED", true),
        (Answer::Status(8, "", None), "RESOURCE_EXHAUSTED", false),
        (Answer::Status(8, "", Some(RETRY_IN_2_S)), "RESOURCE_EXHAUSTED", true),
        (Answer::Status(3, "%E2%82%AC 5", None), "INVALID_ARGUMENT: € 5", false),
        (Answer::Status(16, "", None), "UNAUTHENTICATED", false),
        (Answer::Http(503), "UNAVAILABLE", true),
        (Answer::Http(404), "UNIMPLEMENTED", false),
    ] {
        let error = refusal(answer).await;
        assert!(error.to_string().ends_with(says), "{answer:?}: {error}");
        assert_eq!(error.is_retryable(), is_retryable, "{answer:?}");
        assert_eq!(error.code(), "COLLECTOR_REFUSED");
    }
    let error = refusal(Answer::Status(8, "", Some(RETRY_IN_2_S))).await;
    let CollectorError::GrpcStatus { retry_after, .. } = error else { panic!("{error}") };
    assert_eq!(retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn should_give_up_a_collector_that_speaks_no_grpc_or_is_silent() {
    let silent = refusal(Answer::Nothing);
    let other = aios_tests::otlp::Collector::start(aios_tests::otlp::Answer::Status(200));
    let other = client(&other.url());
    let (silent, other) = tokio::join!(silent, other.send(&[]));
    assert!(matches!(silent, CollectorError::Unreachable { .. }), "{silent}");
    assert!(matches!(other, Err(CollectorError::Unreachable { .. })), "{other:?}");
}

#[test]
fn should_refuse_a_path_of_a_collector_of_grpc() {
    let collector = Collector::new("http://collector:4317/v1/traces", "orders").unwrap();
    let error = collector.try_with_protocol(Protocol::Grpc).unwrap_err().to_string();
    assert!(error.contains("has no path"), "{error}");
}
