//! Web pages of other origins.

use aios_service::{
    auth::{Anonymous, ApiKey, ApiKeyHash, ApiKeys, Permissions},
    http::{ApiOptions, Cors},
};
use axum::http::{HeaderName, HeaderValue, Method};

use crate::support::{Answer, Service, request};

const KEY: &str = "5f0f3a0c1b5d4f6e8a7b9c0d1e2f3a4b";
const PAGE: &str = "https://console.example";

async fn service(origins: &[&str]) -> Service {
    let key = ApiKey::new(ApiKeyHash::of(KEY), "ada").with_permissions(Permissions::all());
    let options = ApiOptions::new()
        .with_authenticator(ApiKeys::new([key]))
        .with_cors(Cors::new(origins.iter().copied()).unwrap());
    Service::with(options).await
}

async fn ask(service: &Service, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = request(method, path, Some("{}".to_owned()));
    request.headers_mut().insert("x-api-key", HeaderValue::from_static(KEY));
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    service.send(request).await
}

#[tokio::test]
async fn should_refuse_pages_of_other_origins() {
    let service = service(&[]).await;
    for origin in
        [PAGE, "null", "http://localhost:3000", "https://localhost.example", "localhost", ""]
    {
        for method in [Method::GET, Method::POST, Method::OPTIONS, Method::DELETE] {
            let answer = ask(&service, method.clone(), "/me", &[("origin", origin)]).await;
            assert_eq!(answer.fault(), (403, "ORIGIN_NOT_ALLOWED"), "{method} {origin}");
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
    }
    let twice = [("origin", "http://localhost"), ("origin", PAGE)];
    assert_eq!(ask(&service, Method::GET, "/me", &twice).await.status, 403);
    let unknown = ask(&service, Method::GET, "/nothing", &[("origin", PAGE)]).await;
    assert_eq!(unknown.fault(), (403, "ORIGIN_NOT_ALLOWED"));
}

#[tokio::test]
async fn should_refuse_pages_where_no_credentials_are_needed() {
    let anywhere = Anonymous::anywhere(Permissions::all());
    let service = Service::with(ApiOptions::new().with_authenticator(anywhere)).await;
    let post = [("origin", "https://evil.example")];
    let answer = ask(&service, Method::POST, "/runs/r1/actions/cancel", &post).await;
    assert_eq!(answer.fault(), (403, "ORIGIN_NOT_ALLOWED"));
}

#[tokio::test]
async fn should_serve_pages_of_its_own_origin() {
    let service = service(&[]).await;
    for headers in [
        &[("origin", "http://localhost")][..],
        &[("origin", "https://LOCALHOST")],
        &[("origin", "https://public.example"), ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(ask(&service, Method::GET, "/me", headers).await.status, 200, "{headers:?}");
    }
    let other = [("origin", "https://public.example"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask(&service, Method::GET, "/me", &other).await.status, 403);
}

#[tokio::test]
async fn should_let_allowed_pages_ask_and_read() {
    let service = service(&["http://localhost:3000", PAGE]).await;
    let question = [("origin", PAGE), ("access-control-request-method", "POST")];
    let answer = ask(&service, Method::OPTIONS, "/runs/r1/actions/cancel", &question).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], PAGE);
    assert_eq!(answer.headers["access-control-max-age"], "600");
    let allowed = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert!(allowed("access-control-allow-methods").contains("POST"));
    for header in ["authorization", "x-api-key", "last-event-id", "content-type"] {
        assert!(allowed("access-control-allow-headers").contains(header), "{header}");
    }
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    for path in ["/me", "/runs/unknown", "/nothing"] {
        let answer = ask(&service, Method::GET, path, &[("origin", PAGE)]).await;
        assert_eq!(answer.headers["access-control-allow-origin"], PAGE, "{path}");
        assert_eq!(answer.headers["vary"], "origin");
        let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("x-request-id"));
    }
    let evil = ask(&service, Method::GET, "/me", &[("origin", "https://evil.example")]).await;
    assert_eq!(evil.fault(), (403, "ORIGIN_NOT_ALLOWED"));
    let plain = ask(&service, Method::GET, "/me", &[]).await;
    assert!(!plain.headers.contains_key("access-control-allow-origin"));
    assert_eq!(plain.headers["vary"], "origin");
}
