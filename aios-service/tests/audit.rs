//! Audit events.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    broker::{Group, Subscription},
    catalog::system::ApiCalled,
    clock::{Clock, SystemClock, VirtualClock},
    event::Pattern,
    store::{EventStore, RecordedEvent},
};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, Audit},
};
use aios_store::memory::MemoryStore;
use aios_tests::postgres::PostgresServer;
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Answer, Service, pause, request};

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

/// The type and the data of the audit events of a store, in the order of the log.
async fn audit(store: &dyn EventStore) -> Vec<(String, ApiCalled)> {
    let log = store.read_log(0, 1000).await.unwrap();
    let audits = log.iter().filter(|it| it.stream.as_str().starts_with("system/audit/"));
    let read = |it: &RecordedEvent| (it.event.event_type.to_string(), it.event.data().unwrap());
    audits.map(read).collect()
}

/// The audit events of a service with the outcomes of calls.
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
    expected.scope = Some("api_key".to_owned());
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
async fn should_record_a_call_before_its_effect_and_as_the_cause_of_its_outcome() {
    let service = Service::on_sqlite_with(options()).await;
    let start = json!({ "run_id": "r1" }).to_string();
    send(&service, Method::POST, "/workflows/approval/actions/execute", &start).await;
    let log = service.runtime.store().unwrap().read_log(0, 1000).await.unwrap();
    let find = |event_type: &str| {
        log.iter().find(|it| it.event.event_type.as_str() == event_type).unwrap()
    };
    let requested = find("system.api.requested");
    let started = find("workflows.approval.started");
    let called = find("system.api.called");
    assert!(requested.position < started.position && started.position < called.position);
    let mut data: ApiCalled = called.event.data().unwrap();
    data.status = None;
    assert_eq!(requested.event.data::<ApiCalled>().unwrap(), data);
    let cause = called.event.metadata.causation_id.as_deref();
    assert_eq!(cause, Some(requested.event.id.to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_have_stored_that_an_event_is_published_before_the_broker_has_it() {
    let service = Service::on_sqlite().await;
    let group = Group::new("orders").unwrap();
    let subscription = Subscription::group(group, ["orders.#".parse::<Pattern>().unwrap()]);
    let mut deliveries = service.runtime.broker().subscribe(subscription).await.unwrap();
    let body = json!({ "type": "orders.order.placed" });
    let publish = service.post("/events", &body);
    let delivered = async {
        deliveries.next().await.unwrap().unwrap().ack().await.unwrap();
        audit(&**service.runtime.store().unwrap()).await
    };
    let (answer, audit) = tokio::join!(publish, delivered);
    assert_eq!(answer.status, 202);
    assert_eq!(audit[0].0, "system.api.requested");
    assert_eq!(audit[0].1.path, "/api/v1/events");
}

/// Sends a request to a service that is killed as soon as the effect of the request is in the store.
fn kill_after_the_effect(store: &MemoryStore, request: Request<Body>, effect: &str) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let service = Service::on(Arc::new(store.clone()), None, options()).await;
        let mut begun = Box::pin(service.router.clone().oneshot(request));
        loop {
            let is_over = futures_util::poll!(&mut begun).is_ready();
            let log = store.read_log(0, 1000).await.unwrap();
            if log.iter().any(|it| it.event.event_type.as_str() == effect) {
                assert!(!is_over, "the request is answered");
                break;
            }
            tokio::task::yield_now().await;
        }
        // Nothing of a process that is killed is dropped.
        std::mem::forget((begun, service));
    });
}

#[test]
fn should_have_recorded_once_a_call_whose_process_is_killed_after_its_effect() {
    let store = MemoryStore::new();
    let start = json!({ "run_id": "r1" }).to_string();
    let post = call(Method::POST, "/workflows/approval/actions/execute", &start);
    kill_after_the_effect(&store, post, "workflows.approval.started");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let audit = tokio.block_on(async {
        let service = Service::on(Arc::new(store.clone()), None, options()).await;
        assert_eq!(send(&service, Method::GET, "/runs/r1", "").await.status, 200);
        audit(&store).await
    });
    let [(event_type, call)] = &audit[..] else { panic!("{audit:?}") };
    assert_eq!(event_type, "system.api.requested");
    assert_eq!(call.path, "/api/v1/workflows/approval/actions/execute");
    assert_eq!((call.subject.as_str(), call.status), ("ada", None));
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

/// The writer of PostgreSQL does not send appends whose callers have gone.
#[tokio::test(flavor = "multi_thread")]
async fn should_announce_every_call_that_was_cut_off_before_its_outcome() {
    let Some(server) = PostgresServer::start() else { return };
    let clock = VirtualClock::new(SystemClock.now());
    let store = aios_store::connect(&server.url()).await.unwrap();
    let options = options().with_clock(Arc::new(clock.clone()));
    let service = Service::on(store, None, options).await;
    let start = |run: &str| {
        let start = json!({ "run_id": run }).to_string();
        call(Method::POST, "/workflows/approval/actions/execute", &start)
    };
    send(&service, Method::POST, "/runs/unknown/actions/cancel", "{}").await;

    let lock = server.lock("aios.events");
    // The writer sends the first event, which waits for the lock, and the others wait for the writer.
    let mut calls = vec![Box::pin(service.router.clone().oneshot(start("r0")))];
    assert!(futures_util::poll!(&mut calls[0]).is_pending());
    while !server.has_waiting_session() {
        pause().await;
    }
    let mut keyed = start("r1");
    keyed.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
    for request in [keyed, start("r2"), start("r3")] {
        let mut call = Box::pin(service.router.clone().oneshot(request));
        assert!(futures_util::poll!(&mut call).is_pending());
        calls.push(call);
    }
    // The client of one goes, and the others take too long.
    let gone = calls.pop();
    clock.advance(Duration::from_secs(60));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), 503);
    }
    drop((gone, lock));
    while events(&service).await.len() < 5 {
        pause().await;
    }
    let log = service.runtime.store().unwrap().read_log(0, 1000).await.unwrap();
    for (called, data) in events(&service).await {
        let cause = called.event.metadata.causation_id.as_deref().unwrap();
        let requested = log.iter().find(|it| it.event.id.to_string() == cause);
        let position = requested.map(|it| it.position);
        assert!(position.is_some_and(|it| it < called.position), "{}: {position:?}", data.path);
    }
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

/// Publishing has no other trace in the store.
#[tokio::test(flavor = "multi_thread")]
async fn should_publish_no_event_if_the_audit_event_cannot_be_stored() {
    let service = Service::on_sqlite().await;
    let group = Group::new("orders").unwrap();
    let subscription = Subscription::group(group, ["orders.#".parse::<Pattern>().unwrap()]);
    let mut deliveries = service.runtime.broker().subscribe(subscription).await.unwrap();
    let Some(lock) = Lock::new(&service.database()) else { return };
    let refused = service.post("/events", &json!({ "type": "orders.order.placed" })).await;
    assert_eq!(refused.fault(), (503, "STORE_TIMEOUT"));
    drop(lock);
    let answer = service.post("/events", &json!({ "type": "orders.order.paid" })).await;
    assert_eq!(answer.status, 202);
    let delivered = deliveries.next().await.unwrap().unwrap();
    assert_eq!(delivered.event.event_type.as_str(), "orders.order.paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_write_no_event_when_log_lines_are_enough() {
    let service = Service::with(options().with_audit(Audit::LogLines)).await;
    let answer = send(&service, Method::POST, "/workflows/approval/actions/execute", "{}").await;
    assert_eq!(answer.status, 202);
    assert!(audit(&**service.runtime.store().unwrap()).await.is_empty());
}
