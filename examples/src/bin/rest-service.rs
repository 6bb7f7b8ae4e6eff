//! Your own routes, and beside them the HTTP API of aios, for callers with an API key or a token.
//!
//!     KEY=$(openssl rand -hex 32)
//!     HASH=$(printf %s "$KEY" | sha256sum | cut -c -64)
//!     cargo run --bin rest-service -- 127.0.0.1:8080 "$HASH" https://id.example
//!
//!     curl -d tea http://127.0.0.1:8080/orders/7                                   your own route
//!     curl -H "x-api-key: $KEY" http://127.0.0.1:8080/api/v1/runs/order-7          the API
//!     curl -d 500 http://127.0.0.1:8080/payments/7                                 a webhook
//!     curl -H "x-api-key: $KEY" http://127.0.0.1:8080/api/v1/runs/order-7/result
//!
//! `https://id.example` is an OpenID Connect issuer, whose tokens are for the audience `tea-shop`; its keys
//! are found by discovery. A path is the file of its JSON Web Key Set instead, which may be replaced at any
//! time.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{error::Error, sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_service::{
    auth::{ApiKey, ApiKeys, FileKeys, JwtIssuer, JwtTokens, OidcKeys, Permissions},
    http::{ApiOptions, RateLimit, Shutdown, api, health, serve},
};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::net::TcpListener;

/// The audience of tokens for this service, unless an argument names another one.
const AUDIENCE: &str = "tea-shop";
/// How often keys that are not known are looked for.
const REFRESH: Duration = Duration::from_secs(1);

async fn order(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
    context.set_status("waits for the payment");
    let cents: u64 = context.signal("paid").timeout(Duration::from_secs(24 * 60 * 60)).await?;
    Ok(format!("{item} was paid with {cents}"))
}

/// Your own routes: they use the runtime directly, and their shapes and access are yours.
fn shop(runtime: Arc<Runtime>) -> Router {
    Router::new()
        .route("/orders/{id}", post(place).get(follow))
        .route("/payments/{id}", post(pay))
        .with_state(runtime)
}

type Shop = State<Arc<Runtime>>;

async fn place(
    State(runtime): Shop,
    Path(id): Path<String>,
    item: String,
) -> Result<StatusCode, Refused> {
    runtime.start("order", &item).id(format!("order-{id}")).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn follow(State(runtime): Shop, Path(id): Path<String>) -> Result<String, Refused> {
    let order = runtime.handle(&format!("order-{id}")).await?.status().await?;
    Ok(format!("{}\n", order.status.as_str()))
}

async fn pay(
    State(runtime): Shop,
    Path(id): Path<String>,
    cents: String,
) -> Result<StatusCode, Refused> {
    let Ok(cents) = cents.parse::<u64>() else { return Ok(StatusCode::BAD_REQUEST) };
    runtime.handle(&format!("order-{id}")).await?.signal("paid", &cents).await?;
    Ok(StatusCode::ACCEPTED)
}

struct Refused(RuntimeError);

impl From<RuntimeError> for Refused {
    fn from(error: RuntimeError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0 {
            RuntimeError::UnknownRun { .. } => StatusCode::NOT_FOUND,
            RuntimeError::RunExists { .. } | RuntimeError::RunEnded { .. } => StatusCode::CONFLICT,
            RuntimeError::InvalidRunId(_) => StatusCode::BAD_REQUEST,
            _ => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        (status, self.0.to_string()).into_response()
    }
}

/// The callers of the API: what they may do, and how often.
fn options(
    hash: &str,
    keys: &str,
    audience: &str,
    shutdown: &Shutdown,
) -> Result<ApiOptions, Box<dyn Error>> {
    let operator = Permissions::parse(["runs:*", "workflows:read", "events:read", "engines:read"])?;
    let key = ApiKey::new(hash.parse()?, "operator").with_permissions(operator.clone());
    let issuer = match keys.starts_with("http") {
        true => JwtIssuer::new(keys, audience, OidcKeys::new(keys)?),
        false => JwtIssuer::new("https://id.example", audience, FileKeys::new(keys)),
    };
    let issuer = issuer.with_refresh_interval(REFRESH).with_role("operator", operator);
    Ok(ApiOptions::new()
        .with_authenticator(ApiKeys::new([key]))
        .with_authenticator(JwtTokens::new([issuer]))
        .with_rate_limit(RateLimit::new(100, Duration::from_secs(1))?)
        .with_shutdown(shutdown.clone()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (listen, hash, keys, audience) = match arguments.as_slice() {
        [listen, hash, keys] => (listen, hash, keys, AUDIENCE),
        [listen, hash, keys, audience] => (listen, hash, keys, audience.as_str()),
        _ => {
            let usage = "usage: rest-service LISTEN SHA256_OF_THE_API_KEY ISSUER_URL|KEY_SET_FILE [AUDIENCE]";
            return Err(usage.into());
        }
    };
    let shutdown = Shutdown::on_signals()?;
    let runtime = Runtime::builder()
        .store(aios_store::connect("sqlite://orders.db").await?)
        .broker(aios_broker::connect("memory://").await?)
        .workflow("order", order)
        .start()
        .await?;
    let runtime = Arc::new(runtime);
    let router = shop(Arc::clone(&runtime))
        .nest("/api/v1", api(Arc::clone(&runtime), options(hash, keys, audience, &shutdown)?))
        .merge(health(Arc::clone(&runtime), shutdown.clone()));
    let listener = TcpListener::bind(listen).await?;
    println!("http://{}", listener.local_addr()?);
    serve(listener, router, shutdown).await?; // until SIGTERM or Ctrl-C, and the end of requests
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown(Duration::from_secs(10)).await?;
    }
    println!("stopped");
    Ok(())
}
