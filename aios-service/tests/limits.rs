//! Rate limits.

use std::{sync::Arc, time::Duration};

use aios_core::{clock::VirtualClock, event::Timestamp};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, RateLimit, openapi},
};
use axum::http::{HeaderValue, Method};
use serde_json::Value;

use crate::support::{Answer, Service, request};

/// A service for Ada and Grace, whose keys are their names.
async fn service(clock: &VirtualClock, requests: u32, per: Duration) -> Service {
    let keys = ["ada", "grace"]
        .map(|name| ApiKey::new(ApiKeyHash::of(name), name).with_permissions(Permissions::all()));
    let options = ApiOptions::new()
        .with_authenticator(ApiKeys::new(keys))
        .with_clock(Arc::new(clock.clone()))
        .with_rate_limit(RateLimit::new(requests, per).unwrap());
    Service::with(options).await
}

async fn ask(service: &Service, path: &str, key: &'static str) -> Answer {
    let mut get = request(Method::GET, path, None);
    get.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
    service.send(get).await
}

#[tokio::test]
async fn should_refuse_a_caller_that_sends_too_many_requests_and_no_other() {
    let clock = VirtualClock::new(Timestamp::now());
    let service = service(&clock, 3, Duration::from_secs(30)).await;
    for path in ["/me", "/runs", "/runs/unknown"] {
        assert_ne!(ask(&service, path, "ada").await.status, 429, "{path}");
    }
    let refused = ask(&service, "/me", "ada").await;
    assert_eq!(refused.fault(), (429, "RATE_LIMITED"));
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(refused.body["error"]["details"]["retry_after_seconds"], 10.0);
    assert_eq!(ask(&service, "/me", "grace").await.status, 200);
    clock.advance(Duration::from_millis(9500));
    let refused = ask(&service, "/me", "ada").await;
    assert_eq!((refused.fault().0, &refused.headers["retry-after"]), (429, &HeaderValue::from(1)));
    clock.advance(Duration::from_millis(500));
    assert_eq!(ask(&service, "/me", "ada").await.status, 200);
    assert_eq!(ask(&service, "/me", "ada").await.fault(), (429, "RATE_LIMITED"));
}

#[tokio::test]
async fn should_count_no_request_whose_credentials_are_refused() {
    let clock = VirtualClock::new(Timestamp::now());
    let service = service(&clock, 1, Duration::from_secs(1)).await;
    for _ in 0..5 {
        assert_eq!(ask(&service, "/me", "wrong").await.fault(), (401, "UNAUTHENTICATED"));
        assert_eq!(service.get("/me").await.fault(), (401, "UNAUTHENTICATED"));
    }
    assert_eq!(ask(&service, "/me", "ada").await.status, 200);
    assert_eq!(ask(&service, "/me", "ada").await.fault(), (429, "RATE_LIMITED"));
}

#[test]
fn should_document_the_rate_limit_of_every_operation() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(operation["responses"]["429"].is_object(), "{operation}");
        }
    }
    let refused = &document["components"]["responses"]["Error429"];
    assert!(refused["headers"]["retry-after"].is_object(), "{refused}");
}
