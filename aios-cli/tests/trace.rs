//! `aios trace`.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread::{self, JoinHandle},
};

use aios_tests::otlp::{Answer, Collector};
use serde_json::Value;

use crate::support::{Dev, Program, service};

#[test]
fn should_show_and_export_the_trace_of_a_run() {
    let (_dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada", "--wait"]);
    let tree = program.done(&["trace", "ada"]);
    let lines: Vec<_> = tree.lines().collect();
    assert!(lines[0].starts_with("trace "), "{tree}");
    assert!(lines[1].starts_with("SPAN") && lines[1].contains("TAKES"), "{tree}");
    assert!(lines[2].starts_with("workflow welcome") && lines[2].contains("+0.0 ms"), "{tree}");
    assert!(
        tree.contains("└─ task greeter") && tree.contains("└─ task greeter attempt 1"),
        "{tree}"
    );

    let spans = program.json(&["trace", "ada"]);
    let id = |span: &Value| span["span_id"].as_str().unwrap().to_owned();
    let ids: BTreeSet<_> = spans.iter().map(id).collect();
    assert_eq!(ids.len(), spans.len());
    let run = spans.iter().find(|span| span["name"] == "workflow welcome").unwrap();
    assert_eq!(run["attributes"]["aios.run_id"], "ada");
    assert_eq!(run["status"]["code"], "ok");

    let collector = Collector::start(Answer::Status(200));
    for _ in 0..2 {
        let sent = program.json(&["trace", "ada", "--export", &collector.url()]);
        assert_eq!(sent[0]["sent"], spans.len());
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let exported = collector.spans();
    assert_eq!(exported.len(), 2 * spans.len());
    assert_eq!(exported.iter().map(|span| hex(&span.span_id)).collect::<BTreeSet<_>>(), ids);
    assert_eq!(exported[..spans.len()], exported[spans.len()..], "the same again");
}

#[test]
fn should_name_a_run_or_a_collector_that_is_not_there() {
    let (_dev, program) = service();
    let error = program.fails(&["trace", "unknown-run"], 3);
    assert!(error.contains("unknown-run"), "{error}");
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada", "--wait"]);
    let error = program.fails(&["trace", "ada", "--export", "http://127.0.0.1:1"], 5);
    assert!(error.contains("http://127.0.0.1:1/v1/traces"), "{error}");
    program.fails(&["trace", "ada", "--export", "collector"], 2);
    let collector = Collector::start(Answer::Status(401));
    let error = program.fails(&["trace", "ada", "--export", &collector.url()], 4);
    assert!(error.contains("401"), "{error}");
}

/// A collector that takes one request. It returns the head of the request.
fn one_request() -> (String, JoinHandle<String>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let taken = thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        let mut head = [0; 4096];
        let length = client.read(&mut head).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8_lossy(&head[..length]).to_lowercase()
    });
    (url, taken)
}

#[test]
fn should_send_the_headers_of_the_settings_to_the_collector_of_the_settings_only() {
    let (_dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada", "--wait"]);
    let program = program.with_variable("AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY", "s3cr3t");
    let (other, taken) = one_request();
    program.done(&["trace", "ada", "--export", &other]);
    assert!(!taken.join().unwrap().contains("s3cr3t"));
    let (own, taken) = one_request();
    let program = program.with_variable("AIOS_TELEMETRY_TRACES__ENDPOINT", &own);
    program.done(&["trace", "ada", "--export", &format!("{own}/v1/traces")]);
    assert!(taken.join().unwrap().contains("x-api-key: s3cr3t"));
}

/// As for services that use the same settings.
#[test]
fn should_work_with_settings_of_a_collector_of_grpc() {
    let program = Program::new();
    fs::create_dir(program.folder().join("config")).unwrap();
    let settings = "telemetry: {traces: {endpoint: 'http://127.0.0.1:1', protocol: grpc}}";
    fs::write(program.folder().join("config/base.yaml"), settings).unwrap();
    let dev = Dev::start(&program, &[]);
    let program = program.with_variable("AIOS_API_URL", &dev.url);
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada", "--wait"]);
    let collector = Collector::start(Answer::Status(200));
    program.done(&["trace", "ada", "--export", &collector.url()]);
    assert!(!collector.spans().is_empty());
    let arguments = ["trace", "ada", "--export", &collector.url(), "--protocol", "grpc"];
    program.fails(&arguments, 5);
}
