//! Health of the process.
//!
//! The three probes answer different questions, and an orchestrator acts differently on each: it
//! restarts a process that is not live, and sends no requests to one that is not ready. A check
//! that depends on a server therefore belongs to readiness only.

use std::{sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_core::{
    agent::Name,
    broker::{BrokerExt, Health},
    catalog::codes,
    clock::{Clock, SystemClock},
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::Shutdown;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the probes.
#[derive(Clone, Debug)]
struct Checks {
    /// Knows its own faults, its broker and its store.
    runtime: Arc<Runtime>,
    /// A process that shuts down is not ready.
    shutdown: Shutdown,
    /// Limits the time of the store.
    clock: Arc<dyn Clock>,
}

/// Creates the routes `/health/live`, `/health/ready` and `/health/startup` for the probes of an
/// orchestrator. They need no credentials; merge them at the root of your router.
///
/// - **live**: the parts of the runtime in this process are running, and no code of agents or workflows
///   blocks the thread or event loop it runs on. It never depends on a server, so that an outage of the store or
///   the broker restarts nothing.
/// - **ready**: the store answers within 2 s, the broker is connected, and `shutdown` has not begun.
/// - **startup**: the runtime has started, which it has when this router exists.
///
/// Each answers with 200 or 503 and says in its body which check failed.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::Runtime;
/// use aios_service::http::{ApiOptions, Shutdown, api, health};
/// use axum::Router;
///
/// fn routes(runtime: &Arc<Runtime>, shutdown: &Shutdown) -> Router {
///     Router::new()
///         .merge(health(Arc::clone(runtime), shutdown.clone()))
///         .nest("/api/v1", api(Arc::clone(runtime), ApiOptions::new()))
/// }
/// # let _ = routes;
/// ```
///
/// The body of an answer names each check, so that the log of an orchestrator says which one
/// failed:
///
/// ```text
/// GET /health/ready
/// 503  {"status": "failed",
///       "checks": {"process": "ok", "runtime": "ok", "broker": "reconnecting", "store": "ok"}}
/// ```
///
/// | check | text of a failure |
/// |---|---|
/// | `process` | `shutting down` |
/// | `runtime` | the code of the failure that ended the runtime |
/// | `broker` | `reconnecting`, `blocked` or `closed` |
/// | `store` | the code of the error, or `STORE_TIMEOUT` after 2 s |
/// | `agents` | `blocked:` and the types of agents whose code blocks its thread |
/// | `runs` | `blocking:` and the ids of runs whose code blocks its thread |
pub fn health(runtime: Arc<Runtime>, shutdown: Shutdown) -> Router {
    let clock = Arc::new(SystemClock);
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/startup", get(startup))
        .with_state(Checks { runtime, shutdown, clock })
}

/// Answers from what this process knows about itself.
async fn live(State(checks): State<Checks>) -> Response {
    let blocked = checks.runtime.blocked_agent_types();
    let blocked = blocked.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let agents = (!blocked.is_empty()).then(|| format!("blocked: {blocked}"));
    let runs = checks.runtime.blocking_runs().join(", ");
    let runs = (!runs.is_empty()).then(|| format!("blocking: {runs}"));
    let runtime = checks.runtime.failure().map(|failure| failure.code);
    answer(&[("runtime", runtime), ("agents", agents), ("runs", runs)])
}

/// Answers that the process has started.
async fn startup() -> Response {
    answer(&[("runtime", None)])
}

/// Answers from the state of the process and of its servers.
async fn ready(State(checks): State<Checks>) -> Response {
    let draining = checks.shutdown.has_begun().then(|| "shutting down".to_owned());
    let broker = match checks.runtime.broker().health_now() {
        Health::Connected => None,
        Health::Reconnecting { .. } => Some("reconnecting".to_owned()),
        Health::Blocked { .. } => Some("blocked".to_owned()),
        _ => Some("closed".to_owned()),
    };
    let runtime = checks.runtime.failure().map(|failure| failure.code);
    let store = store(&checks).await;
    answer(&[("process", draining), ("runtime", runtime), ("broker", broker), ("store", store)])
}

/// Asks the store for its head; returns the fault.
async fn store(checks: &Checks) -> Option<String> {
    let store = checks.runtime.store()?;
    tokio::select! {
        biased;
        head = store.head() => head.err().map(|error| error.code().to_owned()),
        () = checks.clock.sleep(STORE_TIMEOUT) => Some(codes::STORE_TIMEOUT.to_owned()),
    }
}

/// Answers with the checks; those with a text have failed.
fn answer(checks: &[(&str, Option<String>)]) -> Response {
    let is_healthy = checks.iter().all(|(_, fault)| fault.is_none());
    let status = match is_healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let text = |fault: &Option<String>| Value::from(fault.as_deref().unwrap_or("ok"));
    let checks: serde_json::Map<_, _> =
        checks.iter().map(|(name, fault)| ((*name).to_owned(), text(fault))).collect();
    let body = json!({ "status": if is_healthy { "ok" } else { "failed" }, "checks": checks });
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.to_string()).into_response()
}
