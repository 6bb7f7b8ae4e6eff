//! Requests with an `Idempotency-Key`.

use std::{sync::Arc, time::Duration};

use aios_core::{
    event::{Event, Timestamp},
    store::{Append, EventStoreExt, Expirable, RecordedEvent, StreamId},
};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, openapi},
};
use aios_store::{Retention, memory::MemoryStore};
use axum::http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{Answer, Service, on_every_store, pause, request};

on_every_store! {
    should_answer_a_repeated_request_as_the_first_one
    should_refuse_another_request_with_the_same_key
    should_do_concurrent_requests_once
    should_repeat_errors_too
    should_free_the_key_of_a_request_that_is_refused_for_its_content
    should_do_every_command_once
}

const EXECUTE: &str = "/workflows/approval/actions/execute";

async fn keyed(service: &Service, key: &str, path: &str, body: &Value) -> Answer {
    let mut post = request(Method::POST, path, Some(body.to_string()));
    post.headers_mut().insert("idempotency-key", HeaderValue::from_str(key).unwrap());
    service.send(post).await
}

async fn count_of_runs(service: &Service) -> usize {
    service.get("/runs?limit=1000").await.body["data"].as_array().unwrap().len()
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

async fn should_answer_a_repeated_request_as_the_first_one(service: Service) {
    let first = keyed(&service, "k1", EXECUTE, &json!({ "input": 1 })).await;
    assert_eq!((first.status.as_u16(), is_replayed(&first)), (202, false), "{first:?}");
    let id = first.body["data"]["id"].as_str().unwrap();
    service.post(&format!("/runs/{id}/actions/cancel"), &json!({})).await;
    let again = keyed(&service, "k1", EXECUTE, &json!({ "input": 1 })).await;
    assert_eq!((again.status.as_u16(), is_replayed(&again)), (202, true));
    assert_eq!(again.body, first.body, "also its meta");
    assert_eq!(again.headers["location"], first.headers["location"]);
    assert_eq!(again.headers["content-type"], "application/json");
    assert_ne!(again.headers["x-request-id"], first.headers["x-request-id"]);
    assert_eq!(count_of_runs(&service).await, 1);
    let other = keyed(&service, "k2", EXECUTE, &json!({ "input": 1 })).await;
    assert_ne!(other.body["data"]["id"], first.body["data"]["id"]);
}

async fn should_refuse_another_request_with_the_same_key(service: Service) {
    assert_eq!(keyed(&service, "k1", EXECUTE, &json!({ "input": 1 })).await.status, 202);
    let other = keyed(&service, "k1", EXECUTE, &json!({ "input": 2 })).await;
    assert_eq!(other.fault(), (409, "IDEMPOTENCY_KEY_REUSED"));
    let path = "/workflows/welcome/actions/execute";
    let other = keyed(&service, "k1", path, &json!({ "input": 1 })).await;
    assert_eq!(other.fault(), (409, "IDEMPOTENCY_KEY_REUSED"));
    for key in ["", &"x".repeat(256)] {
        let answer = keyed(&service, key, EXECUTE, &json!({})).await;
        assert_eq!(answer.fault(), (400, "INVALID_IDEMPOTENCY_KEY"), "{key:?}");
    }
    assert_eq!(count_of_runs(&service).await, 1);
}

async fn should_do_concurrent_requests_once(service: Service) {
    let body = json!({ "input": 1 });
    let requests = (0..20).map(|_| keyed(&service, "k1", EXECUTE, &body));
    let answers = futures_util::future::join_all(requests).await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 202);
    assert_eq!(done.iter().filter(|answer| !is_replayed(answer)).count(), 1);
    assert!(done.iter().all(|answer| answer.body == done[0].body));
    for answer in refused {
        assert_eq!(answer.fault(), (409, "REQUEST_IN_PROGRESS"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert_eq!(count_of_runs(&service).await, 1);
}

async fn should_repeat_errors_too(service: Service) {
    let (path, body) = ("/runs/r1/actions/signal", json!({ "name": "approval" }));
    let first = keyed(&service, "k1", path, &body).await;
    assert_eq!(first.fault(), (404, "RUN_NOT_FOUND"));
    let start = json!({ "run_id": "r1", "input": 1 });
    assert_eq!(service.post(EXECUTE, &start).await.status, 202);
    let again = keyed(&service, "k1", path, &body).await;
    assert_eq!((again.fault(), is_replayed(&again)), ((404, "RUN_NOT_FOUND"), true));
    assert_eq!(again.body["error"], first.body["error"]);
    assert_eq!(keyed(&service, "k2", path, &body).await.status, 202);
}

/// The client corrects the body and sends it with the same key. Nothing has happened before.
async fn should_free_the_key_of_a_request_that_is_refused_for_its_content(service: Service) {
    for (number, (body, fault)) in [
        (json!({ "input": 1, "delay": 5 }), (422, "INVALID_REQUEST")),
        (json!({ "input": 1, "run_id": "a\nb" }), (400, "INVALID_RUN_ID")),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{number}");
        for _ in 0..2 {
            let refused = keyed(&service, &key, EXECUTE, &body).await;
            assert_eq!((refused.fault(), is_replayed(&refused)), (fault, false));
        }
        let corrected = json!({ "input": 1 });
        let started = keyed(&service, &key, EXECUTE, &corrected).await;
        assert_eq!((started.status.as_u16(), is_replayed(&started)), (202, false), "{started:?}");
        assert!(is_replayed(&keyed(&service, &key, EXECUTE, &corrected).await));
        let other = keyed(&service, &key, EXECUTE, &json!({ "input": 2 })).await;
        assert_eq!(other.fault(), (409, "IDEMPOTENCY_KEY_REUSED"));
        assert_eq!(count_of_runs(&service).await, number + 1);
    }
}

/// The headers of a request are no part of its fingerprint, so the client can correct them.
#[tokio::test]
async fn should_handle_a_request_again_that_was_refused_unread() {
    let service = Service::in_memory().await;
    let ask = async |content_type: &'static str, encoding: &'static str| {
        let mut post = request(Method::POST, EXECUTE, Some(json!({ "input": 1 }).to_string()));
        let headers = post.headers_mut();
        headers.insert("idempotency-key", HeaderValue::from_static("k1"));
        headers.insert("content-type", HeaderValue::from_static(content_type));
        headers.insert("content-encoding", HeaderValue::from_static(encoding));
        service.send(post).await
    };
    let form = ask("application/x-www-form-urlencoded", "identity").await;
    assert_eq!(form.fault(), (415, "UNSUPPORTED_MEDIA_TYPE"));
    assert_eq!(ask("application/json", "gzip").await.fault(), (415, "UNSUPPORTED_MEDIA_TYPE"));
    let started = ask("application/json", "identity").await;
    assert_eq!((started.status.as_u16(), is_replayed(&started)), (202, false), "{started:?}");
    assert!(is_replayed(&ask("application/json", "identity").await));
    assert_eq!(count_of_runs(&service).await, 1);
}

/// Every command, and the event of the journal that it leaves.
const COMMANDS: [(&str, &str); 4] = [
    ("pause", "workflows.approval.paused"),
    ("resume", "workflows.approval.resumed"),
    ("signal", "workflows.approval.signaled"),
    ("cancel", "workflows.approval.cancel_requested"),
];

async fn should_do_every_command_once(service: Service) {
    assert_eq!(service.post(EXECUTE, &json!({ "run_id": "r1" })).await.status, 202);
    for (command, event_type) in COMMANDS {
        let body = if command == "signal" { json!({ "name": "other" }) } else { json!({}) };
        for _ in 0..2 {
            let answer =
                keyed(&service, command, &format!("/runs/r1/actions/{command}"), &body).await;
            assert_eq!(answer.status, 202, "{command}");
        }
        assert_eq!(count_in_journal(&service, "r1", event_type).await, 1, "{command}");
    }
}

async fn count_in_journal(service: &Service, run: &str, event_type: &str) -> usize {
    let journal = service.get(&format!("/runs/{run}/journal?limit=1000")).await;
    let events = journal.body["data"].as_array().unwrap().iter();
    events.filter(|event| event["attributes"]["type"] == event_type).count()
}

/// The events of requests with a key.
async fn requests(service: &Service) -> Vec<RecordedEvent> {
    let log = service.runtime.store().unwrap().read_log(0, 1000).await.unwrap();
    log.into_iter().filter(|it| it.stream.as_str().starts_with("system/requests/")).collect()
}

async fn append(service: &Service, stream: &str, event: Event) {
    let append = Append::new(StreamId::new(stream).unwrap(), vec![event]);
    service.runtime.store().unwrap().append_one(append).await.unwrap();
}

/// The answer is lost: the state after a crash between the effect and the recording of the answer.
async fn forget_answers(store: &MemoryStore, service: &Service) {
    let now = Retention::new(Duration::ZERO);
    // What the relay has not passed stays, and so does the last event of the log.
    while !requests(service).await.is_empty() {
        let filler = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        append(service, "orders", filler).await;
        store.expire_streams(Expirable::Requests, &now).await.unwrap();
        pause().await;
    }
}

#[tokio::test]
async fn should_create_nothing_twice_after_a_crash() {
    let store = MemoryStore::new();
    let service = Service::on(Arc::new(store.clone()), None, ApiOptions::new()).await;
    for (path, body) in [
        (EXECUTE, json!({ "input": 1 })),
        ("/tasks", json!({ "agent_type": "greeter", "parameters": "Ada" })),
        ("/runs/r1/actions/fork", json!({ "operation": 1 })),
        ("/agents/AGENT/tasks", json!({ "parameters": "Ada" })),
        ("/events", json!({ "type": "orders.order.placed" })),
    ] {
        let welcome = json!({ "run_id": "r1", "input": "Ada" });
        service.post("/workflows/welcome/actions/execute", &welcome).await;
        service.result("r1").await;
        let agents = service.get("/agents").await;
        let path = path.replace("AGENT", agents.body["data"][0]["id"].as_str().unwrap());
        let first = keyed(&service, "k", &path, &body).await;
        assert_eq!(first.status, 202, "{path}: {first:?}");
        let count = count_of_runs(&service).await;
        forget_answers(&store, &service).await;
        let again = keyed(&service, "k", &path, &body).await;
        assert_eq!((again.status.as_u16(), is_replayed(&again)), (202, false), "{path}");
        assert_eq!(again.body["data"]["id"], first.body["data"]["id"], "{path}");
        assert_eq!(count_of_runs(&service).await, count, "{path}");
        forget_answers(&store, &service).await;
    }
}

#[tokio::test]
async fn should_command_nothing_twice_after_a_crash() {
    let store = MemoryStore::new();
    let service = Service::on(Arc::new(store.clone()), None, ApiOptions::new()).await;
    service.post(EXECUTE, &json!({ "run_id": "r1" })).await;
    let undo = [("resume", "k1"), ("pause", "k2"), ("resume", "k3"), ("resume", "k4")];
    for ((command, event_type), (undo, key)) in COMMANDS.into_iter().zip(undo) {
        let body = if command == "signal" { json!({ "name": "other" }) } else { json!({}) };
        let path = format!("/runs/r1/actions/{command}");
        assert_eq!(keyed(&service, "k", &path, &body).await.status, 202, "{command}");
        let count = count_in_journal(&service, "r1", event_type).await;
        // Someone else changes the run before the request is repeated.
        if command != "cancel" {
            keyed(&service, key, &format!("/runs/r1/actions/{undo}"), &json!({})).await;
        }
        forget_answers(&store, &service).await;
        let again = keyed(&service, "k", &path, &body).await;
        assert_eq!(again.status, 202, "{command}: {again:?}");
        assert_eq!(count_in_journal(&service, "r1", event_type).await, count, "{command}");
        forget_answers(&store, &service).await;
        service.post("/runs/r1/actions/resume", &json!({})).await;
        service.post("/runs/r1/actions/pause", &json!({})).await;
    }
}

#[tokio::test]
async fn should_answer_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("aios.db").display());
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let store = aios_store::connect(&url).await.unwrap();
        let service = Service::on(store, None, ApiOptions::new()).await;
        bodies.push(keyed(&service, "k1", EXECUTE, &json!({ "input": 1 })).await.body);
        assert_eq!(count_of_runs(&service).await, 1);
        let Service { runtime, router, .. } = service;
        drop(router);
        Arc::into_inner(runtime).unwrap().shutdown(Duration::from_secs(10)).await.unwrap();
    }
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn should_answer_the_same_in_another_process() {
    let store = MemoryStore::new();
    let one = Service::on(Arc::new(store.clone()), None, ApiOptions::new()).await;
    let two = Service::on(Arc::new(store), None, ApiOptions::new()).await;
    let first = keyed(&one, "k1", EXECUTE, &json!({ "input": 1 })).await;
    let again = keyed(&two, "k1", EXECUTE, &json!({ "input": 1 })).await;
    assert_eq!((again.body == first.body, is_replayed(&again)), (true, true));
}

/// Another process has begun to handle the request.
#[tokio::test]
async fn should_wait_for_the_process_that_handles_a_request_until_its_time_has_run_out() {
    let body = json!({ "input": 1 });
    let elsewhere = Service::in_memory().await;
    keyed(&elsewhere, "k1", EXECUTE, &body).await;
    let received = requests(&elsewhere).await.remove(0);
    let received_until = |until: Timestamp| {
        let mut data: Value = received.event.data().unwrap();
        data["open_until"] = serde_json::to_value(until).unwrap();
        Event::new(received.event.event_type.clone(), "test", &data).unwrap()
    };
    let service = Service::in_memory().await;
    let now = Timestamp::now();
    append(&service, received.stream.as_str(), received_until(now + Duration::from_secs(60))).await;
    let refused = keyed(&service, "k1", EXECUTE, &body).await;
    assert_eq!(refused.fault(), (409, "REQUEST_IN_PROGRESS"));
    let open_for = refused.body["error"]["details"]["open_for_seconds"].as_u64().unwrap();
    assert!((50..=60).contains(&open_for), "{open_for}");
    assert_eq!(
        (&refused.headers["retry-after"], count_of_runs(&service).await),
        (&HeaderValue::from_static("1"), 0)
    );
    append(&service, received.stream.as_str(), received_until(now)).await;
    assert_eq!(keyed(&service, "k1", EXECUTE, &body).await.status, 202);
    assert_eq!(count_of_runs(&service).await, 1);
}

/// Another process has begun to handle a request, and has died. It may have had an effect, so the refusal of
/// the repetition, by a process with other code, does not free the key for another request.
#[tokio::test]
async fn should_not_free_the_key_of_a_request_that_may_have_had_an_effect() {
    let body = json!({ "input": 1, "new_field": 1 });
    let elsewhere = Service::in_memory().await;
    keyed(&elsewhere, "k1", EXECUTE, &body).await;
    let received = requests(&elsewhere).await.remove(0);
    let mut data: Value = received.event.data().unwrap();
    data["open_until"] = serde_json::to_value(Timestamp::now()).unwrap();
    let received_before = Event::new(received.event.event_type, "test", &data).unwrap();
    let service = Service::in_memory().await;
    append(&service, received.stream.as_str(), received_before).await;
    assert_eq!(keyed(&service, "k1", EXECUTE, &body).await.fault(), (422, "INVALID_REQUEST"));
    let other = keyed(&service, "k1", EXECUTE, &json!({ "input": 1 })).await;
    assert_eq!(other.fault(), (409, "IDEMPOTENCY_KEY_REUSED"));
}

#[tokio::test]
async fn should_give_the_key_of_another_subject_no_meaning() {
    let key = |subject: &str| {
        let permissions = Permissions::parse(["runs:*"]).unwrap();
        ApiKey::new(ApiKeyHash::of(subject), subject).with_permissions(permissions)
    };
    let authenticator = ApiKeys::new([key("ada"), key("bob")]);
    let service = Service::with(ApiOptions::new().with_authenticator(authenticator)).await;
    let mut ids = Vec::new();
    for subject in ["ada", "bob", "ada"] {
        let mut post = request(Method::POST, EXECUTE, Some(json!({ "input": 1 }).to_string()));
        post.headers_mut().insert("x-api-key", HeaderValue::from_static(subject));
        post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
        ids.push(service.send(post).await.body["data"]["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
}

/// A caller who may not do it yet may repeat the request once that has changed, and gets no answer of
/// before when it changes back.
#[tokio::test]
async fn should_answer_a_repeated_request_as_the_caller_may_now() {
    let store = MemoryStore::new();
    for (permission, status) in
        [("runs:read", 403), ("runs:*", 202), ("runs:read", 403), ("runs:start", 202)]
    {
        let permissions = Permissions::parse([permission]).unwrap();
        let key = ApiKey::new(ApiKeyHash::of("secret"), "ada").with_permissions(permissions);
        let options = ApiOptions::new().with_authenticator(ApiKeys::new([key]));
        let service = Service::on(Arc::new(store.clone()), None, options).await;
        let mut post = request(Method::POST, EXECUTE, Some("{}".to_owned()));
        post.headers_mut().insert("x-api-key", HeaderValue::from_static("secret"));
        post.headers_mut().insert("idempotency-key", HeaderValue::from_static("\"k1\""));
        assert_eq!(service.send(post).await.status, status);
    }
}

#[test]
fn should_document_the_key_on_every_post() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let has_key = parameters.iter().any(|it| it["name"] == "Idempotency-Key");
            assert_eq!(has_key, method == "post", "{method} {path}");
        }
    }
}
