//! The conventions of the project for REST: URLs, shapes, statuses and permissions.

use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::ApiOptions,
};
use axum::http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{Answer, Service, on_every_store, request};

on_every_store! {
    should_list_and_get_agents_in_the_format_of_responses
    should_answer_in_the_format_of_errors
    should_assign_tasks_to_an_agent_and_list_them
    should_execute_workflows
}

async fn raw(service: &Service, path: &str, body: &str) -> Answer {
    service.send(request(Method::POST, path, Some(body.to_owned()))).await
}

/// The id of the agent of the service.
async fn agent(service: &Service) -> String {
    let list = service.get("/agents").await;
    list.body["data"][0]["id"].as_str().unwrap().to_owned()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn check_meta(meta: &Value) {
    assert_eq!(meta["version"], "1.0.0");
    assert!(meta["timestamp"].as_str().unwrap().ends_with('Z'), "{meta}");
}

fn check_agent(agent: &Value) {
    assert_eq!(keys(agent), ["attributes", "id", "type"]);
    assert_eq!(agent["type"], "greeter_agent");
    assert!(agent["attributes"]["name"].is_string() && agent["attributes"]["status"].is_string());
}

async fn should_list_and_get_agents_in_the_format_of_responses(service: Service) {
    let list = service.get("/agents").await;
    assert_eq!((list.status.as_u16(), keys(&list.body)), (200, vec!["data", "meta"]));
    let agents = list.body["data"].as_array().unwrap();
    assert_eq!(agents.len(), 1);
    check_agent(&agents[0]);
    check_meta(&list.body["meta"]);
    let found = service.get(&format!("/agents/{}", agent(&service).await)).await;
    assert_eq!((found.status.as_u16(), keys(&found.body)), (200, vec!["data", "meta"]));
    check_agent(&found.body["data"]);
    check_meta(&found.body["meta"]);
}

async fn should_answer_in_the_format_of_errors(service: Service) {
    let mut get = request(Method::GET, "/agents/agent-123", None);
    get.headers_mut().insert("x-request-id", HeaderValue::from_static("req-456"));
    let missing = service.send(get).await;
    assert_eq!(missing.fault(), (404, "AGENT_NOT_FOUND"));
    assert!(missing.body["error"]["message"].as_str().unwrap().contains("agent-123"));
    assert_eq!(missing.body["error"]["details"], json!({ "id": "agent-123" }));
    assert_eq!(missing.body["meta"]["request_id"], "req-456");
}

async fn should_assign_tasks_to_an_agent_and_list_them(service: Service) {
    let path = format!("/agents/{}/tasks", agent(&service).await);
    let body = |name: &str| json!({ "run_id": "t1", "parameters": name });
    let assigned = service.post(&path, &body("Ada")).await;
    assert_eq!((assigned.status.as_u16(), &assigned.body["data"]["id"]), (202, &json!("t1")));
    assert_eq!(assigned.headers["location"], "/api/v1/runs/t1");
    assert_eq!(service.post(&path, &body("Ada")).await.status, 202, "the same task again");
    assert_eq!(service.post(&path, &body("Bob")).await.fault(), (409, "RUN_EXISTS"));
    assert_eq!(raw(&service, &path, "{").await.fault(), (400, "MALFORMED_REQUEST"));
    let invalid = service.post(&path, &json!({ "run_id": "" })).await;
    assert_eq!(invalid.fault(), (400, "INVALID_RUN_ID"));
    assert_eq!(service.result("t1").await.attributes()["result"], "Hello, Ada!");
    let list = service.get(&path).await;
    let tasks = list.body["data"].as_array().unwrap();
    assert_eq!((tasks.len(), &tasks[0]["attributes"]["run_id"]), (1, &json!("t1")));
}

async fn should_execute_workflows(service: Service) {
    let path = "/workflows/welcome/actions/execute";
    let body = |name: &str| json!({ "run_id": "r1", "input": name });
    let started = service.post(path, &body("Ada")).await;
    assert_eq!((started.status.as_u16(), &started.body["data"]["type"]), (202, &json!("run")));
    assert_eq!(service.post(path, &body("Bob")).await.fault(), (409, "RUN_EXISTS"));
    assert_eq!(raw(&service, path, "nonsense").await.fault(), (400, "MALFORMED_REQUEST"));
    assert_eq!(service.result("r1").await.attributes()["result"], "Hello, Ada!");
}

#[tokio::test]
async fn should_list_agents_for_callers_with_agents_read_only() {
    let key = |name: &str, permissions: &[&str]| {
        let permissions = Permissions::parse(permissions.iter().copied()).unwrap();
        ApiKey::new(ApiKeyHash::of(name), name).with_permissions(permissions)
    };
    let keys = [key("reader", &["agents:read"]), key("other", &["runs:*", "tasks:read"])];
    let service = Service::with(ApiOptions::new().with_authenticator(ApiKeys::new(keys))).await;
    let list = async |key: &'static str| {
        let mut get = request(Method::GET, "/agents", None);
        get.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        service.send(get).await
    };
    assert_eq!(list("reader").await.status, 200);
    let refused = list("other").await;
    assert_eq!(refused.fault(), (403, "PERMISSION_DENIED"));
    assert_eq!(refused.body["error"]["details"]["required"], "agents:read");
    assert_eq!(list("unknown").await.fault(), (401, "UNAUTHENTICATED"));
}
