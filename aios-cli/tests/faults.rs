//! Readers, services and stores that go away while a command works, and servers that are no service.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Stdio},
};

use aios_tests::postgres::PostgresServer;

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
fn should_refuse_a_server_that_is_no_service() {
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
