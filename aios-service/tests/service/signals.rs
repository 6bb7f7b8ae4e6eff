//! Signals, in a process of their own because they are for the whole process.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    broker::{Broker, BrokerError},
    clock::{Clock, SystemClock},
};
use aios_service::{Service, http::ServeOptions};

const PROCESS: &str = "AIOS_TEST_SIGNALS";
const READY: &str = "the start has ended";

/// A process that the tests start: its start fails or is cancelled, and it waits then.
#[tokio::test]
#[ignore = "started as a process by another test"]
async fn process_whose_start_fails() {
    let Some(case) = std::env::var_os(PROCESS) else { return };
    let is_cancelled = case == "cancelled";
    let settings = super::settings().value("broker.url", "nothing://").load().unwrap();
    let service = Service::from_settings(&settings).without_telemetry();
    let service = service.connect_store(aios_store::connect);
    let service = match is_cancelled {
        true => service.connect_broker(hang),
        false => service.connect_broker(aios_broker::connect),
    };
    tokio::select! {
        started = service.start() => drop(started.unwrap_err()),
        () = SystemClock.sleep(Duration::from_millis(200)) => assert!(is_cancelled),
    }
    println!("\n{READY}");
    SystemClock.sleep(Duration::from_secs(20)).await;
}

#[allow(clippy::print_stdout, reason = "the test that starts the process reads it")]
async fn wait(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    println!("\n{READY}");
    hang(url).await
}

async fn hang(_: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    std::future::pending().await
}

/// A process that the tests start: it prints when its start waits for the broker, and what comes of it.
#[tokio::test]
#[ignore = "started as a process by another test"]
async fn process_whose_start_takes_long() {
    let Some(_) = std::env::var_os(PROCESS) else { return };
    let settings = super::settings().load().unwrap();
    let service = Service::from_settings(&settings).without_telemetry();
    let service = service.connect_store(aios_store::connect).connect_broker(wait);
    let error = service.start().await.unwrap_err();
    println!("\n{}", error.code());
    // From now on, signals end the process.
    SystemClock.sleep(Duration::from_secs(20)).await;
}

/// A process that the tests start: a service that starts after another start has failed, and after another
/// service has ended.
#[tokio::test]
#[ignore = "started as a process by another test"]
async fn process_with_several_services() {
    let Some(_) = std::env::var_os(PROCESS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("base.yaml");
    std::fs::write(&file, "log:\n  level: error\n").unwrap();
    let settings = || super::settings().folder(folder.path());
    let bad = settings().value("broker.url", "nothing://").load().unwrap();
    let good = settings().load().unwrap();
    let service = |settings| {
        Service::from_settings(settings)
            .connect_store(aios_store::connect)
            .connect_broker(aios_broker::connect)
    };
    drop(service(&bad).start().await.unwrap_err());
    for number in 0..3 {
        std::fs::write(&file, "log:\n  level: error\n").unwrap();
        let running = service(&good).start().await.unwrap();
        drop(service(&bad).start().await.unwrap_err());
        let metrics = super::ask(running.address(), "GET", "/metrics").await;
        assert!(metrics.contains("aios_runtime_running 1"), "{number}: {metrics}");
        assert!(!tracing::enabled!(tracing::Level::INFO), "{number}");
        std::fs::write(&file, "log:\n  level: info\n").unwrap();
        running.reload().await.unwrap();
        assert!(tracing::enabled!(tracing::Level::INFO), "{number}");
        if number < 2 {
            running.shutdown().begin();
        } else {
            println!("\n{READY}");
        }
        running.stopped().await.unwrap();
    }
    println!("\nit has ended");
}

/// A process that the tests start: a service whose code blocks the thread of the runtime, or one that the
/// runtime waits for at its end.
#[tokio::test]
#[ignore = "started as a process by another test"]
async fn process_whose_code_blocks() {
    const LONG: Duration = Duration::from_secs(100);
    let Some(case) = std::env::var_os(PROCESS) else { return };
    let settings = super::settings().value("shutdown.deadline", "1s").load().unwrap();
    let service = Service::from_settings(&settings)
        .without_telemetry()
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .serve_options(ServeOptions::new().with_drain_timeout(Duration::ZERO));
    let running = service.start().await.unwrap();
    if case == "runtime" {
        println!("\n{READY}");
        std::thread::sleep(LONG);
    } else {
        tokio::task::spawn_blocking(|| std::thread::sleep(LONG));
        println!("\n{READY}");
    }
    running.stopped().await.unwrap();
}

/// Starts one of the processes, and reads its output until it is ready.
fn process(test: &str, case: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("service::signals::{test}");
    command.args(["--ignored", "--exact", "--nocapture", &test]).env(PROCESS, case);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == READY), "{test} {case}");
    (child, lines)
}

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn should_leave_signals_that_end_the_process_after_a_failed_or_cancelled_start() {
    for case in ["failed", "cancelled"] {
        for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
            let (mut child, _lines) = process("process_whose_start_fails", case);
            send(signal, &child);
            assert_eq!(child.wait().unwrap().code(), Some(status), "{case} {signal}");
        }
    }
}

#[test]
fn should_end_a_start_at_a_signal() {
    for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
        let (mut child, lines) = process("process_whose_start_takes_long", "");
        // It has no effect before there is something to reload.
        send("-HUP", &child);
        send(signal, &child);
        let has_ended = lines.map_while(Result::ok).any(|line| line == "START_INTERRUPTED");
        assert!(has_ended, "{signal}");
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
    }
}

#[test]
fn should_serve_again_in_the_same_process_after_a_failed_start_and_after_an_end() {
    let (mut child, mut lines) = process("process_with_several_services", "");
    for signal in ["-HUP", "-TERM", "-HUP"] {
        send(signal, &child);
    }
    let has_ended = lines.by_ref().map_while(Result::ok).any(|line| line == "it has ended");
    let status = child.wait().unwrap();
    assert!(has_ended && status.success(), "{status}");
}

#[test]
fn should_end_a_process_whose_code_blocks() {
    let children = ["runtime", "thread"].map(|case| {
        let (child, lines) = process("process_whose_code_blocks", case);
        send("-TERM", &child);
        (case, child, lines)
    });
    for (case, mut child, _lines) in children {
        assert_eq!(child.wait().unwrap().code(), Some(75), "{case}");
    }
}
