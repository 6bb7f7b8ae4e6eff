//! Agents as resources.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, store::Store};
use aios_service::http::ApiOptions;
use axum::http::{HeaderValue, Method};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Answer, Service, answer, pause, request};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    greeting: String,
}

/// Greets, and tells the number of its instance.
struct Greeter {
    greeting: String,
    instance: u64,
}

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("{}, {name}! {}", self.greeting, self.instance))
    }
}

fn factory(builder: RuntimeBuilder, agent_type: &str) -> RuntimeBuilder {
    let instances = AtomicU64::new(0);
    builder.agent_factory(agent_type, move |config: Config| -> Result<_, TaskError> {
        let instance = instances.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Greeter { greeting: config.greeting, instance })
    })
}

/// A process with the API, and perhaps with a factory of the type `polite`.
async fn process(store: Arc<dyn Store>, broker: Arc<dyn Broker>, has_factory: bool) -> Service {
    let builder = Runtime::builder().store(store).broker(broker);
    let builder = if has_factory { factory(builder, "polite") } else { builder };
    Service::of(Arc::new(builder.start().await.unwrap()), ApiOptions::new())
}

async fn memory() -> Service {
    let store = aios_store::connect("memory://").await.unwrap();
    process(store, Arc::new(MemoryBroker::new()), true).await
}

async fn stop(service: Service) {
    let Service { runtime, router, .. } = service;
    drop(router);
    Arc::into_inner(runtime).unwrap().shutdown(Duration::from_secs(10)).await.unwrap();
}

async fn create(service: &Service, name: &str, greeting: &str) -> Answer {
    let config = json!({ "greeting": greeting });
    service
        .post("/agents", &json!({ "agent_type": "polite", "name": name, "config": config }))
        .await
}

fn id_of(answer: &Answer) -> String {
    answer.body["data"]["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn conditional(
    service: &Service,
    method: Method,
    id: &str,
    etag: Option<&str>,
    body: Option<Value>,
) -> Answer {
    let body = body.map(|body| body.to_string());
    let mut request = request(method, &format!("/agents/{id}"), body);
    if let Some(etag) = etag {
        request.headers_mut().insert("if-match", HeaderValue::from_str(etag).unwrap());
    }
    answer(&service.router, request).await
}

async fn status(service: &Service, id: &str) -> String {
    let agent = service.get(&format!("/agents/{id}?include_deleted=true")).await;
    agent.attributes()["status"].as_str().unwrap().to_owned()
}

async fn until_status(service: &Service, id: &str, wanted: &str) {
    while status(service, id).await != wanted {
        pause().await;
    }
}

/// The answer of one agent to a task.
async fn greet(service: &Service, id: &str) -> Value {
    let started =
        service.post(&format!("/agents/{id}/tasks"), &json!({ "parameters": "Ada" })).await;
    service.result(&id_of(&started)).await.attributes()["result"].clone()
}

/// Waits until the agent greets like this. A task may be given to the instance before.
async fn until_greets(service: &Service, id: &str, greeting: &str) {
    while !greet(service, id).await.as_str().unwrap().starts_with(greeting) {
        pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_create_an_agent_that_takes_tasks() {
    let service = memory().await;
    let created = create(&service, "Moin", "Moin").await;
    let id = id_of(&created);
    assert_eq!(
        (created.status.as_u16(), &created.body["data"]["type"]),
        (201, &json!("polite_agent"))
    );
    assert_eq!(created.headers["location"], format!("/api/v1/agents/{id}"));
    assert_eq!(created.headers["etag"], "\"1\"");
    assert_eq!(created.attributes()["config"], json!({ "greeting": "Moin" }));
    until_status(&service, &id, "running").await;
    assert_eq!(greet(&service, &id).await, "Moin, Ada! 1");
    let any = json!({ "agent_type": "polite", "parameters": "Bob" });
    let started = service.post("/tasks", &any).await;
    assert_eq!(service.result(&id_of(&started)).await.attributes()["result"], "Moin, Bob! 1");
    let found = service.get(&format!("/agents/{id}")).await;
    assert_eq!(
        (found.status.as_u16(), &found.headers["etag"]),
        (200, &HeaderValue::from_static("\"1\""))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_invalid_agents_and_those_that_exist() {
    let service = memory().await;
    for (body, status, code) in [
        (json!({ "agent_type": "polite", "name": "a", "config": {} }), 400, "INVALID_AGENT_CONFIG"),
        (json!({ "agent_type": "polite", "name": "a" }), 400, "INVALID_AGENT_CONFIG"),
        (json!({ "agent_type": "polite", "name": "" }), 400, "INVALID_AGENT_CONFIG"),
        (json!({ "agent_type": "Not A Name", "name": "a" }), 400, "INVALID_AGENT_TYPE"),
        (json!({ "agent_type": "polite", "name": "a", "id": "a/b" }), 400, "INVALID_AGENT_ID"),
        (json!({ "agent_type": "polite" }), 422, "INVALID_REQUEST"),
    ] {
        assert_eq!(service.post("/agents", &body).await.fault(), (status, code), "{body}");
    }
    let config = json!({ "greeting": 1, "more": true });
    let body = json!({ "agent_type": "polite", "name": "a", "config": config });
    let refused = service.post("/agents", &body).await;
    let faults = refused.body["error"]["details"]["faults"].as_array().unwrap();
    let mut paths: Vec<_> = faults.iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/greeting", "/more"]);
    assert_eq!(create(&service, "a", "Moin").await.status, 201);
    let again = create(&service, "a", "Hello").await;
    assert_eq!(again.fault(), (409, "AGENT_EXISTS"));
    assert_eq!(service.get("/agents").await.body["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_agents_of_code_to_the_code() {
    let service = Service::in_memory().await;
    let id = service.get("/agents").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let body = json!({ "agent_type": "greeter", "name": "greeter" });
    assert_eq!(service.post("/agents", &body).await.fault(), (409, "AGENT_EXISTS"));
    let etag = service.get(&format!("/agents/{id}")).await.headers["etag"].clone();
    let etag = Some(etag.to_str().unwrap());
    let put = conditional(&service, Method::PUT, &id, etag, Some(json!({ "name": "b" }))).await;
    assert_eq!(put.fault(), (409, "AGENT_NOT_MANAGED"));
    let deleted = conditional(&service, Method::DELETE, &id, etag, None).await;
    assert_eq!(deleted.fault(), (409, "AGENT_NOT_MANAGED"));
    let restart = service.post(&format!("/agents/{id}/actions/restart"), &json!({})).await;
    assert_eq!(restart.fault(), (409, "AGENT_NOT_MANAGED"));
    let missing = service.post("/agents/nothing/actions/restart", &json!({})).await;
    assert_eq!(missing.fault(), (404, "AGENT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_replace_an_agent_that_has_not_changed() {
    let service = memory().await;
    let id = id_of(&create(&service, "a", "Moin").await);
    let body = || Some(json!({ "name": "b", "config": { "greeting": "Hello" } }));
    let put =
        async |etag: Option<&str>| conditional(&service, Method::PUT, &id, etag, body()).await;
    assert_eq!(put(None).await.fault(), (428, "PRECONDITION_REQUIRED"));
    let changed = put(Some("\"7\"")).await;
    assert_eq!(changed.fault(), (412, "PRECONDITION_FAILED"));
    assert_eq!(changed.body["error"]["details"]["etag"], "\"1\"");
    let replaced = put(Some("\"1\"")).await;
    assert_eq!((replaced.status.as_u16(), &replaced.attributes()["name"]), (200, &json!("b")));
    assert_eq!(replaced.headers["etag"], "\"2\"");
    assert_eq!(put(Some("\"1\"")).await.fault(), (412, "PRECONDITION_FAILED"));
    until_greets(&service, &id, "Hello, Ada!").await;
    let invalid = Some(json!({ "name": "b", "config": {} }));
    let invalid = conditional(&service, Method::PUT, &id, Some("*"), invalid).await;
    assert_eq!(invalid.fault(), (400, "INVALID_AGENT_CONFIG"));
}

/// A condition counts only for a request that would succeed without it.
#[tokio::test(flavor = "multi_thread")]
async fn should_check_the_state_of_an_agent_before_the_condition() {
    let service = memory().await;
    let stale = Some("\"7\"");
    let id = id_of(&create(&service, "a", "Moin").await);
    let put = async |id: &str, greeting: Value| {
        let body = Some(json!({ "name": "b", "config": { "greeting": greeting } }));
        conditional(&service, Method::PUT, id, stale, body).await
    };
    assert_eq!(put(&id, json!("Hello")).await.fault(), (412, "PRECONDITION_FAILED"));
    assert_eq!(put(&id, json!(1)).await.fault(), (400, "INVALID_AGENT_CONFIG"));
    assert_eq!(put("nothing", json!("Hello")).await.fault(), (404, "AGENT_NOT_FOUND"));
    assert_eq!(conditional(&service, Method::DELETE, &id, Some("*"), None).await.status, 200);
    assert_eq!(put(&id, json!("Hello")).await.fault(), (410, "AGENT_DELETED"));
    let deleted = conditional(&service, Method::DELETE, &id, stale, None).await;
    assert_eq!(deleted.fault(), (410, "AGENT_DELETED"));

    let service = Service::in_memory().await;
    let id = service.get("/agents").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let body = Some(json!({ "name": "b" }));
    let put = conditional(&service, Method::PUT, &id, stale, body).await;
    assert_eq!(put.fault(), (409, "AGENT_NOT_MANAGED"));
    let deleted = conditional(&service, Method::DELETE, &id, stale, None).await;
    assert_eq!(deleted.fault(), (409, "AGENT_NOT_MANAGED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_each_tag_of_a_condition_for_a_version() {
    let service = memory().await;
    let id = id_of(&create(&service, "a", "Moin").await);
    for (version, tags, status) in [
        (1, "\"7\", \"1\"", 200),
        (2, "\"1\", \"3\"", 412),
        (2, "\"02\"", 412),
        (2, "W/\"2\"", 412),
        (2, "2", 412),
        (2, "\"x\", *", 200),
    ] {
        let body = Some(json!({ "name": "a", "config": { "greeting": "Moin" } }));
        let put = conditional(&service, Method::PUT, &id, Some(tags), body).await;
        assert_eq!(put.status, status, "{tags} for version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_let_one_of_concurrent_changes_win() {
    let service = memory().await;
    let id = id_of(&create(&service, "a", "Moin").await);
    let put = |greeting: u32| {
        let body = json!({ "name": "a", "config": { "greeting": greeting.to_string() } });
        conditional(&service, Method::PUT, &id, Some("\"1\""), Some(body))
    };
    let answers = futures_util::future::join_all((0..10).map(put)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 412).count(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_delete_an_agent_and_keep_its_row() {
    let service = memory().await;
    let id = id_of(&create(&service, "a", "Moin").await);
    until_status(&service, &id, "running").await;
    let delete = async |etag| conditional(&service, Method::DELETE, &id, etag, None).await;
    assert_eq!(delete(None).await.fault(), (428, "PRECONDITION_REQUIRED"));
    assert_eq!(delete(Some("\"2\"")).await.fault(), (412, "PRECONDITION_FAILED"));
    let deleted = delete(Some("\"1\"")).await;
    assert_eq!(deleted.status, 200);
    assert!(deleted.attributes()["deleted_at"].is_string(), "{deleted:?}");
    assert_eq!(service.get(&format!("/agents/{id}")).await.fault(), (410, "AGENT_DELETED"));
    assert_eq!(delete(Some("*")).await.fault(), (410, "AGENT_DELETED"));
    let task = service.post(&format!("/agents/{id}/tasks"), &json!({})).await;
    assert_eq!(task.fault(), (410, "AGENT_DELETED"));
    let count = async |path| service.get(path).await.body["data"].as_array().unwrap().len();
    assert_eq!((count("/agents").await, count("/agents?include_deleted=true").await), (0, 1));
    let again = create(&service, "a", "Hello").await;
    assert_eq!((again.status.as_u16(), id_of(&again)), (201, id.clone()));
    until_greets(&service, &id, "Hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_restart_an_agent_once_for_one_key() {
    let service = memory().await;
    let id = id_of(&create(&service, "a", "Moin").await);
    until_status(&service, &id, "running").await;
    for _ in 0..2 {
        let path = format!("/agents/{id}/actions/restart");
        let mut post = request(Method::POST, &path, Some("{}".to_owned()));
        post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
        let restarted = service.send(post).await;
        assert_eq!(restarted.status, 202);
        assert_eq!(restarted.headers["location"], format!("/api/v1/agents/{id}"));
    }
    until_greets(&service, &id, "Moin, Ada! 2").await;
    until_status(&service, &id, "running").await;
    assert_eq!(greet(&service, &id).await, "Moin, Ada! 2");
    assert_eq!(service.get(&format!("/agents/{id}")).await.headers["etag"], "\"2\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_accept_agents_of_types_that_no_process_hosts() {
    let service = memory().await;
    let body = json!({ "agent_type": "unheard_of", "name": "a", "config": [1], "id": "agent-123" });
    let created = service.post("/agents", &body).await;
    assert_eq!((created.status.as_u16(), id_of(&created)), (201, "agent-123".to_owned()));
    assert_eq!(created.attributes()["status"], "waiting");
    let waiting = service.get("/agents?status=waiting").await;
    assert_eq!(waiting.body["data"][0]["id"], "agent-123");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_host_agents_after_a_restart_and_stop_those_that_were_deleted_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("aios.db").display());
    let start = async |has_factory| {
        let store = aios_store::connect(&url).await.unwrap();
        process(store, Arc::new(MemoryBroker::new()), has_factory).await
    };
    let service = start(true).await;
    let (one, two) = (
        id_of(&create(&service, "one", "Moin").await),
        id_of(&create(&service, "two", "Hi").await),
    );
    until_status(&service, &two, "running").await;
    stop(service).await;

    let service = start(false).await;
    let deleted = conditional(&service, Method::DELETE, &one, Some("*"), None).await;
    assert_eq!(deleted.status, 200);
    let three = id_of(&create(&service, "three", "Hello").await);
    assert_eq!(status(&service, &three).await, "waiting");
    stop(service).await;

    let service = start(true).await;
    until_greets(&service, &two, "Hi, Ada!").await;
    until_greets(&service, &three, "Hello, Ada!").await;
    assert_eq!(status(&service, &one).await, "stopped");
    assert_eq!(
        service.get("/agents?status=running").await.body["data"].as_array().unwrap().len(),
        2
    );
    stop(service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_host_agents_in_a_process_without_a_store() {
    let store = aios_store::connect("memory://").await.unwrap();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let service = process(store, Arc::clone(&broker), false).await;
    let early = id_of(&create(&service, "early", "Moin").await);
    let start = async || {
        let builder = Runtime::builder().broker(Arc::clone(&broker));
        factory(builder, "polite").start().await.unwrap()
    };
    let remote = start().await;
    until_status(&service, &early, "running").await;
    until_greets(&service, &early, "Moin").await;
    let late = id_of(&create(&service, "late", "Hello").await);
    until_greets(&service, &late, "Hello").await;
    until_status(&service, &late, "running").await;
    let types = service.get("/agent-types/polite").await;
    assert_eq!(types.attributes()["config_schema"]["required"], json!(["greeting"]));
    let refused = service.post("/agents", &json!({ "agent_type": "polite", "name": "b" })).await;
    assert_eq!(refused.fault(), (400, "INVALID_AGENT_CONFIG"), "the schema of the other process");

    remote.shutdown(Duration::from_secs(10)).await.unwrap();
    conditional(&service, Method::DELETE, &early, Some("*"), None).await;
    let body = json!({ "name": "late", "config": { "greeting": "Hi" } });
    conditional(&service, Method::PUT, &late, Some("*"), Some(body)).await;
    let remote = start().await;
    until_greets(&service, &late, "Hi, Ada! 1").await;
    assert_eq!(status(&service, &early).await, "stopped");
    remote.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_show_an_agent_whose_factory_fails() {
    let store = aios_store::connect("memory://").await.unwrap();
    let builder = Runtime::builder().store(store).broker(Arc::new(MemoryBroker::new()));
    let builder =
        builder.agent_factory("polite", |config: Config| match config.greeting.as_str() {
            "" => Err(TaskError::terminal(Failure::new("NO_GREETING", "a greeting is not empty"))),
            _ => Ok(Greeter { greeting: config.greeting, instance: 1 }),
        });
    let service = Service::of(Arc::new(builder.start().await.unwrap()), ApiOptions::new());
    let id = id_of(&create(&service, "a", "").await);
    until_status(&service, &id, "failed").await;
    let body = json!({ "name": "a", "config": { "greeting": "Moin" } });
    conditional(&service, Method::PUT, &id, Some("*"), Some(body)).await;
    until_greets(&service, &id, "Moin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_list_agent_types_with_their_schemas() {
    let service = memory().await;
    let list = service.get("/agent-types").await;
    assert_eq!(list.body["data"][0]["id"], "polite");
    let found = service.get("/agent-types/polite").await;
    assert_eq!(found.attributes()["config_schema"]["properties"]["greeting"]["type"], "string");
    let of_code = Service::in_memory().await.get("/agent-types/greeter").await;
    assert_eq!(of_code.attributes()["config_schema"], Value::Null);
    assert_eq!(of_code.attributes()["parameters_schema"]["type"], "string");
    let missing = service.get("/agent-types/nothing").await;
    assert_eq!(missing.fault(), (404, "AGENT_TYPE_NOT_FOUND"));
}

/// Its tag covers the desired state, so it says nothing about the status that a client has kept.
#[tokio::test(flavor = "multi_thread")]
async fn should_always_send_the_status_of_an_agent() {
    let service = Service::in_memory().await;
    let path = format!("/agents/{}", id_of_first(&service.get("/agents").await));
    let first = service.get(&path).await;
    let mut again = request(Method::GET, &path, None);
    again.headers_mut().insert("if-none-match", first.headers["etag"].clone());
    let again = service.send(again).await;
    assert_eq!((again.status.as_u16(), &again.headers["etag"]), (200, &first.headers["etag"]));
    assert_eq!(again.body["data"]["id"], first.body["data"]["id"]);
    assert_eq!(again.headers["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_with_304_while_a_resource_is_unchanged() {
    let service = Service::in_memory().await;
    let start = json!({ "run_id": "r1", "input": 1 });
    service.post("/workflows/approval/actions/execute", &start).await;
    service
        .post("/tasks", &json!({ "run_id": "t1", "agent_type": "greeter", "parameters": "Ada" }))
        .await;
    service.result("t1").await;
    let task = id_of_first(&service.get("/tasks").await).replace('/', "%2F");
    for path in [
        "/runs/r1".to_owned(),
        "/workflows/approval".to_owned(),
        "/agent-types/greeter".to_owned(),
        format!("/tasks/{task}"),
    ] {
        let first = service.get(&path).await;
        let etag = first.headers["etag"].clone();
        let mut again = request(Method::GET, &path, None);
        again.headers_mut().insert("if-none-match", etag.clone());
        let again = service.send(again).await;
        assert_eq!(
            (again.status.as_u16(), &again.headers["etag"], again.body),
            (304, &etag, json!("")),
            "{path}"
        );
    }
    let etag = service.get("/runs/r1").await.headers["etag"].clone();
    service.post("/runs/r1/actions/cancel", &json!({})).await;
    service.result("r1").await;
    assert_ne!(service.get("/runs/r1").await.headers["etag"], etag);
}

fn id_of_first(list: &Answer) -> String {
    list.body["data"][0]["id"].as_str().unwrap().to_owned()
}
