//! Traces of requests, and of what they start.

use std::sync::{Arc, Mutex};

use aios_service::{http::ApiOptions, telemetry::traces::RequestSpans};
use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Service, request};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn post(service: &Service, path: &str, body: &Value, trace: &str) -> Answer {
    let mut post = request(Method::POST, path, Some(body.to_string()));
    post.headers_mut().insert("traceparent", trace.parse().unwrap());
    post.headers_mut().insert("tracestate", "a=1".parse().unwrap());
    service.send(post).await
}

/// The trace of the first event of a run.
async fn recorded(service: &Service, run_id: &str) -> (Value, Value) {
    let journal = service.get(&format!("/runs/{run_id}/journal")).await;
    let metadata = &journal.body["data"][0]["attributes"]["metadata"];
    (metadata["traceparent"].clone(), metadata["tracestate"].clone())
}

#[tokio::test]
async fn should_answer_with_the_trace_of_the_request() {
    let service = Service::in_memory().await;
    let body = json!({ "run_id": "r1" });
    let path = "/workflows/approval/actions/execute";
    let refused = post(&service, "/workflows/unknown/actions/execute", &body, TRACE).await;
    let started = post(&service, path, &body, TRACE).await;
    assert_eq!((started.status.as_u16(), refused.status.as_u16()), (202, 404));
    for answer in [started, refused] {
        let response = answer.headers["traceresponse"].to_str().unwrap();
        assert!(response.starts_with(&TRACE[..36]) && response.ends_with("-01"), "{response}");
        assert_ne!(response, TRACE, "the span is another one");
    }
    assert_eq!(recorded(&service, "r1").await, (json!(TRACE), json!("a=1")));
    assert!(!service.get("/runs/r1").await.headers.contains_key("traceresponse"));
}

#[tokio::test]
async fn should_ignore_a_trace_that_is_not_valid() {
    let service = Service::in_memory().await;
    for (number, trace) in ["nonsense", &TRACE[..54], &"x".repeat(50_000)].iter().enumerate() {
        let (id, path) = (format!("r{number}"), "/workflows/approval/actions/execute");
        let answer = post(&service, path, &json!({ "run_id": id }), trace).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(!answer.headers.contains_key("traceresponse"));
        assert_eq!(recorded(&service, &id).await, (Value::Null, Value::Null));
    }
}

#[tokio::test]
async fn should_publish_an_event_with_its_trace() {
    let service = Service::in_memory().await;
    let body = json!({ "type": "orders.order.placed", "correlation_id": "c-1" });
    let answer = post(&service, "/events", &body, TRACE).await;
    let expected = json!({
        "correlation_id": "c-1",
        "user_id": "anonymous",
        "traceparent": TRACE,
        "tracestate": "a=1",
    });
    assert_eq!((answer.status.as_u16(), &answer.attributes()["metadata"]), (202, &expected));
}

/// The program mounts the API by itself.
#[tokio::test]
async fn should_give_each_request_one_span_if_the_options_ask_for_it() {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&spans);
    let take = RequestSpans::new(move |span| taken.lock().unwrap().push(span));
    let service = Service::with(ApiOptions::new().with_request_spans(take)).await;
    let (path, body) = ("/workflows/approval/actions/execute", json!({ "run_id": "r1" }));
    let started = post(&service, path, &body, TRACE).await;
    assert_eq!(post(&service, "/nothing", &body, TRACE).await.status, 404);
    let spans = std::mem::take(&mut *spans.lock().unwrap());
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["POST /api/v1/workflows/{workflow}/actions/execute", "POST"]);
    let span = &spans[0];
    assert_eq!(span.parent.map(|it| it.to_string()).as_deref(), Some("b7ad6b7169203331"));
    assert_eq!(span.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
    let context = format!("00-{}-{}-01", span.trace_id, span.span_id);
    assert_eq!(started.headers["traceresponse"], context.as_str());
    assert_eq!(
        recorded(&service, "r1").await,
        (json!(context), json!("a=1")),
        "the parent of the run"
    );
}
