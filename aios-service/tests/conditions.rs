//! Conditions of requests: `If-Match` and `If-None-Match`.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{Answer, Service, request};

async fn ask(
    service: &Service,
    method: Method,
    path: &str,
    body: Option<Value>,
    headers: &[(&'static str, &str)],
) -> Answer {
    let mut asked = request(method, path, body.map(|body| body.to_string()));
    let given = headers.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    });
    asked.headers_mut().extend(given.collect::<HeaderMap>());
    service.send(asked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_a_read_only_if_its_condition_holds() {
    let service = Service::in_memory().await;
    let agent = service.get("/agents").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let agent = format!("/agents/{agent}");
    let tag = service.get(&agent).await.headers["etag"].to_str().unwrap().to_owned();
    let get = async |path: &str, headers: &[(&'static str, &str)]| {
        ask(&service, Method::GET, path, None, headers).await
    };
    let both = format!("\"x\", {tag}");
    for value in [tag.as_str(), "*", both.as_str()] {
        assert_eq!(get(&agent, &[("if-match", value)]).await.status, 200, "{value}");
    }
    let workflow = "/workflows/approval";
    let known = get(workflow, &[("if-match", "*"), ("if-none-match", "*")]).await;
    assert_eq!(known.status, 304);
    let weak = format!("W/{tag}");
    for value in ["\"x\"", "x", &weak] {
        let failed = get(&agent, &[("if-match", value)]).await;
        assert_eq!(failed.fault(), (412, "PRECONDITION_FAILED"), "{value}");
        assert_eq!(failed.body["error"]["details"]["etag"], tag);
    }
    let failed = get(&agent, &[("if-match", "\"x\""), ("if-none-match", &tag)]).await;
    assert_eq!(failed.fault(), (412, "PRECONDITION_FAILED"), "`If-Match` comes first");
    // A list has no tag.
    assert_eq!(get("/runs", &[("if-match", "*")]).await.status, 200);
    assert_eq!(get("/runs", &[("if-match", &tag)]).await.fault(), (412, "PRECONDITION_FAILED"));
    // A condition counts only for a request that would succeed.
    assert_eq!(get("/runs/r1", &[("if-match", &tag)]).await.fault(), (404, "RUN_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_conditions_of_a_post() {
    let service = Service::in_memory().await;
    let path = "/workflows/approval/actions/execute";
    for headers in [("if-match", "*"), ("if-match", "\"1\""), ("if-none-match", "*")] {
        let body = Some(json!({ "run_id": "r1" }));
        let answer = ask(&service, Method::POST, path, body, &[headers]).await;
        assert_eq!(answer.fault(), (412, "PRECONDITION_FAILED"), "{headers:?}");
    }
    assert_eq!(service.get("/runs/r1").await.fault(), (404, "RUN_NOT_FOUND"), "none was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_change_nothing_if_there_is_none_to_match() {
    let service = Service::in_memory().await;
    let body = json!({ "agent_type": "greeter", "name": "a", "id": "a1" });
    let created = service.post("/agents", &body).await;
    let tag = created.headers["etag"].to_str().unwrap();
    for known in ["*", tag] {
        let headers = [("if-match", tag), ("if-none-match", known)];
        let body = Some(json!({ "name": "b" }));
        let put = ask(&service, Method::PUT, "/agents/a1", body, &headers).await;
        assert_eq!(put.fault(), (412, "PRECONDITION_FAILED"), "{known}");
        let deleted = ask(&service, Method::DELETE, "/agents/a1", None, &headers).await;
        assert_eq!(deleted.fault(), (412, "PRECONDITION_FAILED"), "{known}");
    }
    let headers = [("if-match", tag), ("if-none-match", "\"7\"")];
    let body = Some(json!({ "name": "b" }));
    let put = ask(&service, Method::PUT, "/agents/a1", body, &headers).await;
    assert_eq!(put.status, 200, "{put:?}");
}
