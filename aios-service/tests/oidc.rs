//! Keys over HTTP: discovery, rotation, and issuers that fail.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_core::{clock::VirtualClock, event::Timestamp};
use aios_service::{
    auth::{JwtIssuer, JwtTokens, KeySource, OidcKeys, UrlKeys},
    http::{ApiOptions, Shutdown, serve},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, Method, StatusCode},
    response::{IntoResponse, Redirect},
    routing::get,
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    signer::{AUDIENCE, Signer, claims, keys},
    support::{Answer, Service, request},
};

/// An issuer on this machine. What it returns can be changed.
#[derive(Clone)]
struct Issuer {
    url: String,
    state: Arc<Mutex<Documents>>,
    fetches: Arc<AtomicUsize>,
}

struct Documents {
    status: StatusCode,
    issuer: String,
    jwks_uri: String,
    keys: String,
    cache_control: &'static str,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let documents = Documents {
            status: StatusCode::OK,
            issuer: url.clone(),
            jwks_uri: format!("{url}/keys"),
            keys: keys(&[]),
            cache_control: "public",
        };
        let (state, fetches) = (Arc::new(Mutex::new(documents)), Arc::default());
        let issuer = Self { url, state, fetches };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/large", get(async || "x".repeat(600 * 1024)))
            .route("/silent", get(std::future::pending::<String>))
            .with_state(issuer.clone());
        tokio::spawn(serve(listener, router, Shutdown::new()));
        issuer
    }

    fn change(&self, change: impl FnOnce(&mut Documents)) {
        change(&mut self.state.lock().unwrap());
    }

    fn offer(&self, signers: &[(&Signer, &str)]) {
        let set: Vec<_> = signers.iter().map(|(signer, id)| signer.jwk(id, "EdDSA")).collect();
        self.change(|documents| documents.keys = keys(&set));
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn keys(&self) -> OidcKeys {
        OidcKeys::new(&self.url).unwrap()
    }

    fn token(&self, signer: &Signer, id: &str, clock: &VirtualClock) -> String {
        let mut claims = claims(clock);
        claims["iss"] = json!(self.url);
        signer.token(&json!({ "alg": "EdDSA", "kid": id }), &claims)
    }
}

async fn discovery(State(issuer): State<Issuer>) -> String {
    let documents = issuer.state.lock().unwrap();
    json!({ "issuer": documents.issuer, "jwks_uri": documents.jwks_uri }).to_string()
}

async fn key_set(State(issuer): State<Issuer>) -> impl IntoResponse {
    issuer.fetches.fetch_add(1, Ordering::SeqCst);
    let documents = issuer.state.lock().unwrap();
    let headers = [("cache-control", documents.cache_control)];
    (documents.status, headers, documents.keys.clone())
}

async fn service(clock: &VirtualClock, issuer: JwtIssuer) -> Service {
    let options = ApiOptions::new()
        .with_authenticator(JwtTokens::new([issuer]))
        .with_clock(Arc::new(clock.clone()));
    Service::with(options).await
}

async fn ask(service: &Service, token: &str) -> Answer {
    let mut get = request(Method::GET, "/me", None);
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    get.headers_mut().insert("authorization", value);
    service.send(get).await
}

/// Asks until the answer has this status: keys are fetched in the background.
async fn ask_until(service: &Service, token: &str, status: u16) {
    while ask(service, token).await.status != status {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_discover_the_keys_of_an_issuer() {
    let (clock, signer) = (VirtualClock::new(Timestamp::now()), Signer::ed25519());
    let issuer = Issuer::start().await;
    issuer.offer(&[(&signer, "k")]);
    let service = service(&clock, JwtIssuer::new(&issuer.url, AUDIENCE, issuer.keys())).await;
    let token = issuer.token(&signer, "k", &clock);
    let answers = join_all((0..50).map(|_| ask(&service, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(issuer.fetches(), 1, "many requests cause one fetch");
    let direct = UrlKeys::new(&format!("{}/keys", issuer.url)).unwrap().fetch().await.unwrap();
    assert_eq!(direct, issuer.keys().fetch().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_a_rotation_and_survive_a_flood_of_unknown_keys() {
    let clock = VirtualClock::new(Timestamp::now());
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let issuer = Issuer::start().await;
    issuer.offer(&[(&old, "old")]);
    let service = service(&clock, JwtIssuer::new(&issuer.url, AUDIENCE, issuer.keys())).await;
    let (old_token, new_token) =
        (issuer.token(&old, "old", &clock), issuer.token(&new, "new", &clock));
    assert_eq!(ask(&service, &old_token).await.status, 200);
    issuer.offer(&[(&old, "old"), (&new, "new")]);
    clock.advance(Duration::from_secs(30));
    let flood: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
    let flood: Vec<_> = flood.iter().map(|id| issuer.token(&new, id, &clock)).collect();
    let refused = join_all(flood.iter().map(|token| ask(&service, token))).await;
    assert!(refused.iter().all(|answer| answer.fault() == (401, "UNAUTHENTICATED")));
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(ask(&service, &new_token).await.status, 200);
    assert_eq!(ask(&service, &old_token).await.status, 200);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_forget_keys_that_the_issuer_withdraws() {
    let clock = VirtualClock::new(Timestamp::now());
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let issuer = Issuer::start().await;
    issuer.offer(&[(&old, "old"), (&new, "new")]);
    let service = service(&clock, JwtIssuer::new(&issuer.url, AUDIENCE, issuer.keys())).await;
    let token = issuer.token(&old, "old", &clock);
    assert_eq!(ask(&service, &token).await.status, 200);
    issuer.offer(&[(&new, "new")]);
    clock.advance(Duration::from_secs(299));
    assert_eq!((ask(&service, &token).await.status.as_u16(), issuer.fetches()), (200, 1));
    clock.advance(Duration::from_secs(301));
    let token = issuer.token(&old, "old", &clock);
    ask_until(&service, &token, 401).await;
    assert_eq!(issuer.fetches(), 2);
    issuer.change(|documents| documents.cache_control = "max-age=60");
    clock.advance(Duration::from_secs(600));
    issuer.offer(&[(&new, "new")]);
    ask_until(&service, &issuer.token(&new, "new", &clock), 200).await;
    while issuer.fetches() < 3 {
        tokio::task::yield_now().await;
    }
    issuer.offer(&[(&old, "old")]);
    clock.advance(Duration::from_secs(60));
    ask_until(&service, &issuer.token(&new, "new", &clock), 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_use_known_keys_for_a_while_when_the_issuer_fails() {
    let (clock, signer) = (VirtualClock::new(Timestamp::now()), Signer::ed25519());
    let issuer = Issuer::start().await;
    issuer.offer(&[(&signer, "k")]);
    let jwt = JwtIssuer::new(&issuer.url, AUDIENCE, issuer.keys())
        .with_stale_if_error(Duration::from_secs(3600));
    let service = service(&clock, jwt).await;
    assert_eq!(ask(&service, &issuer.token(&signer, "k", &clock)).await.status, 200);
    issuer.change(|documents| documents.status = StatusCode::BAD_GATEWAY);
    clock.advance(Duration::from_secs(700));
    let unknown = ask(&service, &issuer.token(&signer, "other", &clock)).await;
    assert_eq!(unknown.fault(), (503, "AUTHENTICATION_UNAVAILABLE"));
    assert_eq!(ask(&service, &issuer.token(&signer, "k", &clock)).await.status, 200);
    clock.advance(Duration::from_secs(3499));
    assert_eq!(ask(&service, &issuer.token(&signer, "k", &clock)).await.status, 200);
    clock.advance(Duration::from_secs(1));
    let stale = ask(&service, &issuer.token(&signer, "k", &clock)).await;
    assert_eq!(stale.fault(), (503, "AUTHENTICATION_UNAVAILABLE"));
    issuer.change(|documents| documents.status = StatusCode::OK);
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&service, &issuer.token(&signer, "k", &clock)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_believe_documents_of_another_issuer() {
    let issuer = Issuer::start().await;
    issuer.offer(&[(&Signer::ed25519(), "k")]);
    let failure = async || issuer.keys().fetch().await.unwrap_err().to_string();
    for (name, says) in [
        (format!("{}/", issuer.url), "it names the issuer"),
        ("https://evil.example".to_owned(), "https://evil.example"),
    ] {
        issuer.change(|documents| documents.issuer = name);
        let failure = failure().await;
        assert!(failure.contains(says) && failure.contains(&issuer.url), "{failure}");
    }
    issuer.change(|documents| documents.issuer = issuer.url.clone());
    issuer.change(|documents| documents.jwks_uri = "http://id.example/keys".to_owned());
    let failure = failure().await;
    assert!(failure.contains("must begin with https://"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_answers_that_are_not_a_document() {
    let issuer = Issuer::start().await;
    let fetch = async |path: &str| {
        let url = format!("{}{path}", issuer.url);
        UrlKeys::new(&url).unwrap().fetch().await.unwrap_err().to_string()
    };
    assert!(fetch("/moved").await.contains("307"), "a redirect is not followed");
    assert!(fetch("/nothing").await.contains("404"));
    let large = fetch("/large").await;
    assert!(large.contains("length limit exceeded"), "{large}");
    let gone = UrlKeys::new("http://127.0.0.1:1/keys").unwrap().fetch().await.unwrap_err();
    assert!(gone.to_string().contains("127.0.0.1:1"), "{gone}");
    let failure = OidcKeys::new("http://id.example").unwrap_err().to_string();
    assert!(failure.contains("must begin with https://"), "{failure}");
    assert!(OidcKeys::new("https://id.example?tenant=1").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_wait_for_an_issuer_that_does_not_answer() {
    let (clock, signer) = (VirtualClock::new(Timestamp::now()), Signer::ed25519());
    let issuer = Issuer::start().await;
    let source = UrlKeys::new(&format!("{}/silent", issuer.url)).unwrap();
    let jwt = JwtIssuer::new(&issuer.url, AUDIENCE, source)
        .with_fetch_timeout(Duration::from_millis(100));
    let service = service(&clock, jwt).await;
    let answer = ask(&service, &issuer.token(&signer, "k", &clock)).await;
    assert_eq!(answer.fault(), (503, "AUTHENTICATION_UNAVAILABLE"));
}
