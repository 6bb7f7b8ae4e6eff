//! The issuer of tokens for development.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_core::{clock::VirtualClock, event::Timestamp};
use aios_service::{
    auth::{Permissions, TokenEndpoint},
    http::ApiOptions,
};
use axum::{
    Router,
    body::Body,
    extract::connect_info::MockConnectInfo,
    http::{HeaderValue, Method, Request},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};
use serde_json::json;

use crate::support::{Answer, Service, answer, request};

const ISSUER: &str = "http://localhost/oauth";

fn issuer() -> TokenEndpoint {
    TokenEndpoint::new(ISSUER, "tea-shop")
        .unwrap()
        .with_client("console", "s p&ce", Permissions::parse(["runs:*"]).unwrap())
        .with_user("ada", "pass word", Permissions::parse(["runs:read", "tasks:read"]).unwrap())
}

fn router(issuer: TokenEndpoint, peer: [u8; 4]) -> Router {
    Router::new()
        .nest("/oauth", issuer.router())
        .layer(MockConnectInfo(SocketAddr::from((peer, 4711))))
}

fn post(form: &str) -> Request<Body> {
    Request::post("/oauth/token")
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap()
}

async fn ask(issuer: &TokenEndpoint, form: &str) -> Answer {
    answer(&router(issuer.clone(), [127, 0, 0, 1]), post(form)).await
}

async fn call(service: &Service, path: &str, token: &str) -> Answer {
    let mut get = request(Method::GET, path, None);
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    get.headers_mut().insert("authorization", value);
    service.send(get).await
}

const CLIENT: &str = "grant_type=client_credentials&client_id=console&client_secret=s+p%26ce";
const USER: &str = "grant_type=password&username=ada&password=pass+word";

#[tokio::test]
async fn should_grant_tokens_that_the_api_accepts_until_they_expire() {
    let clock = Arc::new(VirtualClock::new(Timestamp::now()));
    let issuer = issuer().with_clock(clock.clone()).with_lifetime(Duration::from_secs(60));
    let options = ApiOptions::new().with_authenticator(issuer.tokens()).with_clock(clock.clone());
    let service = Service::with(options).await;
    for (form, subject, granted) in [
        (CLIENT.to_owned(), "console", json!(["runs:*"])),
        (
            format!("{CLIENT}&scope=runs:read+runs:start"),
            "console",
            json!(["runs:read", "runs:start"]),
        ),
        (USER.to_owned(), "ada", json!(["runs:read", "tasks:read"])),
        (format!("{USER}&scope=runs%3Aread"), "ada", json!(["runs:read"])),
    ] {
        let granting = ask(&issuer, &form).await;
        assert_eq!(
            (granting.status.as_u16(), &granting.body["token_type"]),
            (200, &json!("Bearer"))
        );
        assert_eq!(granting.body["expires_in"], 60);
        assert_eq!(granting.headers["cache-control"], "no-store");
        let token = granting.body["access_token"].as_str().unwrap();
        let me = call(&service, "/me", token).await;
        assert_eq!(
            (&me.body["data"]["id"], &me.attributes()["permissions"]),
            (&json!(subject), &granted)
        );
    }
    let token = ask(&issuer, USER).await.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(call(&service, "/runs", &token).await.status, 200);
    assert_eq!(call(&service, "/agents", &token).await.fault(), (403, "PERMISSION_DENIED"));
    clock.advance(Duration::from_secs(91));
    assert_eq!(call(&service, "/runs", &token).await.fault(), (401, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn should_take_the_secret_of_a_client_from_the_header() {
    let issuer = issuer();
    for (credentials, status) in [
        ("console:s+p%26ce", 200),
        ("console:s%20p%26ce", 200),
        ("console:wrong", 401),
        ("console:", 401),
        ("console", 401),
        ("other:s+p%26ce", 401),
    ] {
        let mut request = post("grant_type=client_credentials");
        let value = format!("Basic {}", STANDARD.encode(credentials));
        request.headers_mut().insert("authorization", value.parse().unwrap());
        let granting = answer(&router(issuer.clone(), [127, 0, 0, 1]), request).await;
        assert_eq!(granting.status, status, "{credentials}");
        assert_eq!(granting.headers.contains_key("www-authenticate"), status == 401);
    }
}

/// Many clients do not encode the header as a form.
#[tokio::test]
async fn should_take_secrets_with_signs_of_a_form_encoded_and_as_they_are() {
    let permissions = || Permissions::parse(["runs:*"]).unwrap();
    let encode = |secret: &str| {
        let bytes = secret.bytes().map(|byte| format!("%{byte:02X}"));
        bytes.collect::<String>()
    };
    for secret in
        ["a#b", "a+b", "a&b", "a=b&secret=c", "a%41b", "a%", "100%zz", "a:b", "a b", "ä\"<>"]
    {
        let issuer = issuer().with_client("c+1", secret, permissions());
        for (credentials, status) in [
            (format!("c+1:{secret}"), 200),
            (format!("c%2B1:{}", encode(secret)), 200),
            (format!("c+1:{secret}x"), 401),
            ("c+1:".to_owned(), 401),
        ] {
            let mut request = post("grant_type=client_credentials");
            let value = format!("Basic {}", STANDARD.encode(&credentials));
            request.headers_mut().insert("authorization", value.parse().unwrap());
            let granting = answer(&router(issuer.clone(), [127, 0, 0, 1]), request).await;
            assert_eq!(granting.status, status, "{credentials}");
        }
        let form = "grant_type=client_credentials&client_id=c%2B1&client_secret=";
        let granting = ask(&issuer, &format!("{form}{}", encode(secret))).await;
        assert_eq!(granting.status, 200, "{secret}");
    }
    // A form has no fragment.
    let issuer = issuer().with_client("c", "a#b", permissions());
    let form = "grant_type=client_credentials&client_id=c&client_secret=a#b";
    assert_eq!(ask(&issuer, form).await.status, 200);
    let twice = format!("{CLIENT}&client_id=console");
    assert_eq!(ask(&issuer, &twice).await.body["error"], "invalid_request");
}

#[tokio::test]
async fn should_refuse_other_requests_as_the_standard_says() {
    let issuer = issuer();
    for (form, status, code) in [
        ("", 400, "invalid_request"),
        ("grant_type=password", 400, "invalid_request"),
        ("grant_type=%ff", 400, "unsupported_grant_type"),
        ("grant_type=password&username=ada&password=wrong", 400, "invalid_grant"),
        ("grant_type=password&username=eve&password=pass+word", 400, "invalid_grant"),
        ("grant_type=password&username=console&password=s+p%26ce", 400, "invalid_grant"),
        ("grant_type=client_credentials", 401, "invalid_client"),
        (
            "grant_type=client_credentials&client_id=ada&client_secret=pass+word",
            401,
            "invalid_client",
        ),
        (&format!("{USER}&client_id=console&client_secret=wrong"), 401, "invalid_client"),
        ("grant_type=authorization_code&code=1", 400, "unsupported_grant_type"),
        (&format!("{USER}&scope=runs:cancel"), 400, "invalid_scope"),
        (&format!("{USER}&scope=*"), 400, "invalid_scope"),
        (&format!("{USER}&scope=runs:read+openid"), 400, "invalid_scope"),
    ] {
        let refused = ask(&issuer, form).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.body["error"]),
            (status, &json!(code)),
            "{form}"
        );
        assert!(refused.body["error_description"].is_string());
        assert!(!refused.body.to_string().contains("pass word"));
    }
    let mut other = post("{}");
    other.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    let refused = answer(&router(issuer.clone(), [127, 0, 0, 1]), other).await;
    assert_eq!(refused.body["error"], "invalid_request");
    assert_eq!(ask(&issuer, &"x".repeat(10_000)).await.status, 413);
}

#[tokio::test]
async fn should_answer_callers_on_this_machine_only() {
    let ask = async |issuer: TokenEndpoint, peer: [u8; 4], host: &str| {
        let mut request = post(CLIENT);
        request.headers_mut().insert("host", host.parse().unwrap());
        answer(&router(issuer, peer), request).await.status.as_u16()
    };
    assert_eq!(ask(issuer(), [127, 0, 0, 1], "localhost").await, 200);
    assert_eq!(ask(issuer(), [10, 0, 0, 7], "localhost").await, 403);
    assert_eq!(ask(issuer(), [127, 0, 0, 1], "evil.example").await, 403);
    let open = issuer().with_access_from_anywhere();
    assert_eq!(ask(open, [10, 0, 0, 7], "service.internal").await, 200);
    let unknown = answer(&Router::new().nest("/oauth", issuer().router()), post(CLIENT)).await;
    assert_eq!(unknown.status, 403);
}

#[tokio::test]
async fn should_sign_with_a_new_key_or_the_given_one() {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let with_key = || issuer().try_with_key(key.as_ref()).unwrap();
    let token = ask(&with_key(), USER).await.body["access_token"].as_str().unwrap().to_owned();
    for (verifying, status) in [(with_key(), 200), (issuer(), 401)] {
        let options = ApiOptions::new().with_authenticator(verifying.tokens());
        let service = Service::with(options).await;
        assert_eq!(call(&service, "/me", &token).await.status, status);
    }
    assert!(issuer().try_with_key(b"nothing").is_err());
    let shown = format!("{:?}", with_key());
    assert!(!shown.contains("pass word") && shown.contains("ada"), "{shown}");
}

#[cfg(feature = "oidc")]
#[tokio::test(flavor = "multi_thread")]
async fn should_be_discovered_as_an_issuer() {
    use aios_service::{
        auth::{JwtIssuer, JwtTokens, OidcKeys},
        http::{Shutdown, serve},
    };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/oauth", listener.local_addr().unwrap());
    let issuer = TokenEndpoint::new(&url, "tea-shop").unwrap().with_user(
        "ada",
        "pass word",
        Permissions::all(),
    );
    let router = Router::new().nest("/oauth", issuer.clone().router());
    tokio::spawn(serve(listener, router, Shutdown::new()));
    let keys = OidcKeys::new(&url).unwrap();
    let tokens = JwtTokens::new([JwtIssuer::new(&url, "tea-shop", keys)]);
    let service = Service::with(ApiOptions::new().with_authenticator(tokens)).await;
    let token = ask(&issuer, USER).await.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(call(&service, "/me", &token).await.status, 200);
}
