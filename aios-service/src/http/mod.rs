//! The HTTP API: a router that your program mounts, and a server for it.
//!
//! [`api`] has the resources: runs, workflows, tasks, agents, events, dead letters, projections and engines.
//! [`health`] has the probes of an orchestrator. [`serve`] serves a router and ends it in an orderly way;
//! [`serve_with`] does so with limits of your own, and over TLS.
//!
//! # Shapes
//!
//! An answer is `{"data": {"id", "type", "attributes"}, "meta": {"timestamp", "version"}}`. In a list,
//! `data` is an array and `meta.next` leads to the next page. Every error, whatever its cause, is
//! `{"error": {"code", "message", "details"}, "meta": {"request_id", "timestamp"}}`; the codes are
//! those of [`aios_core::catalog::codes`]. The header `x-request-id` is taken from the request, or
//! made, and is in every answer and in the log. A `traceparent` (W3C Trace Context) is passed on to
//! what the request starts or publishes, and answered with `traceresponse`. The OpenAPI document is at
//! `openapi.json`.
//!
//! # Requests that are repeated
//!
//! A POST with the header `Idempotency-Key` is done once. A repetition by the same caller gets the same
//! answer, with the header `idempotent-replayed`, even from another process and after a restart. Another
//! body or path with the same key is answered with 409, `IDEMPOTENCY_KEY_REUSED`. While the first request
//! is being handled, a repetition is answered with 409, `REQUEST_IN_PROGRESS` and `Retry-After`. Answers
//! that another attempt may change (401, 403, 429 and 5xx) are not kept. A request that is refused for its
//! content (400, 413, 415 and 422) has no effect. It frees its key for the corrected one, unless an earlier
//! attempt may have had an effect. The ids of what the request creates derive from the key, so a request that
//! is handled again after a crash creates nothing twice; an event that it publishes is published again with the
//! same id.
//!
//! Answers are kept in the log until `expire_streams` of the store removes those that are old. Call it from
//! a timer, with an age for which clients repeat requests, for example a day.

mod health;
mod layers;
mod openapi;
mod options;
mod protocol;
mod resources;
mod server;
mod shutdown;
mod state;

use std::sync::Arc;

use aios_agents::Runtime;
use axum::{Extension, Router, middleware::from_fn_with_state};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use self::protocol::{ApiError, Challenge};
#[cfg(feature = "tls")]
pub use self::server::{InvalidCertificate, Tls};
pub use self::{
    health::health,
    layers::{Cors, InvalidOrigin, InvalidRateLimit, Limits, RateLimit, answer_unrouted},
    options::{ApiOptions, Audit},
    server::{ServeOptions, serve, serve_with},
    shutdown::Shutdown,
};
use self::{
    layers::{finish, guard, not_found, trace_request},
    openapi::Documents,
    state::Api,
};

/// Creates the router of the API. Mount it at any path beside your own routes:
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::Runtime;
/// use aios_service::http::{ApiOptions, api};
/// use axum::{Router, routing::get};
///
/// fn routes(runtime: &Arc<Runtime>) -> Router {
///     Router::new()
///         .route("/hello", get(|| async { "Hello!" }))
///         .nest("/api/v1", api(Arc::clone(runtime), ApiOptions::new()))
/// }
/// ```
///
/// A runtime without a store answers most requests with `NO_STORE`. With the feature `swagger`, `/docs` is a
/// page for people, which needs no credentials.
///
/// The errors of the API have JSON bodies even for requests that no handler gets, for example an
/// unknown path below the mount point. For paths outside of it, see [`answer_unrouted`].
///
/// # Examples
///
/// A request to the router without a server, as in a test. `peer` stands for the address of the
/// client:
///
/// ```
/// use std::{net::SocketAddr, sync::Arc};
///
/// use aios_agents::Runtime;
/// use aios_service::http::{ApiOptions, api};
/// use axum::{Router, body::Body, extract::connect_info::MockConnectInfo, http::Request};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .start()
///     .await?;
/// let peer = SocketAddr::from(([127, 0, 0, 1], 50_000));
/// let router = Router::new()
///     .nest("/api/v1", api(Arc::new(runtime), ApiOptions::new()))
///     .layer(MockConnectInfo(peer));
///
/// let request = Request::get("/api/v1/runs/order-7").header("host", "localhost");
/// let response = router.oneshot(request.body(Body::empty())?).await?;
/// assert_eq!(response.status(), 404);
/// # Ok(())
/// # }
/// ```
pub fn api(runtime: Arc<Runtime>, options: ApiOptions) -> Router {
    let (router, document) = resources().split_for_parts();
    let documents = Arc::new(Documents::new(&document));
    let spans = options.request_spans.clone();
    let api = Api::new(runtime, options, documents.operations());
    let router = router.layer(from_fn_with_state(api.clone(), guard));
    #[cfg(feature = "swagger")]
    let router = router.merge(openapi::swagger::routes());
    let router = router
        .layer(Extension(documents))
        .fallback(not_found)
        .method_not_allowed_fallback(async || axum::http::StatusCode::METHOD_NOT_ALLOWED)
        .layer(from_fn_with_state(api.clone(), finish));
    // What the request starts, and its answer, name its span.
    let router = match spans {
        Some(spans) => router.layer(from_fn_with_state(spans, trace_request)),
        None => router,
    };
    router.with_state(api)
}

/// The OpenAPI 3.1 document of the API, as JSON.
///
/// # Examples
///
/// For generators of clients, without a running service:
///
/// ```
/// let document: serde_json::Value = serde_json::from_str(&aios_service::http::openapi())?;
/// assert_eq!(document["openapi"], "3.1.0");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[must_use]
pub fn openapi() -> String {
    let (_, document) = resources().split_for_parts();
    Documents::new(&document).v31()
}

/// All routes, with their descriptions.
fn resources() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .merge(resources::runs::routes())
        .merge(resources::workflows::routes())
        .merge(resources::tasks::routes())
        .merge(resources::agents::routes())
        .merge(resources::agent_types::routes())
        .merge(resources::events::routes())
        .merge(protocol::stream::routes())
        .merge(resources::outputs::routes())
        .merge(resources::dead_letters::routes())
        .merge(resources::engines::routes())
        .merge(resources::projections::routes())
        .merge(resources::scaling::routes())
        .merge(resources::me::routes())
        .merge(openapi::routes())
}
