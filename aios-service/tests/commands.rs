//! Commands for runs: who has sent them, and in which trace.

use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::ApiOptions,
};
use axum::http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{Answer, Service, request};

const TRACE_OF_ADA: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE_OF_BOB: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-53995c3f42cd8ad8-01";

async fn service() -> Service {
    let keys = ["ada", "bob"]
        .map(|name| ApiKey::new(ApiKeyHash::of(name), name).with_permissions(Permissions::all()));
    Service::with(ApiOptions::new().with_authenticator(ApiKeys::new(keys))).await
}

async fn ask(service: &Service, who: &'static str, path: &str, body: Option<Value>) -> Answer {
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = request(method, path, body.map(|body| body.to_string()));
    let trace = if who == "ada" { TRACE_OF_ADA } else { TRACE_OF_BOB };
    let headers = [("x-api-key", who), ("traceparent", trace), ("tracestate", "of=caller")];
    for (name, value) in headers {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    service.send(request).await
}

/// Lets Ada start a run.
async fn start(service: &Service, workflow: &str, run_id: &str) {
    let body = json!({ "run_id": run_id, "correlation_id": "c-1" });
    let path = format!("/workflows/{workflow}/actions/execute");
    assert_eq!(ask(service, "ada", &path, Some(body)).await.status, 202);
}

/// The metadata of an event of a journal: user, trace, its state, correlation.
async fn recorded(service: &Service, run_id: &str, action: &str) -> [Value; 4] {
    let journal = ask(service, "ada", &format!("/runs/{run_id}/journal"), None).await;
    let events = journal.body["data"].as_array().unwrap();
    let is_it = |it: &&Value| it["attributes"]["type"].as_str().unwrap().ends_with(action);
    let event = events.iter().find(is_it).unwrap_or_else(|| panic!("no {action}: {events:?}"));
    let metadata = &event["attributes"]["metadata"];
    ["user_id", "traceparent", "tracestate", "correlation_id"].map(|name| metadata[name].clone())
}

fn by_bob() -> [Value; 4] {
    [json!("bob"), json!(TRACE_OF_BOB), json!("of=caller"), json!("c-1")]
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_who_has_sent_a_command_and_its_trace() {
    let service = service().await;
    start(&service, "approval", "r1").await;
    let signal = json!({ "name": "other", "payload": 1 });
    for (action, body, event) in [
        ("signal", signal, ".signaled"),
        ("pause", json!({}), ".paused"),
        ("resume", json!({}), ".resumed"),
        ("cancel", json!({}), ".cancel_requested"),
    ] {
        let path = format!("/runs/r1/actions/{action}");
        let answer = ask(&service, "bob", &path, Some(body)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(recorded(&service, "r1", event).await, by_bob(), "{action}");
    }
    let [user, trace, ..] = recorded(&service, "r1", ".started").await;
    assert_eq!((user, trace), (json!("ada"), json!(TRACE_OF_ADA)), "the start stays Ada's");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_who_has_cancelled_a_task() {
    let service = service().await;
    let task = json!({ "agent_type": "nowhere", "run_id": "t1" });
    assert_eq!(ask(&service, "ada", "/tasks", Some(task)).await.status, 202);
    let path = "/tasks/t1%2F1/actions/cancel";
    while ask(&service, "bob", path, Some(json!({}))).await.status == 404 {
        crate::support::pause().await;
    }
    let recorded = recorded(&service, "t1", ".cancel_requested").await;
    assert_eq!(recorded[..3], by_bob()[..3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_a_signal_with_an_id_once() {
    let service = service().await;
    start(&service, "approval", "r1").await;
    for _ in 0..2 {
        let signal = json!({ "name": "other", "payload": 1, "id": "payment-1" });
        let answer = ask(&service, "bob", "/runs/r1/actions/signal", Some(signal)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let journal = ask(&service, "ada", "/runs/r1/journal", None).await;
    let events = journal.body["data"].as_array().unwrap().iter();
    let types = events.map(|it| it["attributes"]["type"].as_str().unwrap());
    assert_eq!(types.filter(|it| it.ends_with(".signaled")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_start_a_task_with_a_retry_policy_and_a_correlation() {
    let service = service().await;
    let retry = json!({
        "max_attempts": 1, "initial_delay_seconds": 0.5, "factor": 3, "max_delay_seconds": 7,
        "jitter": 0, "non_retryable": ["NO_TEA"],
    });
    let agents = ask(&service, "ada", "/agents", None).await;
    let agent = agents.body["data"][0]["id"].as_str().unwrap();
    let of_agent = format!("/agents/{agent}/tasks");
    let tasks =
        [("t1", "/tasks", json!({ "agent_type": "greeter" })), ("t2", &of_agent, json!({}))];
    for (id, path, mut body) in tasks {
        body["retry"] = retry.clone();
        (body["run_id"], body["correlation_id"]) = (json!(id), json!("c-1"));
        body["parameters"] = json!("Ada");
        let answer = ask(&service, "bob", path, Some(body.clone())).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(recorded(&service, id, ".started").await, by_bob());
        let journal = ask(&service, "ada", &format!("/runs/{id}/journal"), None).await;
        let policy = &journal.body["data"][0]["attributes"]["data"]["input"]["retry"];
        let expected = (&json!(1), &json!(3.0), &json!(["NO_TEA"]));
        let found = (&policy["max_attempts"], &policy["factor"], &policy["non_retryable"]);
        assert_eq!(found, expected, "{journal:?}");
        body["retry"] = json!({ "max_attempts": 1, "initial_delay_seconds": -1 });
        let refused = ask(&service, "bob", path, Some(body)).await;
        assert_eq!(refused.fault(), (422, "INVALID_REQUEST"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_start_copies_of_a_run_for_the_caller() {
    let service = service().await;
    start(&service, "parent", "r1").await;
    while ask(&service, "ada", "/runs/child", None).await.status == 404 {
        crate::support::pause().await;
    }
    let fork = json!({ "operation": 1, "run_id": "fork" });
    let answer = ask(&service, "bob", "/runs/r1/actions/fork", Some(fork)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(recorded(&service, "fork", ".started").await, by_bob());

    start(&service, "refused", "r2").await;
    ask(&service, "ada", "/runs/r2/result?wait=20s", None).await;
    let retry = json!({ "run_id": "retry" });
    let answer = ask(&service, "bob", "/runs/r2/actions/retry", Some(retry)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(recorded(&service, "retry", ".started").await, by_bob());
}
