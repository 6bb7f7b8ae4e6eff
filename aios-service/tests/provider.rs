//! Tokens of `oidc-provider`, a certified OpenID provider that runs on Node.js.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_core::{clock::VirtualClock, event::Timestamp};
use aios_service::{
    auth::{JwtIssuer, JwtTokens, OidcKeys},
    http::ApiOptions,
};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::support::{Answer, Service, request};

const AUDIENCE: &str = "https://aios.example";

/// The provider, as a process.
struct Provider(Child, String);

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Provider {
    /// Starts the provider with a new key, and waits until it listens.
    fn start(folder: &Path, port: u16, key: &str) -> Self {
        let mut child = Command::new("node")
            .args(["provider.mjs", &port.to_string(), key])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find(|line| line.starts_with("http://"));
        Self(child, url.unwrap_or_else(|| panic!("the provider does not listen")))
    }

    /// A token of the provider for a client, which authenticates with its secret.
    async fn token(&self, scope: &str) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id=tea&client_secret=the+secret+of+the+tests&scope={scope}"
        );
        let post = Request::post(format!("{}/token", self.1))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(post).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        body["access_token"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    }
}

/// Installs the provider. `None` if there is no Node.js.
fn installed() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc-provider");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["package.json", "package-lock.json", "provider.mjs"] {
        std::fs::copy(sources.join(file), folder.join(file)).unwrap();
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).stdin(Stdio::null());
    let Ok(output) = npm.output() else {
        aios_tests::skip("npm is not installed");
        return None;
    };
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

async fn ask(service: &Service, path: &str, token: &str) -> Answer {
    let mut get = request(Method::GET, path, None);
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    get.headers_mut().insert("authorization", value);
    service.send(get).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_accept_the_tokens_of_a_provider_across_a_rotation_of_its_keys() {
    let Some(folder) = installed() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = Provider::start(&folder, port, "one");
    let clock = VirtualClock::new(Timestamp::now());
    let issuer =
        |audience: &str| JwtIssuer::new(&provider.1, audience, OidcKeys::new(&provider.1).unwrap());
    let with = async |issuer: JwtIssuer| {
        let options = ApiOptions::new()
            .with_authenticator(JwtTokens::new([issuer]))
            .with_clock(Arc::new(clock.clone()));
        Service::with(options).await
    };
    let service = with(issuer(AUDIENCE)).await;
    let other = with(issuer("https://other.example")).await;

    let first = provider.token("runs:read").await;
    let me = ask(&service, "/me", &first).await;
    assert_eq!((me.status.as_u16(), &me.body["data"]["id"]), (200, &json!("tea")), "{me:?}");
    assert_eq!(me.attributes()["permissions"], json!(["runs:read"]));
    assert_eq!(ask(&service, "/runs", &first).await.status, 200);
    assert_eq!(ask(&service, "/tasks", &first).await.fault(), (403, "PERMISSION_DENIED"));
    assert_eq!(ask(&other, "/me", &first).await.fault(), (401, "UNAUTHENTICATED"));

    let url = provider.1.clone();
    drop(provider);
    assert_eq!(ask(&service, "/runs", &first).await.status, 200, "known keys are kept");
    let provider = Provider::start(&folder, port, "two");
    assert_eq!(provider.1, url);
    let second = provider.token("runs:read+tasks:create").await;
    assert_eq!(ask(&service, "/runs", &second).await.fault(), (401, "UNAUTHENTICATED"));
    clock.advance(JwtIssuer::DEFAULT_REFRESH_INTERVAL);
    let me = ask(&service, "/me", &second).await;
    assert_eq!(me.attributes()["permissions"], json!(["runs:read", "tasks:create"]), "{me:?}");
    assert_eq!(ask(&service, "/runs", &first).await.fault(), (401, "UNAUTHENTICATED"));
    clock.advance(Duration::from_secs(331));
    assert_eq!(ask(&service, "/runs", &second).await.fault(), (401, "UNAUTHENTICATED"));
}
