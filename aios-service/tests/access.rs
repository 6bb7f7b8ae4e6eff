//! Authentication and permissions.

use std::{net::SocketAddr, sync::Arc};

use aios_core::{clock::VirtualClock, event::Timestamp};
use aios_service::{
    auth::{Anonymous, ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, api, openapi},
};
use axum::{
    Router,
    extract::connect_info::MockConnectInfo,
    http::{HeaderValue, Method},
};
use serde_json::{Value, json};

use crate::support::{Answer, Service, answer, request};

const KEY: &str = "5f0f3a0c1b5d4f6e8a7b9c0d1e2f3a4b";

fn keys(permissions: &[&str]) -> ApiOptions {
    let permissions = Permissions::parse(permissions.iter().copied()).unwrap();
    let key = ApiKey::new(ApiKeyHash::of(KEY), "ada").with_permissions(permissions);
    let options = ApiOptions::new().with_authenticator(ApiKeys::new([key]));
    options.with_stream_lifetime(std::time::Duration::ZERO)
}

async fn ask(service: &Service, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = request(method, path, Some("{}".to_owned()));
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    service.send(request).await
}

/// Every operation of the document, with its permissions.
pub(crate) fn operations() -> Vec<(Method, String, Vec<String>)> {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scopes = operation["security"][0]["bearer"].as_array().unwrap();
            let scopes = scopes.iter().map(|scope| scope.as_str().unwrap().to_owned()).collect();
            let method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{kind}", "groups");
            let path = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
            operations.push((method, path.collect::<Vec<_>>().join("/"), scopes));
        }
    }
    assert!(operations.len() >= 20, "found the operations");
    operations
}

#[tokio::test]
async fn should_refuse_callers_without_credentials_on_every_route() {
    let service = Service::with(keys(&["*"])).await;
    for (method, path, _) in operations() {
        for headers in [&[][..], &[("x-api-key", "wrong")], &[("authorization", "Bearer nonsense")]]
        {
            let answer = ask(&service, method.clone(), &path, headers).await;
            assert_eq!(answer.fault(), (401, "UNAUTHENTICATED"), "{method} {path} {headers:?}");
            let challenge = match headers {
                [("authorization", _)] => r#"Bearer error="invalid_token""#,
                _ => "Bearer",
            };
            assert_eq!(answer.headers["www-authenticate"], challenge, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn should_refuse_callers_without_the_permission_of_the_route() {
    for (method, path, scopes) in operations() {
        for missing in &scopes {
            let others = scopes.iter().filter(|scope| *scope != missing).map(String::as_str);
            let others: Vec<_> = others.chain(["other:thing"]).collect();
            let service = Service::with(keys(&others)).await;
            let answer = ask(&service, method.clone(), &path, &[("x-api-key", KEY)]).await;
            assert_eq!(answer.fault(), (403, "PERMISSION_DENIED"), "{method} {path}");
            assert_eq!(answer.body["error"]["details"]["required"], **missing);
            let challenge = format!(r#"Bearer error="insufficient_scope", scope="{missing}""#);
            assert_eq!(answer.headers["www-authenticate"], challenge);
        }
        let all: Vec<_> = scopes.iter().map(String::as_str).collect();
        let service = Service::with(keys(&all)).await;
        let answer = ask(&service, method.clone(), &path, &[("x-api-key", KEY)]).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn should_take_no_key_from_the_query() {
    let service = Service::with(keys(&["*"])).await;
    for query in ["api_key", "x-api-key", "access_token"] {
        let answer = service.get(&format!("/runs?{query}={KEY}")).await;
        assert_eq!(answer.fault(), (401, "UNAUTHENTICATED"));
    }
    let answer = ask(&service, Method::GET, "/me", &[("x-api-key", KEY)]).await;
    assert_eq!(answer.body["data"]["id"], "ada");
    assert_eq!(answer.attributes()["permissions"], json!(["*"]));
}

#[tokio::test]
async fn should_refuse_keys_that_have_expired() {
    let clock = VirtualClock::new(Timestamp::now());
    let end = clock_now(&clock) + std::time::Duration::from_secs(60);
    let key = ApiKey::new(ApiKeyHash::of(KEY), "ada").with_expiry(end);
    let options = ApiOptions::new()
        .with_authenticator(ApiKeys::new([key]))
        .with_clock(Arc::new(clock.clone()));
    let service = Service::with(options).await;
    let headers = [("x-api-key", KEY)];
    assert_eq!(ask(&service, Method::GET, "/me", &headers).await.status, 200);
    clock.advance(std::time::Duration::from_secs(60));
    let answer = ask(&service, Method::GET, "/me", &headers).await;
    assert_eq!(answer.fault(), (401, "UNAUTHENTICATED"));
}

fn clock_now(clock: &VirtualClock) -> Timestamp {
    aios_core::clock::Clock::now(clock)
}

#[tokio::test]
async fn should_show_no_key() {
    let options = format!("{:?}", keys(&["*"]));
    assert!(!options.contains(KEY));
    let hash = ApiKeyHash::of(KEY);
    assert_eq!(hash.to_string().parse::<ApiKeyHash>().unwrap(), hash);
}

#[tokio::test]
async fn should_let_callers_without_credentials_in_on_loopback_only() {
    let service = Service::in_memory().await;
    assert_eq!(service.get("/me").await.body["data"]["id"], "anonymous");
    for (headers, allowed) in [
        (&[("host", "localhost:8080")][..], true),
        (&[("host", "127.0.0.1")], true),
        (&[("host", "[::1]:1")], true),
        (&[("host", "evil.example")], false),
        (&[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true),
        (&[("host", "localhost"), ("origin", "http://localhost:3000")], false),
        (&[("host", "localhost"), ("origin", "https://evil.example")], false),
        (&[("host", "localhost"), ("origin", "null")], false),
    ] {
        let answer = ask(&service, Method::GET, "/me", headers).await;
        assert_eq!(answer.status == 200, allowed, "{headers:?}");
    }
    let outside = |options: ApiOptions| {
        Router::new()
            .nest("/api/v1", api(Arc::clone(&service.runtime), options))
            .layer(MockConnectInfo(SocketAddr::from(([10, 0, 0, 7], 4711))))
    };
    let get = || request(Method::GET, "/runs", None);
    let refused = answer(&outside(ApiOptions::new()), get()).await;
    assert_eq!(refused.fault(), (401, "UNAUTHENTICATED"));
    let anywhere = Anonymous::anywhere(Permissions::parse(["runs:read"]).unwrap());
    let options = ApiOptions::new().with_authenticator(anywhere);
    assert_eq!(answer(&outside(options.clone()), get()).await.status, 200);
    let post = request(Method::POST, "/tasks", Some("{}".to_owned()));
    assert_eq!(answer(&outside(options), post).await.fault(), (403, "PERMISSION_DENIED"));
    let unknown = Router::new().nest("/api/v1", api(service.runtime, ApiOptions::new()));
    assert_eq!(answer(&unknown, get()).await.fault(), (401, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn should_record_who_started_a_run() {
    let service = Service::with(keys(&["*"])).await;
    let mut post = request(
        Method::POST,
        "/workflows/approval/actions/execute",
        Some(json!({ "run_id": "r1", "correlation_id": "c-1" }).to_string()),
    );
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    post.headers_mut().insert("x-api-key", HeaderValue::from_static(KEY));
    post.headers_mut().insert("traceparent", HeaderValue::from_static(trace));
    assert_eq!(service.send(post).await.status, 202);
    let journal = ask(&service, Method::GET, "/runs/r1/journal", &[("x-api-key", KEY)]).await;
    let metadata = &journal.body["data"][0]["attributes"]["metadata"];
    assert_eq!(metadata["user_id"], "ada");
    assert_eq!(
        (&metadata["traceparent"], &metadata["correlation_id"]),
        (&json!(trace), &json!("c-1"))
    );
}
