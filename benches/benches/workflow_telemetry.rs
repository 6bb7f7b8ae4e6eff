//! Workflows on SQLite with metrics, and with metrics and traces of all runs, compared with the same without
//! telemetry.
//!
//! A recorder of metrics can't be removed from a process, so each measurement is a process of its own.
//! They take turns; the medians are compared. The collector of the traces is in the first process, which
//! shares the processors with them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    env,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_benches::{
    figure, median, per_second, ratio,
    sqlite::{Place, open},
    workflow::Bench,
};
use aios_service::{
    http::{Shutdown, serve},
    telemetry::{Metrics, otlp::Collector, traces::TraceExporter},
};
use axum::{
    Router, body::Bytes, extract::State, http::header, response::IntoResponse, routing::post,
};
use tokio::{net::TcpListener, runtime::Runtime};

/// Concurrent runs, and steps of each.
const RUNS: usize = 1000;
const STEPS: usize = 60;
const ROUNDS: usize = 5;
/// The telemetry of a measurement, as its first argument.
const NONE: &str = "--none";
const METRICS: &str = "--metrics";
const TRACES: &str = "--traces";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<_> = env::args().collect();
    let given = |telemetry: &str| arguments.iter().any(|argument| argument == telemetry);
    match [NONE, METRICS, TRACES].into_iter().find(|telemetry| given(telemetry)) {
        Some(telemetry) => runtime.block_on(steps(telemetry, arguments.last().unwrap())),
        None => compare(&runtime),
    }
}

/// Runs a process for each measurement and prints the ratios.
fn compare(runtime: &Runtime) {
    let (url, bytes) = runtime.block_on(collector());
    let (mut none, mut metrics, mut traces, mut lag) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        none.push(measure(NONE, &url).0);
        metrics.push(measure(METRICS, &url).0);
        let (rate, behind) = measure(TRACES, &url);
        traces.push(rate);
        lag.push(behind);
    }
    let none = median(&mut none);
    ratio("workflow_steps/sqlite/metrics", median(&mut metrics), none, "steps/s");
    ratio("workflow_steps/sqlite/traces", median(&mut traces), none, "steps/s");
    figure("workflow_steps/sqlite/traces/lag", median(&mut lag), "s");
    let spans = RUNS * (STEPS + 1) * ROUNDS;
    let bytes = bytes.load(Ordering::Relaxed);
    assert!(bytes > spans * 50, "the spans have not arrived: {bytes} bytes");
}

/// The steps per second of a process, and the seconds until its spans were sent.
fn measure(telemetry: &str, url: &str) -> (f64, f64) {
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args([telemetry, url]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{telemetry} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (rate, lag) = text.trim().split_once(' ').unwrap();
    (rate.parse().unwrap(), lag.parse().unwrap())
}

/// Measures in this process.
async fn steps(telemetry: &str, url: &str) {
    let metrics = Metrics::new();
    assert!(telemetry == NONE || metrics.install());
    let place = Place::new();
    let bench = Bench::start(Arc::new(open(&place.path).await)).await;
    let exporter = match telemetry {
        TRACES => {
            let collector = Collector::new(url, "bench").unwrap();
            Some(TraceExporter::start(bench.runtime(), collector).await.unwrap())
        }
        _ => None,
    };
    let elapsed = bench.hold(RUNS, STEPS).await.release().await;
    let begin = Instant::now();
    if let Some(exporter) = &exporter {
        assert!(exporter.flush(Duration::from_secs(60)).await);
    }
    println!("{} {}", per_second(RUNS * STEPS, elapsed), begin.elapsed().as_secs_f64());
    bench.stop().await;
}

/// A collector that counts the bytes that it takes.
async fn collector() -> (String, Arc<AtomicUsize>) {
    async fn take(State(bytes): State<Arc<AtomicUsize>>, body: Bytes) -> impl IntoResponse {
        bytes.fetch_add(body.len(), Ordering::Relaxed);
        [(header::CONTENT_TYPE, "application/x-protobuf")]
    }
    let bytes = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&bytes));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, router, Shutdown::new()));
    (url, bytes)
}
