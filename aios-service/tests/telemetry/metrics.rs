use std::{collections::BTreeMap, future::pending, time::Duration};

use aios_agents::prelude::*;
use aios_service::{RunningService, telemetry::Metrics};
use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{GENEROUS, service, settings, stop};

struct Clerk;

impl Agent for Clerk {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, context: &TaskContext, name: String) -> Result<String, TaskError> {
        if name == "broken" && context.attempt() == 1 {
            return Err(TaskError::from(Failure::new("OUT_OF_INK", "no ink")));
        }
        Ok(name)
    }
}

async fn everything(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    let quick = RetryPolicy::fixed(2, Duration::from_millis(1));
    let name: String = context.task("clerk", &name).retry(quick).await?;
    context.sleep(Duration::from_millis(1)).await?;
    let step = async || Ok::<_, TaskError>(1);
    context.step("count", step).await?;
    context.signal::<u32>("go").await?;
    match name.as_str() {
        "broken" => Err(WorkflowError::failed(Failure::new("BROKEN", "it is broken"))),
        _ => Ok(name),
    }
}

/// The value of each sample, by name and labels.
type Samples = BTreeMap<String, f64>;

async fn answer(address: std::net::SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "Host: localhost\r\nConnection: close";
    let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn scrape(address: std::net::SocketAddr) -> (String, Samples) {
    let answer = answer(address, "GET", "/metrics").await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let line = line.split(" # ").next().unwrap();
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    (text.to_owned(), samples.collect())
}

/// 20 runs, of which 5 fail, and requests for each of them.
async fn run_everything(running: &RunningService) {
    for number in 0..20 {
        let name = if number % 4 == 0 { "broken" } else { "fine" };
        let id = format!("unbounded-{number}");
        let run = running.runtime().start("everything", name).id(id.clone()).await.unwrap();
        run.signal("go", &1).await.unwrap();
        assert_eq!(run.result::<String>().await.is_ok(), name == "fine");
        answer(running.address(), "GET", &format!("/api/v1/runs/{id}")).await;
        answer(running.address(), "GET", &format!("/unbounded/{id}")).await;
        answer(running.address(), "BREW", &format!("/api/v1/runs/{id}")).await;
    }
}

/// Leaves before a request is answered, and waits until that is measured.
async fn leave(address: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let is_running = async || scrape(address).await.1["aios_http_requests_running"] > 1.0;
    while !is_running().await {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while is_running().await {
        tokio::task::yield_now().await;
    }
}

/// Checks that every label is one whose values are bounded.
fn check_labels(samples: &Samples) {
    let known =
        ["status", "agent_type", "outcome", "method", "route", "le", "reason", "code", "workflow"];
    for sample in samples.keys() {
        let labels = sample.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let name = label.split('=').next().unwrap();
            assert!(known.contains(&name), "{sample}");
        }
    }
}

/// Durations of runs, steps and tasks name the trace of a run.
fn check_exemplars(text: &str) {
    for name in ["run", "step", "task", "agent_task", "agent_task_wait"] {
        let mut buckets =
            text.lines().filter(|line| line.starts_with(&format!("aios_{name}_seconds_bucket")));
        assert!(buckets.any(|line| line.contains(" # {trace_id=\"")), "{name} in {text}");
    }
}

/// The recorder is that of the thread, so the service runs on one thread.
#[tokio::test]
async fn should_count_a_run_of_everything_without_unbounded_labels() {
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let service = service(settings())
        .metrics(metrics.clone())
        .agent("clerk", Clerk)
        .workflow("everything", everything)
        .routes(|_| Router::new().route("/never", get(pending::<()>)));
    let running = service.start().await.unwrap();
    run_everything(&running).await;
    tokio::time::timeout(GENEROUS, leave(running.address())).await.unwrap();
    let (text, samples) = scrape(running.address()).await;
    assert!(text.ends_with("# EOF\n") && !text.contains("unbounded"), "{text}");
    for (name, value) in [
        ("aios_runs_started_total", 20.0),
        ("aios_runs_ended_total{status=\"completed\"}", 15.0),
        ("aios_runs_ended_total{status=\"failed\"}", 5.0),
        ("aios_steps_completed_total", 20.0),
        ("aios_retries_scheduled_total", 5.0),
        ("aios_task_answers_total{outcome=\"completed\"}", 20.0),
        ("aios_agent_tasks_total{agent_type=\"clerk\",outcome=\"completed\"}", 20.0),
        ("aios_agent_tasks_total{agent_type=\"clerk\",outcome=\"failed\"}", 5.0),
        ("aios_agent_tasks_running{agent_type=\"clerk\"}", 0.0),
        ("aios_run_seconds_count{status=\"completed\",workflow=\"everything\"}", 15.0),
        ("aios_run_seconds_count{status=\"failed\",workflow=\"everything\"}", 5.0),
        ("aios_step_seconds_count{outcome=\"completed\",workflow=\"everything\"}", 20.0),
        ("aios_task_seconds_count{agent_type=\"clerk\",outcome=\"completed\"}", 20.0),
        ("aios_agent_task_wait_seconds_count{agent_type=\"clerk\"}", 25.0),
        ("aios_tasks_queued{agent_type=\"clerk\"}", 0.0),
        ("aios_store_appends_waiting", 0.0),
        ("aios_broker_connected", 1.0),
        ("aios_runtime_running", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {text}");
    }
    let of_route = |route: &str, status: &str| {
        let labels = format!("method=\"GET\",route=\"{route}\",status=\"{status}\"");
        samples.get(&format!("aios_http_request_seconds_count{{{labels}}}")).copied()
    };
    assert_eq!(of_route("/api/v1/runs/{run_id}", "200"), Some(20.0), "{text}");
    assert_eq!(of_route("/never", "499"), Some(1.0), "{text}");
    assert_eq!(of_route("unmatched", "404"), Some(20.0), "{text}");
    for name in [
        "aios_timers_fired_total",
        "aios_timer_late_seconds_count",
        "aios_store_append_seconds_count",
        "process_resident_memory_bytes",
        "aios_leases_taken_total",
    ] {
        assert!(samples.get(name).is_some_and(|value| *value > 0.0), "{name} in {text}");
    }
    check_labels(&samples);
    check_exemplars(&text);
    stop(running).await;
}

/// Anyone may send any method to any route. What comes after that must still be seen by its status.
#[tokio::test]
async fn should_report_the_status_of_a_request_after_hundreds_of_refused_ones() {
    let metrics = Metrics::new();
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let routes = |_| {
        let broken = get(async || axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        (0..60).fold(Router::new().route("/broken", broken), |router, number| {
            router.route(&format!("/shop-{number}"), get(async || "open"))
        })
    };
    let service = service(settings()).metrics(metrics.clone()).routes(routes);
    let running = service.start().await.unwrap();
    for number in 0..60 {
        for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
            let refused = answer(running.address(), method, &format!("/shop-{number}")).await;
            assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
        }
    }
    answer(running.address(), "GET", "/broken").await;
    let (text, samples) = scrape(running.address()).await;
    let count = |method: &str, route: &str, status: u16| {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        samples.get(&format!("aios_http_request_seconds_count{{{labels}}}")).copied()
    };
    assert_eq!(count("GET", "/broken", 500), Some(1.0), "{text}");
    assert_eq!(count("other", "unmatched", 405), Some(300.0), "{text}");
    stop(running).await;
}
