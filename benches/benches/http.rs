//! The HTTP API: reading a run, compared with a hand-written axum handler that reads the same row, and
//! starting runs, compared with `Runtime::start` and with a hand-written axum handler that calls it. All
//! take turns; the medians are compared. With `AIOS_PEERS`, starts are compared with a FastAPI application
//! that inserts a row for each.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::Path as FilePath,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use aios_agents::prelude::*;
use aios_benches::{
    http::{Connection, listen, runtime},
    median, micros_each, peers, per_second, ratio,
    sqlite::{Place, open},
};
use aios_core::store::{PageRequest, RunFilter};
use aios_service::http::{ApiOptions, Audit};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
/// Requests on one connection, one after the other.
const READS: usize = 3000;
/// Runs that are started, and the number in flight.
const STARTS: usize = 4000;
const IN_FLIGHT: usize = 200;

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(reads());
    tokio.block_on(starts("http_start/sqlite", &ApiOptions::new()));
    let without = ApiOptions::new().with_audit(Audit::LogLines);
    tokio.block_on(starts("http_start/sqlite/without_audit_events", &without));
    if let Some(python) = peers::python() {
        tokio.block_on(starts_beside_fastapi(&python));
    }
}

/// The same read without anything around it.
async fn bare(State(runtime): State<Arc<Runtime>>, Path(id): Path<String>) -> Json<Value> {
    let filter = RunFilter { id: Some(id), ..RunFilter::default() };
    let mut page = runtime.store().unwrap().runs(&filter, &PageRequest::first(1)).await.unwrap();
    let run = page.rows.pop().unwrap();
    Json(json!({ "data": { "id": run.id, "type": "run", "attributes": {
        "workflow": run.workflow, "workflow_version": run.workflow_version,
        "status": run.status, "parent_run_id": run.parent_run_id,
        "first_run_id": run.first_run_id, "result": run.result, "failure": run.failure,
        "status_text": run.status_text, "progress": run.progress, "position": run.position,
        "created_at": run.created_at, "updated_at": run.updated_at, "deleted_at": run.deleted_at,
    } } }))
}

async fn reads() {
    let place = Place::new();
    let runtime = runtime(Arc::new(open(&place.path).await)).await;
    let run = runtime.start("noted", "x").id("run-1").await.unwrap();
    run.result::<String>().await.unwrap();
    let beside = Router::new().route("/bare/{id}", get(bare)).with_state(Arc::clone(&runtime));
    let address = listen(runtime, ApiOptions::new(), beside).await;
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(micros_each(read(address, "/bare/run-1").await, READS));
        ours.push(micros_each(read(address, "/api/v1/runs/run-1").await, READS));
    }
    ratio("http_get/sqlite", median(&mut ours), median(&mut ceiling), "us");
}

async fn read(address: SocketAddr, path: &str) -> Duration {
    let mut connection = Connection::open(address).await;
    connection.ask("GET", path, "", 200).await;
    let begin = Instant::now();
    for _ in 0..READS {
        connection.ask("GET", path, "", 200).await;
    }
    begin.elapsed()
}

/// The start without anything around it.
async fn bare_start(
    State(runtime): State<Arc<Runtime>>,
    Path(workflow): Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let run_id = body["run_id"].as_str().unwrap();
    let run = runtime.start(workflow.as_str(), &body["input"]).id(run_id).await.unwrap();
    (StatusCode::ACCEPTED, Json(json!({ "data": { "id": run.id(), "type": "run" } })))
}

async fn starts(name: &str, options: &ApiOptions) {
    let (mut ours, mut bare, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ceiling.push(start_in_process().await);
        bare.push(start_over_http("/bare", options).await);
        ours.push(start_over_http("/api/v1/workflows", options).await);
    }
    let ours = median(&mut ours);
    ratio(name, ours, median(&mut ceiling), "starts/s");
    ratio(&format!("{name}/beside_bare_handler"), ours, median(&mut bare), "starts/s");
}

/// Starts in a second, by calls of the runtime.
async fn start_in_process() -> f64 {
    let place = Place::new();
    let runtime = runtime(Arc::new(open(&place.path).await)).await;
    let elapsed = in_flight(|number| {
        let runtime = Arc::clone(&runtime);
        async move {
            for number in (number..STARTS).step_by(IN_FLIGHT) {
                runtime.start("noted", "x").id(format!("run-{number}")).await.unwrap();
            }
        }
    });
    per_second(STARTS, elapsed.await)
}

/// Starts in a second, by requests below a path: of the API, or of the handler beside it. The clients
/// share the processors with the server.
async fn start_over_http(path: &'static str, options: &ApiOptions) -> f64 {
    let place = Place::new();
    let runtime = runtime(Arc::new(open(&place.path).await)).await;
    let beside = Router::new().route("/bare/{workflow}/actions/execute", post(bare_start));
    let beside = beside.with_state(Arc::clone(&runtime));
    let address = listen(runtime, options.clone(), beside).await;
    start_all(address, path).await
}

/// The API beside an application in another process. Both keep the clients' process busy.
async fn starts_beside_fastapi(python: &FilePath) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(start_over_http("/api/v1/workflows", &ApiOptions::new()).await);
        let place = Place::new();
        let folder = place.path.parent().unwrap().display().to_string();
        let mut command = peers::program(python, "fastapi_starts.py", &[folder]);
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.trim().parse().unwrap()).into();
        theirs.push(start_all(address, "").await);
        server.kill().unwrap();
        server.wait().unwrap();
    }
    ratio("http_start/sqlite/beside_fastapi", median(&mut ours), median(&mut theirs), "starts/s");
}

/// Starts in a second, by requests below a path.
async fn start_all(address: SocketAddr, path: &'static str) -> f64 {
    let elapsed = in_flight(|number| async move {
        let mut connection = Connection::open(address).await;
        let path = format!("{path}/noted/actions/execute");
        for number in (number..STARTS).step_by(IN_FLIGHT) {
            let body = json!({ "input": "x", "run_id": format!("run-{number}") }).to_string();
            connection.ask("POST", &path, &body, 202).await;
        }
    });
    per_second(STARTS, elapsed.await)
}

/// How long callers take that work at the same time.
async fn in_flight<F: Future<Output = ()> + Send + 'static>(
    caller: impl Fn(usize) -> F,
) -> Duration {
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    (0..IN_FLIGHT).for_each(|number| drop(callers.spawn(caller(number))));
    callers.join_all().await;
    begin.elapsed()
}
