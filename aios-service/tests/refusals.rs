//! Invalid requests are refused, in the shape of the API.

use std::time::Duration;

use aios_service::{
    auth::{AuthError, Authenticator, Credentials, Identity},
    http::{ApiOptions, openapi},
};
use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};

use crate::{
    access::operations,
    support::{Service, request},
};

#[tokio::test]
async fn should_refuse_unknown_paths_and_methods() {
    let service = Service::in_memory().await;
    let answer = service.get("/nothing").await;
    assert_eq!(answer.fault(), (404, "ROUTE_NOT_FOUND"));
    assert_eq!(answer.body["error"]["details"]["path"], "/api/v1/nothing");
    assert_eq!(service.get("/runs/").await.fault(), (404, "ROUTE_NOT_FOUND"));
    let answer = service.send(request(Method::DELETE, "/runs/r1", None)).await;
    assert_eq!(answer.fault(), (405, "METHOD_NOT_ALLOWED"));
    assert_eq!(answer.headers["allow"], "GET,HEAD");
    let other = Request::builder().uri("/other").body(Body::empty()).unwrap();
    assert_eq!(service.send(other).await.body, "", "the API answers only for itself");
}

#[tokio::test]
async fn should_refuse_what_does_not_exist() {
    let service = Service::in_memory().await;
    let answer = service.post("/workflows/unknown/actions/execute", &json!({})).await;
    assert_eq!(answer.fault(), (404, "WORKFLOW_NOT_FOUND"));
    assert_eq!(answer.body["error"]["details"]["id"], "unknown");
    assert_eq!(service.get("/runs/%ff").await.fault(), (400, "MALFORMED_REQUEST"));
}

#[tokio::test]
async fn should_answer_the_same_about_a_run_on_every_route() {
    let service = Service::in_memory().await;
    let (long, longest) = ("x".repeat(10_000), "x".repeat(200));
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let of_runs: Vec<_> = paths.iter().filter(|(path, _)| path.contains("{run_id}")).collect();
    assert!(of_runs.len() >= 11, "found the routes");
    for (path, item) in of_runs {
        let is_get = item.as_object().unwrap().contains_key("get");
        let body = match path {
            path if path.ends_with("/signal") => json!({ "name": "approval" }),
            path if path.ends_with("/fork") => json!({ "operation": 1 }),
            _ => json!({}),
        };
        let ask = async |id: &str| {
            let path = path.replace("{run_id}", id).replace("{stream}", "words");
            if is_get { service.get(&path).await } else { service.post(&path, &body).await }
        };
        for id in ["r1", "%2F", "a~1", &longest] {
            let answer = ask(id).await;
            assert_eq!(answer.fault(), (404, "RUN_NOT_FOUND"), "{path} {id}");
            let id = id.replace("%2F", "/");
            assert_eq!(answer.body["error"]["details"], json!({ "id": id }), "{path}");
        }
        for id in ["a%00b", "a%0A", "%C2%85", &long] {
            assert_eq!(ask(id).await.fault(), (400, "INVALID_RUN_ID"), "{path} {id}");
        }
    }
}

#[tokio::test]
async fn should_refuse_names_that_no_signal_can_have() {
    let service = Service::in_memory().await;
    let path = "/workflows/approval/actions/execute";
    assert_eq!(service.post(path, &json!({ "run_id": "r1" })).await.status, 202);
    for name in ["", "a\0b", "a\n", &"x".repeat(201), &"x".repeat(1_000_000)] {
        let answer = service.post("/runs/r1/actions/signal", &json!({ "name": name })).await;
        assert_eq!(answer.fault(), (400, "INVALID_SIGNAL_NAME"));
        let body = json!({ "run_id": "r2", "signal": { "name": name } });
        let answer = service.post("/workflows/approval/actions/signal-with-start", &body).await;
        assert_eq!(answer.fault(), (400, "INVALID_SIGNAL_NAME"));
    }
    assert_eq!(service.get("/runs/r2").await.status, 404);
    let answer = service.post("/runs/r1/actions/signal", &json!({ "name": "ü".repeat(100) })).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn should_take_numbers_in_one_spelling() {
    let service = Service::in_memory().await;
    let body = json!({ "run_id": "r1" });
    service.post("/workflows/approval/actions/execute", &body).await;
    for spelling in ["%2B5", "05", "00", "-0", "%205", "5%20", "5.0", "1e1", "0x5", "", "%D9%A5"] {
        for path in [
            "/runs?limit=",
            "/runs?changed_after=",
            "/tasks?limit=",
            "/agents?limit=",
            "/workflows?limit=",
            "/engines?limit=",
            "/events?limit=",
            "/events?after=",
            "/events/stream?after=",
            "/dead-letters/groups/a?limit=",
            "/runs/r1/journal?after=",
            "/runs/r1/journal?limit=",
            "/runs/r1/events?after=",
            "/runs/r1/streams/words?after=",
            "/runs/r1/result?wait=",
        ] {
            let answer = service.get(&format!("{path}{spelling}")).await;
            assert_eq!(answer.fault(), (400, "MALFORMED_REQUEST"), "{path}{spelling}");
        }
    }
    for spelling in ["+5", "05", "00", "-0", "5.0", "0x5", ""] {
        for path in ["/events/stream", "/runs/r1/events", "/runs/r1/streams/words"] {
            let mut get = request(Method::GET, path, None);
            get.headers_mut().insert("last-event-id", spelling.parse().unwrap());
            let answer = service.send(get).await;
            assert_eq!(answer.fault(), (400, "MALFORMED_REQUEST"), "{path} {spelling}");
        }
    }
    assert_eq!(service.get("/runs/r1/journal?after=0&limit=10").await.status, 200);
}

#[tokio::test]
async fn should_refuse_invalid_queries() {
    let service = Service::in_memory().await;
    for (path, code) in [
        ("/runs?limit=0", "MALFORMED_REQUEST"),
        ("/runs?limit=1001", "MALFORMED_REQUEST"),
        ("/runs?limit=-1", "MALFORMED_REQUEST"),
        ("/runs?limit=many", "MALFORMED_REQUEST"),
        ("/runs?status=asleep", "MALFORMED_REQUEST"),
        ("/runs?unknown=1", "MALFORMED_REQUEST"),
        ("/runs?after=nonsense", "INVALID_CURSOR"),
        ("/runs?after=", "INVALID_CURSOR"),
        ("/runs?after=tasks.a", "INVALID_CURSOR"),
        ("/runs?changed_after=9223372036854775808", "MALFORMED_REQUEST"),
        ("/events?after=-1", "MALFORMED_REQUEST"),
        ("/events?after=9223372036854775808", "MALFORMED_REQUEST"),
        ("/events/stream?after=9223372036854775808", "MALFORMED_REQUEST"),
        ("/openapi.json?version=2.0", "MALFORMED_REQUEST"),
        ("/runs?workflow=%ff", "MALFORMED_REQUEST"),
        ("/runs?workflow=%C3", "MALFORMED_REQUEST"),
    ] {
        assert_eq!(service.get(path).await.fault(), (400, code), "{path}");
    }
}

#[tokio::test]
async fn should_refuse_unknown_query_parameters_on_every_route() {
    let service = Service::in_memory().await;
    for (method, path, _) in operations() {
        let asked = request(method.clone(), &format!("{path}?weight=20s"), None);
        let answer = service.send(asked).await;
        assert_eq!(answer.fault(), (400, "MALFORMED_REQUEST"), "{method} {path}");
        let details = &answer.body["error"]["details"];
        assert_eq!(details["parameter"], "weight", "{method} {path}");
        let nearest = path.ends_with("/result").then_some("wait");
        assert_eq!(details["nearest"].as_str(), nearest, "{method} {path}: {details}");
    }
    for (path, says) in [
        ("/runs?limits=1", "did you mean `limit`?"),
        ("/runs/r1?limit=1", "it accepts none"),
        ("/runs/r1?=", "no query parameter ``"),
        ("/runs/r1/result?%77ait=1s&w", "no query parameter `w`"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.fault(), (400, "MALFORMED_REQUEST"), "{path}");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{path}: {message}");
    }
    let head = service.send(request(Method::HEAD, "/runs/r1?limit=1", None)).await;
    assert_eq!(head.status, 400);
    assert_eq!(service.get("/runs?&").await.status, 200, "no parameter");
    assert_eq!(service.get("/runs?workflow=%C3%BC%2").await.status, 200, "UTF-8");
}

#[tokio::test]
async fn should_take_no_body_and_only_json_where_none_is_needed() {
    let service = Service::in_memory().await;
    let send = async |path: &str, content_type: Option<&str>, body: &str| {
        let mut post = request(Method::POST, path, Some(body.to_owned()));
        post.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            post.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        let answer = service.send(post).await;
        (answer.status.as_u16(), answer.code().to_owned())
    };
    let json = Some("application/json");
    for path in [
        "/runs/x/actions/cancel",
        "/runs/x/actions/pause",
        "/runs/x/actions/resume",
        "/runs/x/actions/retry",
        "/tasks/x/actions/cancel",
        "/agents/x/actions/restart",
    ] {
        for (content_type, body) in [(None, ""), (json, ""), (Some("text/plain"), ""), (json, "{}")]
        {
            let (status, code) = send(path, content_type, body).await;
            assert_eq!(status, 404, "{path} {content_type:?} {body:?}: {code}");
        }
        for (content_type, body, code) in [
            (None, "{}", "UNSUPPORTED_MEDIA_TYPE"),
            (Some("text/plain"), "{}", "UNSUPPORTED_MEDIA_TYPE"),
            (json, "{", "MALFORMED_REQUEST"),
            (json, "null", "INVALID_REQUEST"),
            (json, "[]", "INVALID_REQUEST"),
            (json, r#"{"unknown":1}"#, "INVALID_REQUEST"),
        ] {
            assert_eq!(send(path, content_type, body).await.1, code, "{path} {body:?}");
        }
    }
}

#[tokio::test]
async fn should_refuse_tasks_for_what_is_no_agent() {
    let service = Service::in_memory().await;
    let answer = service.post("/tasks", &json!({ "agent_type": "Not A Name" })).await;
    assert_eq!(answer.fault(), (400, "INVALID_AGENT_TYPE"));
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("Not A Name"));
    for id in ["", ".", "..", "a b", "a/b", &"x".repeat(201)] {
        let body = json!({ "agent_type": "greeter", "agent_id": id });
        let answer = service.post("/tasks", &body).await;
        assert_eq!(answer.fault(), (400, "INVALID_AGENT_ID"), "{id:?}");
        let body = json!({ "agent_type": "greeter", "name": "a", "id": id });
        let answer = service.post("/agents", &body).await;
        assert_eq!(answer.fault(), (400, "INVALID_AGENT_ID"), "{id:?}");
    }
}

#[tokio::test]
async fn should_refuse_invalid_bodies() {
    let service = Service::in_memory().await;
    let deep = format!(r#"{{"input":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for (body, status, code, says) in [
        ("", 400, "MALFORMED_REQUEST", "EOF"),
        ("{", 400, "MALFORMED_REQUEST", "EOF"),
        ("{}{}", 400, "MALFORMED_REQUEST", "trailing"),
        ("nonsense", 400, "MALFORMED_REQUEST", "expected"),
        (r#"{"run_id":"\ud800"}"#, 400, "MALFORMED_REQUEST", "hex escape"),
        (deep.as_str(), 400, "MALFORMED_REQUEST", "deep"),
        ("[1]", 422, "INVALID_REQUEST", "expected an object"),
        ("\"text\"", 422, "INVALID_REQUEST", "expected an object"),
        (r#"{"run_id":1}"#, 422, "INVALID_REQUEST", "$.run_id"),
        (r#"{"run_id":"a","run_id":"b"}"#, 422, "INVALID_REQUEST", "duplicate field"),
        (r#"{"unknown":1}"#, 422, "INVALID_REQUEST", "unknown field"),
        (r#"{"start_at":"yesterday"}"#, 422, "INVALID_REQUEST", "$.start_at"),
        (r#"{"delay_seconds":-1}"#, 422, "INVALID_REQUEST", "delay_seconds"),
        (r#"{"delay_seconds":1e300}"#, 422, "INVALID_REQUEST", "delay_seconds"),
        (r#"{"delay_seconds":4000000000}"#, 422, "INVALID_RUNTIME_CONFIGURATION", "100 years"),
        (r#"{"run_id":""}"#, 400, "INVALID_RUN_ID", "1 to 200"),
        (r#"{"run_id":"a~b"}"#, 400, "INVALID_RUN_ID", "~"),
        (r#"{"run_id":"."}"#, 400, "INVALID_RUN_ID", "URL"),
        (r#"{"run_id":".."}"#, 400, "INVALID_RUN_ID", "URL"),
    ] {
        let path = "/workflows/welcome/actions/execute";
        let answer = service.send(request(Method::POST, path, Some(body.to_owned()))).await;
        let excerpt: String = body.chars().take(50).collect();
        let message = answer.body["error"].to_string();
        assert_eq!(answer.fault(), (status, code), "{excerpt}: {message}");
        assert!(message.contains(says), "{excerpt}: {message}");
    }
}

#[tokio::test]
async fn should_name_the_place_of_a_fault() {
    let service = Service::in_memory().await;
    let body = json!({ "run_id": "r", "signal": { "name": 1 } });
    let answer = service.post("/workflows/approval/actions/signal-with-start", &body).await;
    assert_eq!(answer.fault(), (422, "INVALID_REQUEST"));
    assert_eq!(answer.body["error"]["details"]["faults"][0]["path"], "$.signal.name");
    let body = json!({ "run_id": "r", "signal": ["approval"] });
    let answer = service.post("/workflows/approval/actions/signal-with-start", &body).await;
    assert_eq!(answer.body["error"]["details"]["faults"][0]["path"], "$.signal");
}

#[tokio::test]
async fn should_refuse_bodies_that_are_not_json_or_too_large() {
    let service = Service::in_memory().await;
    let path = "/workflows/welcome/actions/execute";
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut post = request(Method::POST, path, Some("{}".to_owned()));
        post.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            post.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        assert_eq!(service.send(post).await.fault(), (415, "UNSUPPORTED_MEDIA_TYPE"));
    }
    for (name, value, status) in [
        ("content-type", "application/json; charset=utf-8", 202),
        ("content-type", "application/json;Charset=\"UTF-8\"; profile=a", 202),
        ("content-type", "application/json; charset=latin1", 415),
        ("content-type", "application/json; a=b; charset=utf-16", 415),
        ("content-type", "application/json; charset=", 415),
        ("content-encoding", "identity", 202),
        ("content-encoding", "gzip", 415),
        ("content-encoding", "identity, br", 415),
    ] {
        let mut post = request(Method::POST, path, Some(r#"{"input":"Ada"}"#.to_owned()));
        post.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(service.send(post).await.status, status, "{name}: {value}");
    }
    let mut post = request(Method::POST, path, Some("{}".to_owned()));
    post.headers_mut().append("content-type", "text/plain".parse().unwrap());
    assert_eq!(service.send(post).await.fault(), (415, "UNSUPPORTED_MEDIA_TYPE"));
    let large = format!(r#"{{"input":"{}"}}"#, "x".repeat(10_000_000));
    let answer = service.send(request(Method::POST, path, Some(large))).await;
    assert_eq!(answer.fault(), (413, "BODY_TOO_LARGE"));
    assert_eq!(answer.body["error"]["details"]["limit"], 2 * 1024 * 1024);
}

#[tokio::test]
async fn should_end_a_request_whose_body_does_not_end() {
    let options = ApiOptions::new().with_request_timeout(Duration::from_millis(50));
    let service = Service::with(options).await;
    let endless = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let mut post = request(Method::POST, "/workflows/welcome/actions/execute", Some(String::new()));
    *post.body_mut() = Body::from_stream(endless);
    let answer = service.send(post).await;
    assert_eq!(answer.fault(), (503, "REQUEST_TIMEOUT"));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn should_refuse_repeated_headers_that_are_given_once() {
    let service = Service::in_memory().await;
    for (name, value) in [
        ("authorization", "Bearer a"),
        ("x-api-key", "a"),
        ("host", "localhost"),
        ("last-event-id", "1"),
    ] {
        let mut get = request(Method::GET, "/events/stream", None);
        get.headers_mut().remove(name);
        for value in [value, value] {
            get.headers_mut().append(name, value.parse().unwrap());
        }
        assert_eq!(service.send(get).await.fault(), (400, "MALFORMED_REQUEST"), "{name}");
    }
}

#[derive(Debug)]
struct Panicking;

#[async_trait::async_trait]
impl Authenticator for Panicking {
    async fn authenticate(&self, _: Credentials<'_>) -> Result<Option<Identity>, AuthError> {
        panic!("secret");
    }
}

#[tokio::test]
async fn should_survive_a_panic_and_tell_nothing_about_it() {
    let service = Service::with(ApiOptions::new().with_authenticator(Panicking)).await;
    let answer = service.get("/runs").await;
    assert_eq!(answer.fault(), (500, "INTERNAL_ERROR"));
    assert!(!answer.body.to_string().contains("secret"));
}

#[tokio::test]
async fn should_take_usable_request_ids_and_replace_others() {
    let service = Service::in_memory().await;
    let ask = async |id: &str| {
        let mut get = request(Method::GET, "/runs/r1", None);
        get.headers_mut().insert("x-request-id", id.parse().unwrap());
        service.send(get).await.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("req-456").await, "req-456");
    for bad in ["", "a b", "<script>", &"x".repeat(101)] {
        assert_ne!(ask(bad).await, bad);
    }
}
