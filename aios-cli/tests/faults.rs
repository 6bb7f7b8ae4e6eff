//! Readers, services and stores that go away while a command works, and servers that are no service.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Stdio},
};

use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use crate::support::{Dev, Ended, Program, send, service};

/// A command that has written a line.
fn follow(program: &Program, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = program.command(arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "{arguments:?}");
    (child, lines)
}

/// Waits for the end of a command, which must not panic.
fn end(child: Child) -> Ended {
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

/// Nothing more is written that would tell a command that its reader is gone.
#[test]
fn should_end_when_the_reader_of_a_stream_does() {
    let (_dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    for arguments in [
        &["events", "tail", "--after", "0", "--pattern", "workflows.approval.started"][..],
        &["journal", "a", "--follow"],
    ] {
        let (child, lines) = follow(&program, arguments);
        drop(lines);
        let ended = end(child);
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{arguments:?}");
    }
}

#[test]
fn should_say_so_when_the_service_goes_away() {
    let (mut dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    let tail = ["events", "tail", "--after", "0", "--pattern", "workflows.approval.*", "--json"];
    let (mut tail, mut lines) = follow(&program, &tail);
    let (follow, _lines) = follow(&program, &["journal", "a", "--follow"]);
    let wait = program.command(&["run", "a", "--wait"]).spawn().unwrap();
    let address = dev.url.trim_start_matches("http://").trim_end_matches("/api/v1").to_owned();
    dev.child.kill().unwrap();
    dev.child.wait().unwrap();
    for child in [follow, wait] {
        let Ended { code, stderr, .. } = end(child);
        assert!(code == 5 && stderr.contains("aios dev"), "{code}: {stderr}");
    }
    // The log is followed until someone ends that.
    let _dev = Dev::start_at(&program, &address, &[]);
    program.done(&["signal", "a", "approval", "true"]);
    let mut line = String::new();
    while !line.contains("workflows.approval.completed") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0);
    }
    send(&tail, "-INT");
    assert_eq!(tail.wait().unwrap().code(), Some(130));
}

#[test]
fn should_say_so_when_the_store_goes_away() {
    let Some(server) = PostgresServer::start() else { return };
    let program = Program::new().with_variable("AIOS_DATABASE_URL", &server.url());
    program.done(&["migrate"]);
    let dev = Dev::start(&program, &[]);
    program.done(&["start", "approval", "\"a\"", "--id", "a", "--url", &dev.url]);
    drop(dev);
    let (follow, _lines) = follow(&program, &["journal", "a", "--follow"]);
    server.kill();
    let Ended { code, stderr, .. } = end(follow);
    assert_eq!(code, 5, "{stderr}");
    program.fails(&["runs"], 5);
}

/// Passes a GET on to a service, and calls a function before its answer is passed back.
fn pass(mut client: TcpStream, service: &str, before_answer: impl FnOnce(&str)) {
    let mut head = BufReader::new(client.try_clone().unwrap()).lines();
    let head: Vec<String> =
        head.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(first) = head.first() else { return };
    let mut outgoing = TcpStream::connect(service).unwrap();
    let request = format!("{}\r\nconnection: close\r\n\r\n", head.join("\r\n"));
    outgoing.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    outgoing.read_to_end(&mut answer).unwrap();
    before_answer(first);
    client.write_all(&answer).unwrap();
}

/// Starts a proxy of a service that answers GETs of a path itself.
fn refusing(dev: &Dev, refused: &'static [(&str, &str, &str)]) -> String {
    let address = dev.url.trim_start_matches("http://").trim_end_matches("/api/v1").to_owned();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", proxy.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in proxy.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let length = client.peek(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let answer = refused.iter().find(|(path, ..)| head.contains(path));
            let Some((_, status, code)) = answer else {
                pass(client, &address, |_| {});
                continue;
            };
            let body =
                json!({ "error": { "code": code, "message": "as the test says" } }).to_string();
            let _ = client.read(&mut [0; 4096]);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}

/// The findings of `doctor`, one of which is a fault.
fn findings(program: &Program, url: &str) -> Vec<(String, String, String)> {
    let ended = program.ended(&["doctor", "--json", "--url", url]);
    assert_eq!(ended.code, 7, "{}{}", ended.stdout, ended.stderr);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (text(&line["check"]), text(&line["status"]), text(&line["remedy"]))
    };
    ended.stdout.lines().map(line).collect()
}

#[test]
fn should_examine_the_rest_when_a_check_fails() {
    let (dev, program) = service();
    let url = refusing(
        &dev,
        &[
            (" /api/v1/engines", "403 Forbidden", "PERMISSION_DENIED"),
            (" /api/v1/dead-letters/", "503 Service Unavailable", "BROKER_TIMEOUT"),
        ],
    );
    let found = findings(&program, &url);
    let of = |check: &str| found.iter().find(|(it, ..)| it == check).unwrap();
    assert!(of("engines").1 == "fault" && of("engines").2.contains("permission"), "{found:?}");
    assert!(of("broker").1 == "fault" && of("broker").2.contains("start the broker"), "{found:?}");
    assert!(of("agents").1 == "ok" && of("runs").1 == "ok", "{found:?}");
    assert_eq!(found.iter().filter(|(_, status, _)| status == "fault").count(), 2, "{found:?}");
}

#[test]
fn should_name_the_store_that_a_service_cannot_use() {
    let Some(server) = PostgresServer::start() else { return };
    let program = Program::new().with_variable("AIOS_DATABASE_URL", &server.url());
    let dev = Dev::start(&program, &[]);
    server.kill();
    let found = findings(&program, &dev.url);
    let faults: Vec<_> = found.iter().filter(|(_, status, _)| status == "fault").collect();
    assert_eq!((faults.len(), &*faults[0].0), (1, "store"), "{found:?}");
    assert!(faults[0].2.contains("AIOS_DATABASE_URL"), "{found:?}");
    assert!(found.iter().any(|(check, ..)| check == "broker"), "{found:?}");
}

/// The run ends after its journal was read, and before anything else is asked.
#[test]
fn should_follow_a_journal_whose_run_ends_at_once_to_its_end() {
    let (dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    let address = dev.url.trim_start_matches("http://").trim_end_matches("/api/v1").to_owned();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", proxy.local_addr().unwrap());
    let following =
        program.command(&["journal", "a", "--follow", "--json", "--url", &url]).spawn().unwrap();
    std::thread::spawn(move || {
        for client in proxy.incoming().map_while(Result::ok) {
            pass(client, &address, |request| {
                if request.contains("/journal") {
                    program.done(&["signal", "a", "approval", "true"]);
                    program.done(&["run", "a", "--wait"]);
                }
            });
        }
    });
    let ended = end(following);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("workflows.approval.completed"), "{}", ended.stdout);
}

/// Ctrl-C while the service waits for its store.
#[test]
fn should_end_a_start_at_a_signal() {
    // Accepts connections, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("postgres://me@{}/a", silent.local_addr().unwrap());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let program = Program::new();
        let arguments = ["dev", "--listen", "127.0.0.1:0", "--store", &store];
        let child = program.command(&arguments).stdin(Stdio::null()).spawn().unwrap();
        let _connection = silent.accept().unwrap();
        send(&child, signal);
        assert_eq!(end(child).code, code, "{signal}");
    }
}

/// The answers of other servers, and the exit codes.
const ANSWERS: [(&str, i32); 4] = [
    ("", 5),
    ("220 mail.example ESMTP\r\n", 5),
    ("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>", 1),
    ("HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\n\r\n<html></html>", 1),
];

#[test]
fn should_refuse_a_server_that_is_not_a_service() {
    for (answer, code) in ANSWERS {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/v1", server.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut client in server.incoming().map_while(Result::ok) {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(answer.as_bytes());
            }
        });
        let program = Program::new().with_variable("AIOS_API_URL", &url);
        for arguments in [
            &["runs"][..],
            &["run", "a", "--wait"],
            &["start", "welcome"],
            &["journal", "a", "--follow"],
            &["events", "tail"],
            &["events", "tail", "--after", "0"],
            &["dead-letters", "list", "a"],
        ] {
            let error = program.fails(arguments, code);
            assert!(error.starts_with("error: "), "{arguments:?}: {error}");
        }
    }
}

/// A key may allow to start runs and not to read them, and the service may be gone after the answer.
#[test]
fn should_write_the_run_that_the_answer_names_without_reading_it_again() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", server.local_addr().unwrap());
    let time = "2030-01-31T08:00:00Z";
    let run = json!({ "data": { "id": "r7", "type": "run", "attributes": {
        "workflow": "welcome", "workflow_version": 1, "status": "running", "position": 7,
        "created_at": time, "updated_at": time,
    } } });
    let refused = json!({ "error": { "code": "PERMISSION_DENIED", "message": "m" } });
    std::thread::spawn(move || {
        for mut client in server.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let length = client.read(&mut head).unwrap();
            let (status, body) = match head[..length].starts_with(b"POST") {
                true => ("202 Accepted", run.to_string()),
                false => ("403 Forbidden", refused.to_string()),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    let program = Program::new().with_variable("AIOS_API_URL", &url);
    for arguments in [
        &["start", "welcome"][..],
        &["signal", "r7", "approval"],
        &["cancel", "r7"],
        &["pause", "r7"],
        &["resume", "r7"],
        &["retry", "r7"],
        &["fork", "r7", "2"],
    ] {
        let written = program.json(arguments);
        assert_eq!((written.len(), &written[0]["id"]), (1, &json!("r7")), "{arguments:?}");
        assert_eq!(written[0]["position"], 7);
    }
}

/// The texts of agents and of services are no commands for the terminal of their reader.
#[test]
fn should_escape_what_steers_a_terminal_in_an_error() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", server.local_addr().unwrap());
    let error = json!({ "code": "RUN_NOT_FOUND", "message": "x\u{1b}]0;title\u{7}\u{9b}2J" });
    let body = json!({ "error": error }).to_string();
    let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}", body.len());
    let answer = format!("{head}\r\nconnection: close\r\n\r\n{body}");
    std::thread::spawn(move || {
        for mut client in server.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(answer.as_bytes());
        }
    });
    let program = Program::new().with_variable("AIOS_API_URL", &url);
    let stderr = program.ended(&["run", "r1"]).stderr;
    assert!(stderr.contains(r"x\u{1b}]0;title\u{7}\u{9b}2J"), "{stderr}");
    assert!(!stderr.contains(|it: char| it.is_control() && it != '\n'), "{stderr}");
}
