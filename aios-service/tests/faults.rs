//! All faults of a body are reported, with their paths.

use std::collections::BTreeSet;

use aios_service::http::openapi;
use axum::http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{Answer, Service, request};

/// The paths of the faults in an error.
fn paths(answer: &Answer) -> Vec<&str> {
    let faults = answer.body["error"]["details"]["faults"].as_array();
    let faults = faults.unwrap_or_else(|| panic!("no faults: {answer:?}"));
    for fault in faults {
        assert!(fault["message"].as_str().is_some_and(|it| !it.is_empty()), "{fault}");
    }
    faults.iter().map(|fault| fault["path"].as_str().unwrap()).collect()
}

fn sorted<'t>(paths: impl IntoIterator<Item = &'t str>) -> BTreeSet<String> {
    paths.into_iter().map(str::to_owned).collect()
}

/// Method, path and schema of every operation that takes a body.
fn operations_with_bodies() -> Vec<(Method, String, Value)> {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let Some(reference) = schema["$ref"].as_str() else { continue };
            let schema = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
            let path = path.replace("{kind}", "groups");
            let path = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
            let path = path.collect::<Vec<_>>().join("/");
            found.push((method.to_uppercase().parse().unwrap(), path, schema.clone()));
        }
    }
    assert!(found.len() >= 11, "found the operations");
    found
}

async fn send(service: &Service, method: &Method, path: &str, body: &Value) -> Answer {
    let mut request = request(method.clone(), path, Some(body.to_string()));
    if method == Method::PUT {
        request.headers_mut().insert("if-match", HeaderValue::from_static("*"));
    }
    service.send(request).await
}

#[tokio::test]
async fn should_report_every_wrong_type_and_unknown_field_of_every_route() {
    let service = Service::in_memory().await;
    for (method, path, schema) in operations_with_bodies() {
        let mut body = json!({ "unknown": 1, "not known": 2 });
        let mut expected = vec![r#"$["not known"]"#.to_owned(), "$.unknown".to_owned()];
        for (name, property) in schema["properties"].as_object().unwrap() {
            if ["type", "oneOf", "$ref"].iter().any(|it| property.get(it).is_some()) {
                body[name] = match property["type"] == "array" || property["type"][0] == "array" {
                    true => json!({}),
                    false => json!([]),
                };
                expected.push(format!("$.{name}"));
            }
        }
        let answer = send(&service, &method, &path, &body).await;
        assert_eq!(answer.fault(), (422, "INVALID_REQUEST"), "{method} {path}");
        let expected = sorted(expected.iter().map(String::as_str));
        assert_eq!(sorted(paths(&answer)), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn should_report_every_missing_field_of_every_route() {
    let service = Service::in_memory().await;
    let mut count = 0;
    for (method, path, schema) in operations_with_bodies() {
        let Some(required) = schema["required"].as_array() else { continue };
        let answer = send(&service, &method, &path, &json!({})).await;
        assert_eq!(answer.fault(), (422, "INVALID_REQUEST"), "{method} {path}");
        let expected: Vec<_> =
            required.iter().map(|it| format!("$.{}", it.as_str().unwrap())).collect();
        let expected = sorted(expected.iter().map(String::as_str));
        assert_eq!(sorted(paths(&answer)), expected, "{method} {path}");
        count += 1;
    }
    assert!(count >= 6, "found bodies with required fields");
}

#[tokio::test]
async fn should_report_faults_of_nested_values_and_limits_together() {
    let service = Service::in_memory().await;
    let body = json!({
        "agent_type": "Not A Name",
        "agent_id": "a/b",
        "timeout_seconds": -1,
        "run_id": "",
        "correlation_id": null,
        "parameters": { "any": ["thing"] },
        "retry": { "max_attempts": "many", "jitter": 2, "unknown": 1 },
    });
    let answer = service.post("/tasks", &body).await;
    assert_eq!(answer.fault(), (422, "INVALID_REQUEST"));
    let expected = [
        "$.agent_id",
        "$.agent_type",
        "$.retry.jitter",
        "$.retry.max_attempts",
        "$.retry.unknown",
        "$.run_id",
        "$.timeout_seconds",
    ];
    assert_eq!(sorted(paths(&answer)), sorted(expected));
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("6 more"), "{message}");
    let start = json!({ "start_at": "yesterday", "delay_seconds": "soon" });
    let answer = service.post("/workflows/approval/actions/execute", &start).await;
    assert_eq!(sorted(paths(&answer)), sorted(["$.start_at", "$.delay_seconds"]));
}

/// Handlers refuse values outside their limits with a code for each kind, the first of which is the code of
/// the error.
#[tokio::test]
async fn should_report_all_values_outside_their_limits() {
    let service = Service::in_memory().await;
    let body = json!({ "agent_type": "Not A Name", "agent_id": "a/b" });
    let answer = service.post("/tasks", &body).await;
    assert_eq!(answer.fault(), (400, "INVALID_AGENT_TYPE"));
    assert_eq!(sorted(paths(&answer)), sorted(["$.agent_id", "$.agent_type"]));
    let body = json!({ "agent_type": "Not A Name", "agent_id": "a/b", "timeout_seconds": 0 });
    let answer = service.post("/tasks", &body).await;
    assert_eq!(answer.fault(), (422, "INVALID_REQUEST"));
    assert_eq!(sorted(paths(&answer)), sorted(["$.agent_id", "$.agent_type", "$.timeout_seconds"]));
    let body = json!({ "run_id": "r", "signal": { "name": "" } });
    let path = "/workflows/approval/actions/signal-with-start";
    let mut post = request(Method::POST, path, Some(body.to_string()));
    post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k"));
    let answer = service.send(post).await;
    assert_eq!(answer.fault(), (400, "INVALID_SIGNAL_NAME"));
    assert_eq!(paths(&answer), ["$.signal.name"]);
    let both = json!({ "start_at": "2030-01-01T00:00:00Z", "delay_seconds": 1 });
    let answer = service.post("/workflows/approval/actions/execute", &both).await;
    assert_eq!((answer.status.is_client_error(), paths(&answer)), (true, vec!["$"]), "{answer:?}");
}

#[tokio::test]
async fn should_report_a_bounded_number_of_faults() {
    let service = Service::in_memory().await;
    let path = "/dead-letters/groups/reviews/actions/purge";
    let answer = service.post(path, &json!({ "ids": vec![1; 100_000] })).await;
    assert_eq!(answer.fault(), (422, "INVALID_REQUEST"));
    let found = paths(&answer);
    assert_eq!((found.len(), found[0], found[99]), (100, "$.ids[0]", "$.ids[99]"));
    let unknown: serde_json::Map<_, _> =
        (0..10_000).map(|it| (format!("f{it}"), json!(1))).collect();
    let answer = service.post(path, &Value::Object(unknown)).await;
    assert_eq!(paths(&answer).len(), 100);
    let answer = service.post(path, &json!({ "x".repeat(1_000_000): 1 })).await;
    assert!(answer.body.to_string().len() < 5000, "names are shortened");
}

/// The fault is not one of the body.
#[tokio::test]
async fn should_report_no_faults_of_a_valid_body() {
    let service = Service::in_memory().await;
    let answer = service.post("/runs/a%0A/actions/signal", &json!({ "name": "approval" })).await;
    assert_eq!(answer.fault(), (400, "INVALID_RUN_ID"));
    assert_eq!(answer.body["error"]["details"], json!({}));
}
