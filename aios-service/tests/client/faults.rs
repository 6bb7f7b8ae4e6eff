//! Faults of the network, of a service and of the configuration.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_core::{
    broker::{DeadLetterFilter, Group},
    retry::RetryPolicy,
};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    client::{Client, ClientError, ClientOptions, TokenGrant},
    http::{ApiOptions, Shutdown},
};
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};

use super::server::{Server, client, listen, options};

/// A server that answers with these statuses in turn, then with a run.
#[derive(Clone)]
struct Faulty {
    statuses: Arc<Mutex<Vec<u16>>>,
    /// The idempotency keys of all requests.
    keys: Arc<Mutex<Vec<Option<String>>>>,
}

impl Faulty {
    async fn start(statuses: &[u16]) -> (Self, Client) {
        let statuses = statuses.iter().rev().copied().collect();
        let faulty = Self { statuses: Arc::new(Mutex::new(statuses)), keys: Arc::default() };
        let router = Router::new().fallback(answer).with_state(faulty.clone());
        let address = listen(router, Shutdown::new()).await;
        (faulty, client(address))
    }

    fn keys(&self) -> Vec<Option<String>> {
        self.keys.lock().unwrap().clone()
    }
}

async fn answer(State(faulty): State<Faulty>, request: Request) -> Response {
    let key = request.headers().get("idempotency-key");
    let key = key.map(|key| key.to_str().unwrap().to_owned());
    faulty.keys.lock().unwrap().push(key);
    let status = faulty.statuses.lock().unwrap().pop();
    let text = match status {
        None => {
            return r#"{"data": {"id": "r1", "type": "run", "attributes": {"workflow": "w",
                "workflow_version": 1, "status": "running", "position": 1,
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
                "new": [1]}}, "meta": {"new": 1}}"#
                .into_response();
        }
        Some(503) => r#"{"error": {"code": "STORE_TIMEOUT", "message": "m", "details": {}}}"#,
        Some(500) => r#"{"error": {"code": "INTERNAL_ERROR", "message": "m", "details": {}}}"#,
        Some(429) => r#"{"error": {"code": "RATE_LIMITED", "message": "m", "details": {}}}"#,
        Some(409) => r#"{"error": {"code": "REQUEST_IN_PROGRESS", "message": "m", "details": {}}}"#,
        Some(401) => r#"{"error": {"code": "UNAUTHENTICATED", "message": "m", "details": {}}}"#,
        Some(_) => "<html>Bad Gateway</html>",
    };
    let status = StatusCode::from_u16(status.unwrap()).unwrap();
    (status, [(header::RETRY_AFTER, "0")], text).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_a_request_with_the_same_key_until_it_succeeds() {
    let (faulty, client) = Faulty::start(&[503, 502, 429, 409]).await;
    let run = client.start("w", &1).await.unwrap();
    assert_eq!(run.id(), "r1");
    let keys = faulty.keys();
    assert_eq!(keys.len(), 5);
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    client.start("w", &1).await.unwrap();
    assert_ne!(faulty.keys()[5], keys[0], "another request has another key");
    client.run("r1").status().await.unwrap();
    assert_eq!(faulty.keys()[6], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_what_could_happen_twice_only_if_it_did_not_happen() {
    let (faulty, client) = Faulty::start(&[429, 503]).await;
    let letters = client.dead_letters(Group::new("g").unwrap());
    let error = letters.purge(&DeadLetterFilter::All).await.unwrap_err();
    assert_eq!(error.code(), "STORE_TIMEOUT");
    assert_eq!(faulty.keys().len(), 2);
}

/// Their records have ids that derive from the key.
#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_signals_and_forks_with_the_same_key() {
    let (faulty, client) = Faulty::start(&[503, 502]).await;
    client.run("r1").signal("approval", &1).await.unwrap();
    let keys = faulty.keys();
    assert!(keys.len() == 3 && keys[0].is_some() && keys.iter().all(|key| *key == keys[0]));
    let (faulty, client) = Faulty::start(&[503, 502]).await;
    client.run("r1").fork(2, None).await.unwrap();
    let keys = faulty.keys();
    assert!(keys.len() == 3 && keys[0].is_some() && keys.iter().all(|key| *key == keys[0]));
}

/// The token endpoint fails, does not answer, and fails after the service has refused a token.
#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_what_could_happen_twice_if_there_was_no_token_to_send_it_with() {
    let (faulty, _) = Faulty::start(&[401]).await;
    let answers = Arc::new(Mutex::new(vec!["token", "failure", "token", "silence", "failure"]));
    let endpoint = async move || {
        let answer = answers.lock().unwrap().pop();
        match answer {
            Some("failure") => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Some("silence") => std::future::pending().await,
            _ => r#"{"access_token": "t", "token_type": "Bearer"}"#.into_response(),
        }
    };
    let router = Router::new().route("/token", post(endpoint));
    let router = router.fallback(answer).with_state(faulty.clone());
    let url = format!("http://{}", listen(router, Shutdown::new()).await);
    let grant = TokenGrant::client_credentials(format!("{url}/token"), "ci", "secret");
    let options = options().with_timeout(Duration::from_secs(1)).with_token_grant(grant);
    let client = Client::new(&url, options).unwrap();
    let letters = client.dead_letters(Group::new("g").unwrap());
    // The answer is that of another request.
    letters.purge(&DeadLetterFilter::All).await.unwrap_err();
    let keys = faulty.keys();
    assert!(keys.len() == 2 && keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
}

/// Some issuers write the lifetime as a text or with a fraction. It is only a hint.
#[tokio::test(flavor = "multi_thread")]
async fn should_take_a_token_whatever_its_lifetime_is_written_as() {
    for lifetime in ["\"3599\"", "3599.5", "null", "{}", "-1", "\"\"", "18446744073709551615"] {
        let (faulty, _) = Faulty::start(&[]).await;
        let granted = format!(r#"{{"access_token": "t", "expires_in": {lifetime}}}"#);
        let router = Router::new().route("/token", post(async move || granted.clone()));
        let router = router.fallback(answer).with_state(faulty.clone());
        let url = format!("http://{}", listen(router, Shutdown::new()).await);
        let grant = TokenGrant::client_credentials(format!("{url}/token"), "ci", "secret");
        let client = Client::new(&url, options().with_token_grant(grant)).unwrap();
        let status = client.run("r1").status().await;
        assert!(status.is_ok(), "{lifetime}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_repeat_a_request_whose_token_endpoint_is_busy() {
    let (faulty, _) = Faulty::start(&[]).await;
    let is_busy = Arc::new(Mutex::new(true));
    let endpoint = async move || match std::mem::take(&mut *is_busy.lock().unwrap()) {
        true => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "120")]).into_response(),
        false => r#"{"access_token": "t"}"#.into_response(),
    };
    let router = Router::new().route("/token", post(endpoint));
    let router = router.fallback(answer).with_state(faulty.clone());
    let url = format!("http://{}", listen(router, Shutdown::new()).await);
    let grant = TokenGrant::client_credentials(format!("{url}/token"), "ci", "secret");
    let client = Client::new(&url, options().with_token_grant(grant)).unwrap();
    let error = client.run("r1").status().await.unwrap_err();
    // Longer than a client waits.
    let ClientError::Service { retry_after, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*retry_after, error.is_retryable()), (Some(Duration::from_secs(120)), true));
    client.run("r1").status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_give_up_after_the_last_attempt_and_at_once_on_other_faults() {
    let (faulty, client) = Faulty::start(&[502; 10]).await;
    let error = client.run("r1").status().await.unwrap_err();
    assert!(matches!(error, ClientError::Service { status: 502, .. }), "{error:?}");
    assert_eq!(faulty.keys().len(), 5);
    let (faulty, client) = Faulty::start(&[500, 404]).await;
    assert_eq!(client.run("r1").status().await.unwrap_err().code(), "INTERNAL_ERROR");
    assert_eq!(client.run("r1").status().await.unwrap_err().code(), "INVALID_RESPONSE");
    assert_eq!(faulty.keys().len(), 2);
}

/// An attempt whose process was killed keeps its key for as long as a request may take.
#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_as_long_as_an_earlier_attempt_may_be_handled() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let answer = async move || {
        let mut asked = count.lock().unwrap();
        *asked += 1;
        match *asked {
            4..12 => {
                let error = r#"{"error": {"code": "REQUEST_IN_PROGRESS", "message": "m",
                    "details": {"open_for_seconds": 30}}}"#;
                (StatusCode::CONFLICT, [(header::RETRY_AFTER, "0")], error).into_response()
            }
            12 => r#"{"data": {"id": "r1", "type": "run", "attributes": {"workflow": "w",
                "workflow_version": 1, "status": "running", "position": 1,
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}},
                "meta": {}}"#
                .into_response(),
            _ => StatusCode::BAD_GATEWAY.into_response(),
        }
    };
    let address = listen(Router::new().fallback(answer), Shutdown::new()).await;
    assert_eq!(client(address).start("w", &1).await.unwrap().id(), "r1");
    *asked.lock().unwrap() = 3;
    let url = format!("http://{address}");
    let once = Client::new(&url, options().with_retry(RetryPolicy::never())).unwrap();
    assert_eq!(once.start("w", &1).await.unwrap_err().code(), "REQUEST_IN_PROGRESS");
}

/// The status of a run in an answer 202 is one of a moment in which the service no longer waited.
#[tokio::test(flavor = "multi_thread")]
async fn should_ask_again_after_an_answer_that_says_that_the_run_has_not_ended() {
    let asked = Arc::new(Mutex::new(0));
    let answer = async move || {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let (status, result) = match *asked {
            1 => (StatusCode::ACCEPTED, "null"),
            _ => (StatusCode::OK, r#""done""#),
        };
        let attributes =
            format!(r#"{{"status": "completed", "result": {result}, "failure": null}}"#);
        let data = format!(r#"{{"id": "r1", "type": "run", "attributes": {attributes}}}"#);
        (status, format!(r#"{{"data": {data}, "meta": {{}}}}"#)).into_response()
    };
    let client = client(listen(Router::new().fallback(answer), Shutdown::new()).await);
    assert_eq!(client.run("r1").result::<String>().await.unwrap(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_not_wait_for_a_service_that_does_not_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let options =
        options().with_timeout(Duration::from_millis(50)).with_retry(RetryPolicy::never());
    let client = Client::new(&url, options).unwrap();
    let error = client.me().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    assert_eq!(error.code(), "REQUEST_TIMEOUT");
    let error = client.run("r1").events(0).next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "REQUEST_TIMEOUT");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_credentials_and_print_none() {
    let key = "5e0d1f6a0c5b4a7d8e9f5e0d1f6a0c5b";
    let keys = ApiKeys::new([ApiKey::new(ApiKeyHash::of(key), "ada")
        .with_permissions(Permissions::parse(["runs:read"]).unwrap())]);
    let server = Server::with(ApiOptions::new().with_authenticator(keys)).await;
    assert_eq!(server.client().me().await.unwrap_err().code(), "UNAUTHENTICATED");
    let url = format!("http://{}/api/v1/", server.address);
    let client = Client::new(&url, options().with_api_key(key)).unwrap();
    assert_eq!(client.me().await.unwrap().id, "ada");
    let refused = client.start("welcome", &"Ada").await.unwrap_err();
    assert_eq!(refused.code(), "PERMISSION_DENIED");
    for text in [format!("{client:?}"), format!("{:?}", options().with_api_key(key))] {
        assert!(!text.contains(key), "{text}");
    }
}

#[tokio::test]
async fn should_refuse_a_configuration_that_cannot_work() {
    let invalid = |url: &str, options: ClientOptions, expected: &str| {
        let error = Client::new(url, options).unwrap_err();
        assert_eq!(error.code(), "INVALID_CLIENT_CONFIGURATION");
        assert!(error.to_string().contains(expected), "{error}");
    };
    invalid("aios.example.com", options(), "the URL");
    invalid("ftp://aios.example.com", options(), "http://");
    invalid("https://ada:secret@aios.example.com", options(), "with_token");
    invalid("http://localhost", options().with_token("a\nb"), "authorization");
    let retry = RetryPolicy::new().with_jitter(2.0);
    invalid("http://localhost", options().with_retry(retry), "jitter");
}

/// The answer to the first request is that of a status, which shows that there is a service.
#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_result_while_the_service_is_away() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let answer = async move |request: Request| {
        if !request.uri().path().ends_with("/result") {
            let run = r#"{"data": {"id": "r1", "type": "run", "attributes": {"workflow": "w",
                "workflow_version": 1, "status": "running", "position": 1,
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}},
                "meta": {}}"#;
            return run.into_response();
        }
        let mut asked = count.lock().unwrap();
        *asked += 1;
        if *asked <= 12 {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        r#"{"data": {"id": "r1", "type": "run", "attributes": {"status": "completed",
            "result": "done", "failure": null}}, "meta": {}}"#
            .into_response()
    };
    let address = listen(Router::new().fallback(answer), Shutdown::new()).await;
    let unknown = client(address).run("r1").result::<String>().await.unwrap_err();
    assert_eq!(unknown.code(), "SERVICE_UNREACHABLE", "there may be no service at this URL");
    assert_eq!(*asked.lock().unwrap(), 5);
    *asked.lock().unwrap() = 0;
    let client = client(address);
    client.run("r1").status().await.unwrap();
    assert_eq!(client.run("r1").result::<String>().await.unwrap(), "done");
    assert_eq!(*asked.lock().unwrap(), 13);
}
