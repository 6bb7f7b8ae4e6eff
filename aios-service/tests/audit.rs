//! Audit events.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aios_core::{catalog::system::ApiCalled, store::RecordedEvent};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, Audit},
};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Answer, Service, request};

const KEY: &str = "5f0f3a0c1b5d4f6e8a7b9c0d1e2f3a4b";

fn options() -> ApiOptions {
    let permissions = Permissions::parse(["runs:*", "events:read"]).unwrap();
    let key = ApiKey::new(ApiKeyHash::of(KEY), "ada").with_permissions(permissions);
    ApiOptions::new().with_authenticator(ApiKeys::new([key]))
}

fn call(method: Method, path: &str, body: &str) -> Request<Body> {
    let mut request = request(method, path, Some(body.to_owned()));
    let mut insert = |name: &'static str, value: &'static str| {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    insert("x-api-key", KEY);
    insert("x-request-id", "req-1");
    insert("x-forwarded-for", "203.0.113.7");
    insert("user-agent", "tests");
    request
}

async fn send(service: &Service, method: Method, path: &str, body: &str) -> Answer {
    service.send(call(method, path, body)).await
}

/// The audit events of a service.
async fn events(service: &Service) -> Vec<(RecordedEvent, ApiCalled)> {
    let log = service.runtime.store().unwrap().read_log(0, 1000).await.unwrap();
    let audits = log.into_iter().filter(|it| it.event.event_type.as_str() == "system.api.called");
    let read = |event: RecordedEvent| {
        let data = event.event.payload.decode().unwrap();
        (event, data)
    };
    audits.map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_who_changed_what_and_the_outcome() {
    let service = Service::with(options()).await;
    let start = json!({ "run_id": "r1", "input": "a secret" }).to_string();
    let path = "/workflows/approval/actions/execute";
    assert_eq!(send(&service, Method::POST, path, &start).await.status, 202);
    let [(event, started)] = &events(&service).await[..] else { panic!("one event") };
    assert!(event.stream.as_str().starts_with("system/audit/20"), "{}", event.stream);
    assert_eq!(event.stream.as_str().len(), "system/audit/2026-11-26".len());
    assert_eq!(event.event.metadata.user_id.as_deref(), Some("ada"));
    let mut expected = ApiCalled::new(
        "ada".to_owned(),
        "POST".to_owned(),
        "/api/v1/workflows/approval/actions/execute".to_owned(),
    );
    expected.route = Some("/api/v1/workflows/{workflow}/actions/execute".to_owned());
    expected.peer = Some("127.0.0.1".to_owned());
    expected.forwarded_for = Some("203.0.113.7".to_owned());
    expected.user_agent = Some("tests".to_owned());
    expected.request_id = Some("req-1".to_owned());
    expected.status = Some(202);
    assert_eq!(*started, expected);
    let text = format!("{:?}", event.event);
    assert!(!text.contains("a secret") && !text.contains(KEY), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_failed_and_forbidden_calls_and_no_others() {
    let service = Service::with(options()).await;
    send(&service, Method::POST, "/runs/unknown/actions/cancel?key=secret", "{}").await;
    send(&service, Method::POST, "/tasks", "{}").await;
    send(&service, Method::POST, "/workflows/welcome/actions/execute", "{").await;
    send(&service, Method::GET, "/runs", "").await;
    let stranger = request(Method::POST, "/tasks", Some("{}".to_owned()));
    assert_eq!(service.send(stranger).await.status, 401);
    let outcomes: Vec<_> = events(&service)
        .await
        .into_iter()
        .map(|(event, call)| {
            assert!(!format!("{event:?}").contains("secret"));
            (call.status.unwrap(), call.code.unwrap())
        })
        .collect();
    let expected =
        [(400, "MALFORMED_REQUEST"), (403, "PERMISSION_DENIED"), (400, "MALFORMED_REQUEST")];
    assert_eq!(outcomes, expected.map(|(status, code)| (status, code.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_calls_that_end_without_an_answer() {
    let service = Service::with(options().with_request_timeout(Duration::from_millis(50))).await;
    let endless = || {
        let mut post = call(Method::POST, "/workflows/welcome/actions/execute", "");
        let body = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        *post.body_mut() = Body::from_stream(body);
        post
    };
    assert_eq!(service.send(endless()).await.fault(), (503, "REQUEST_TIMEOUT"));
    let mut ended = Box::pin(service.router.clone().oneshot(endless()));
    assert!(futures_util::poll!(&mut ended).is_pending());
    // Its client has gone.
    drop(ended);
    while events(&service).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(events(&service).await.iter().all(|(_, call)| call.status.is_none()));
}

// On one thread, the call cannot end before its client has gone.
#[tokio::test]
async fn should_record_the_outcome_of_a_keyed_call_whose_client_has_gone() {
    let service = Service::with(options()).await;
    let start = json!({ "run_id": "r1" }).to_string();
    let mut post = call(Method::POST, "/workflows/approval/actions/execute", &start);
    post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
    let mut begun = Box::pin(service.router.clone().oneshot(post));
    assert!(futures_util::poll!(&mut begun).is_pending());
    drop(begun);
    while events(&service).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let [(_, call)] = &events(&service).await[..] else { panic!("one event") };
    assert_eq!(call.status, Some(202), "the request is handled nevertheless");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_each_of_many_concurrent_calls_before_its_answer() {
    let service = Service::with(options()).await;
    let calls = (0..300).map(|number| {
        let (service, start) = (&service, json!({ "run_id": format!("r{number}") }).to_string());
        async move {
            let path = "/workflows/approval/actions/execute";
            let answer = send(service, Method::POST, path, &start).await;
            assert_eq!(answer.status, 202);
            assert_eq!(answer.attributes()["status"], "running");
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(events(&service).await.len(), 300);
}

/// Holds the lock of a SQLite database until it is dropped.
struct Lock(Child);

impl Lock {
    fn new(database: &Path) -> Option<Self> {
        let code = "import sqlite3, sys\n\
            database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            database.execute('BEGIN IMMEDIATE')\n\
            print('locked', flush=True)\n\
            sys.stdin.read()";
        let mut python = Command::new("python3");
        python.args(["-c", code]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = python.spawn() else {
            aios_tests::skip("python3 is not installed");
            return None;
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Some(Self(child))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_when_an_audit_event_cannot_be_stored() {
    let service = Service::on_sqlite().await;
    let Some(lock) = Lock::new(&service.database()) else { return };
    let answer = service.post("/runs/unknown/actions/cancel", &json!({})).await;
    assert_eq!(answer.fault(), (404, "RUN_NOT_FOUND"));
    drop(lock);
    let answer = service.post("/runs/other/actions/cancel", &json!({})).await;
    assert_eq!(answer.fault(), (404, "RUN_NOT_FOUND"));
    let paths: Vec<_> = events(&service).await.into_iter().map(|(_, call)| call.path).collect();
    assert!(paths.contains(&"/api/v1/runs/other/actions/cancel".to_owned()), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_write_no_event_when_log_lines_are_enough() {
    let service = Service::with(options().with_audit(Audit::LogLines)).await;
    let answer = send(&service, Method::POST, "/workflows/approval/actions/execute", "{}").await;
    assert_eq!(answer.status, 202);
    assert!(events(&service).await.is_empty());
}
