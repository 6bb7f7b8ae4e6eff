//! An HTTP API for [aios](https://github.com/aios-rs/aios), mounted into your own axum router, with authentication, configuration and telemetry.
//!
//! # Example
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use aios_agents::prelude::*;
//! use aios_service::{
//!     auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
//!     http::{ApiOptions, Shutdown, api, health, serve},
//! };
//! use axum::{Router, routing::get};
//!
//! async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let runtime = Runtime::builder()
//!         .store(aios_store::connect("memory://").await?)
//!         .broker(aios_broker::connect("memory://").await?)
//!         .workflow("welcome", welcome)
//!         .start()
//!         .await?;
//!     let (runtime, shutdown) = (Arc::new(runtime), Shutdown::on_signals()?);
//!     let key = ApiKey::new(ApiKeyHash::of("the secret of Ada"), "ada")
//!         .with_permissions(Permissions::parse(["runs:*", "workflows:read"])?);
//!     let options = ApiOptions::new()
//!         .with_authenticator(ApiKeys::new([key]))
//!         .with_shutdown(shutdown.clone());
//!     let router = Router::new()
//!         .route("/hello", get(|| async { "my own route" }))
//!         .nest("/api/v1", api(Arc::clone(&runtime), options))
//!         .merge(health(Arc::clone(&runtime), shutdown.clone()));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!     shutdown.begin(); // Without this line, it serves until SIGTERM or Ctrl-C.
//!     serve(listener, router, shutdown).await?;
//!     if let Some(runtime) = Arc::into_inner(runtime) {
//!         runtime.shutdown(Duration::from_secs(10)).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Architecture
//!
//! ```text
//!    clients ──► server ──► layers ──► resources ──► Runtime ──► store, broker
//!                TLS,       authentication,  runs, agents,    │
//!                limits     permissions,     events, tasks …  │
//!                           rate limits,                      │
//!                           idempotency,         telemetry ◄──┘
//!                           audit                logs, metrics, traces
//!
//!    Settings ──► Service    builds all of it, and ends it in order
//! ```
//!
//! # Requests
//!
//! ```text
//! POST /api/v1/workflows/welcome/actions/execute  {"input": "Ada", "run_id": "welcome-ada"}
//! 202  location: /api/v1/runs/welcome-ada
//!      {"data": {"id": "welcome-ada", "type": "run", "attributes": {…}}, "meta": {"timestamp": …, "version": "1.0.0"}}
//!
//! GET  /api/v1/runs/welcome-ada/result?wait=20s
//! 200  {"data": {"id": "welcome-ada", "type": "run", "attributes": {"status": "completed", "result": "Hello, Ada!", …}}, "meta": {…}}
//!
//! GET  /api/v1/runs/nothing
//! 404  {"error": {"code": "RUN_NOT_FOUND", "message": …, "details": {"id": "nothing"}}, "meta": {"request_id": …, "timestamp": …}}
//! ```
//!
//! | resource | routes | permissions |
//! |---|---|---|
//! | runs | list, get, `journal`, `result?wait=`, `events` and `streams/{stream}` (live), actions `signal`, `cancel`, `pause`, `resume`, `fork`, `retry` | `runs:read`, `runs:signal`, `runs:cancel`, `runs:pause`, `runs:resume`, `runs:fork`, `runs:retry` |
//! | workflows | list, get, actions `execute` and `signal-with-start` | `workflows:read`, `runs:start`, `runs:signal` |
//! | tasks | list, get, create, `result?wait=`, action `cancel`; list and create under an agent | `tasks:read`, `tasks:create`, `tasks:cancel` |
//! | agents | list, get, create, replace, delete (soft), `events` (live), action `restart` | `agents:read`, `agents:create`, `agents:replace`, `agents:delete`, `agents:restart`; `events` also `tasks:read` |
//! | agent types | list, get, with their JSON Schemas | `agents:read` |
//! | events | a page of the log, `stream` (live), publish | `events:read`, `events:publish` |
//! | engines, shards | list: which engines are alive, and which shards of the runs each owns | `engines:read` |
//! | projections | list, get, `dead-letters`, actions `retire` and `redrive` | `projections:read`, `projections:retire`, `projections:redrive` |
//! | dead letters | list, actions `redrive` and `purge`, of a group or mailbox | `dead_letters:read`, `dead_letters:redrive`, `dead_letters:purge` |
//! | `metrics/scaling` | how many tasks agents of each type have to do, for autoscalers | `tasks:read` |
//! | `me`, `openapi.json` | the caller and its permissions; the OpenAPI document | none |
//!
//! # A service from settings
//!
//! ```no_run
//! use aios_agents::prelude::*;
//! use aios_service::{Service, config::Settings};
//!
//! async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     Service::from_settings(&Settings::load()?) // AIOS_DATABASE_URL, AIOS_BROKER_URL, AIOS_HTTP_LISTEN …
//!         .connect_store(aios_store::connect)
//!         .connect_broker(aios_broker::connect)
//!         .workflow("welcome", welcome)
//!         .run() // until SIGTERM or Ctrl-C, and the end of requests and tasks
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! # Configuration
//!
//! ```no_run
//! use aios_service::config::Settings;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load()?; // config/base.yaml, config/{AIOS_ENV}.yaml, AIOS_CONFIG_DIR, AIOS_…
//! let level = settings.log().level; // AIOS_LOG_LEVEL, or level in the section log
//! println!("logging {}", level.as_str());
//! # Ok(())
//! # }
//! ```
//!
//! # Which module
//!
//! | module | contains |
//! |---|---|
//! | [`http`] | the router of the API, health, and a server |
//! | [`auth`] | authentication of callers and their permissions |
//! | `client` (feature `client`) | a typed client of the API, with retries and event streams that resume |
//! | [`Service`] | a whole service from settings, with an orderly shutdown |
//! | [`config`] | settings from files, environment variables and mounted secrets, with one report of all faults |
//! | [`telemetry`] | logs as lines of JSON or text, metrics as OpenMetrics text and by OTLP, traces of runs |
//!
//! # Which error when
//!
//! | type | returned by | means |
//! |---|---|---|
//! | [`SettingsError`](config::SettingsError) | [`Settings::load`](config::Settings::load) | every fault of the configuration: where it is, and what was expected |
//! | [`ServiceError`] | [`Service`] | why the service does not start, or how it ended |
//! | [`AuthError`](auth::AuthError) | authenticators | the credentials are invalid, or can't be checked for now |
//! | `client::ClientError` | the client of the API | the service refused a request or can't be reached; decide by the code |
//! | `client::ResultError` | the result of a run | the run failed, was cancelled or is blocked |
//! | [`HealthCheckError`] | [`check_health`] | a probe of the service failed |
//!
//! A response of the API with an error has a stable code, `error.code`, and the id of the request.
//!
//! # Guarantees
//!
//! - Every error has the same shape, including routing errors, unreadable requests and bodies, headers and
//!   URIs above the limits, timeouts and panics. What went wrong inside is logged under the id of the request,
//!   and not sent to the client.
//! - Without an authenticator, only callers on the same machine are admitted, and no web page from elsewhere.
//!   Behind a proxy on the same machine, every caller appears to be local: add an authenticator there.
//! - A route requires the permissions that the OpenAPI document names.
//! - A web page of another origin is refused, unless its origin is allowed.
//! - Every call that may change something leaves an event in the log: who, what, from where, outcome.
//! - Live events are server-sent events whose `id` is the position in the log. A client that connects again
//!   with `Last-Event-ID` gets every later event once, even from another process. A slow client holds one
//!   page of events in memory.
//! - A token is verified with the one algorithm of its key; `none` and shared secrets are never accepted.
//! - The keys of an issuer are fetched over HTTPS only (feature `oidc`), by one request at a time, and never
//!   more often than the refresh interval, however many tokens arrive.
//! - Slow clients and idle connections cannot block other clients of `serve` and `serve_with`: every read and
//!   write has a time limit, and the number of connections is bounded.
//! - A POST with an `Idempotency-Key` takes effect once, and a repetition gets the same response, from every
//!   process and after a restart.
//! - An agent that is created over the API is hosted by every process with a factory of its type, also
//!   after a restart and without a store, until it is deleted.
//! - By default, a body is at most 2 MiB, and a request takes at most 30 s.
//! - With `ApiOptions::with_rate_limit`, requests above the limit of their caller get 429 and `Retry-After`.
//! - No configuration is read unless `Settings::load` is called. Its report lists all faults of the
//!   configuration, and neither it nor a setting prints a secret.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `client` | the module `client`: a typed client of the HTTP API |
//! | `oidc` | `auth::OidcKeys` and `auth::UrlKeys`: keys of token issuers over HTTPS |
//! | `otlp` | traces and metrics to a collector by OTLP over HTTP |
//! | `otlp-grpc` | the same by gRPC |
//! | `tls` | TLS and HTTP/2 in `http::serve_with` |
//! | `swagger` | Swagger UI as a page of the HTTP API |
//! | `token-endpoint` | `auth::TokenEndpoint`: a token issuer for development |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auth;
mod blocking;
#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod client;
pub mod config;
pub mod http;
#[cfg(any(feature = "client", feature = "otlp"))]
mod https;
mod service;
pub mod telemetry;

pub use self::service::{
    Connect, HealthCheckError, RunningService, Service, ServiceError, check_health,
};
