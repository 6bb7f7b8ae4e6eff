//! Signals, in a process of their own because they are for the whole process.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    broker::{Broker, BrokerError},
    clock::{Clock, SystemClock},
};
use aios_service::Service;

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

async fn hang(_: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    std::future::pending().await
}

fn process(case: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--ignored",
        "--exact",
        "--nocapture",
        "service::signals::process_whose_start_fails",
    ]);
    let mut child = command.env(PROCESS, case).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == READY), "{case}");
    child
}

#[test]
fn should_leave_signals_that_end_the_process_after_a_failed_or_cancelled_start() {
    for case in ["failed", "cancelled"] {
        for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
            let mut child = process(case);
            let id = child.id().to_string();
            assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
            assert_eq!(child.wait().unwrap().code(), Some(status), "{case} {signal}");
        }
    }
}
