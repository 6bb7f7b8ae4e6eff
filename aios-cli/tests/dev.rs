//! `aios dev`, and commands over its API.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Dev, Program, send, service};

#[test]
fn should_start_signal_and_show_runs() {
    let (_dev, program) = service();
    assert_eq!(program.done(&["start", "welcome", "\"Ada\"", "--wait"]), "\"Hello, Ada!\"\n");
    let started = program.done(&["start", "approval", "\"release 1\"", "--id", "release-1"]);
    assert_eq!(started, "started release-1\n");
    assert_eq!(program.done(&["signal", "release-1", "approval", "true"]), "signaled release-1\n");
    assert_eq!(program.done(&["run", "release-1", "--wait"]), "\"release 1 is approved\"\n");

    let shown = program.done(&["run", "release-1"]);
    assert!(shown.contains("completed") && shown.contains("\"release 1 is approved\""), "{shown}");
    let run = &program.json(&["run", "release-1"])[0];
    assert_eq!((&run["id"], &run["status"]), (&json!("release-1"), &json!("completed")));

    let listed = program.done(&["runs"]);
    assert!(listed.starts_with("RUN") && listed.contains("approval@1"), "{listed}");
    assert_eq!(program.json(&["runs"]).len(), 2);
    let filtered = program.json(&["runs", "--workflow", "approval", "--status", "completed"]);
    assert_eq!(filtered.len(), 1);
    assert_eq!(program.json(&["runs", "--limit", "1"]).len(), 1);
    let first = program.ended(&["runs", "--limit", "1"]);
    assert!(first.stderr.contains("more with --after"), "{}", first.stderr);
    let first = program.ended(&["runs", "--limit", "1", "--json"]);
    let sign: Value = serde_json::from_str(&first.stderr).unwrap();
    let after = sign["next"].as_str().unwrap();
    let second = program.ended(&["runs", "--limit", "1", "--json", "--after", after]);
    let ids = |listed: &str| serde_json::from_str::<Value>(listed).unwrap()["id"].clone();
    assert_ne!(ids(&first.stdout), ids(&second.stdout));
    assert_eq!(second.stderr, "", "the list has ended");
}

#[test]
fn should_show_and_follow_a_journal() {
    let (_dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    let follow = ["journal", "a", "--follow", "--json"];
    let mut following = program.command(&follow).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["event"]["type"], "workflows.approval.started");
    program.done(&["signal", "a", "approval", "false"]);
    let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!(last["event"]["type"], "workflows.approval.completed");
    assert!(following.wait().unwrap().success());
    let shown = program.done(&["journal", "a"]);
    assert!(shown.contains("workflows.approval.signaled"), "{shown}");
}

#[test]
fn should_pause_resume_cancel_retry_and_fork() {
    let (_dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    assert_eq!(program.json(&["pause", "a"])[0]["status"], "paused");
    assert_eq!(program.json(&["resume", "a"])[0]["status"], "running");
    program.done(&["cancel", "a", "--reason", "not needed"]);
    let error = program.fails(&["run", "a", "--wait"], 6);
    assert!(error.contains("not needed"), "{error}");
    program.done(&["start", "approval", "\"t\"", "--id", "t"]);
    program.done(&["cancel", "t", "--terminate"]);
    program.fails(&["run", "t", "--wait"], 6);
    let ended = program.json(&["run", "t"]);
    let failure = &ended[0]["failure"];
    assert_eq!(failure["details"]["terminated"], "cancelled by an operator", "{ended:?}");

    program.done(&["start", "welcome", "\"\"", "--id", "w"]);
    let error = program.fails(&["run", "w", "--wait"], 6);
    assert!(error.contains("NO_NAME"), "{error}");
    assert_eq!(program.done(&["retry", "w", "--new-id", "w2"]), "started w2\n");
    program.fails(&["run", "w2", "--wait"], 6);
    assert_eq!(program.done(&["fork", "w", "0", "--new-id", "w3"]), "started w3\n");
    program.fails(&["run", "w3", "--wait"], 6);
    assert!(program.fails(&["fork", "w", "99"], 3).contains("OPERATION_NOT_FOUND"));
}

#[test]
fn should_end_at_a_signal_and_keep_its_runs() {
    for (signal, code) in [("-INT", 0), ("-TERM", 0)] {
        let program = Program::new();
        let mut dev = Dev::start(&program, &[]);
        program.done(&["--url", &dev.url, "start", "approval", "\"a\"", "--id", "a"]);
        dev.signal(signal);
        assert_eq!(dev.child.wait().unwrap().code(), Some(code), "{signal}");
        let mut rest = String::new();
        dev.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        let runs = program.json(&["--store", "sqlite://aios.db", "runs"]);
        assert_eq!(runs[0]["status"], "running");
    }
}

#[test]
fn should_end_every_command_at_a_signal() {
    let (_dev, program) = service();
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for arguments in [
            &["journal", "a", "--follow"][..],
            &["run", "a", "--wait"],
            &["start", "approval", "-"],
        ] {
            let mut command = program.command(arguments);
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
            // Held, because `Child::wait` closes it, and `start` would read the end of its input.
            let _input = child.stdin.take();
            if arguments.contains(&"--follow") {
                let mut line = String::new();
                BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            } else {
                wait_for_handler(child.id());
            }
            send(&child, signal);
            assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?} {signal}");
        }
    }
}

/// The program waits in a system call, not for a future.
#[test]
fn should_end_at_a_signal_while_it_is_blocked() {
    let (_dev, program) = service();
    let pipe = program.folder().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let input = format!("\"{}\"", "a".repeat(1 << 20));
    fs::write(program.folder().join("large.json"), input).unwrap();
    program.done(&["start", "approval", "@large.json", "--id", "large"]);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = program.command(&["start", "approval", "@pipe"]).spawn().unwrap();
        // The program has opened the pipe for reading, and reads until the pipe is closed.
        let _input = fs::File::options().write(true).open(&pipe).unwrap();
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "start {signal}");

        let mut child = program.command(&["journal", "large", "--json"]).spawn().unwrap();
        // The output is larger than a pipe that is not read.
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "journal {signal}");
    }
}

/// Waits until a program handles SIGINT and SIGTERM itself.
fn wait_for_handler(process: u32) {
    loop {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        if caught & (1 << 1) != 0 && caught & (1 << 14) != 0 {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn should_end_quietly_when_its_reader_does() {
    let (_dev, program) = service();
    for number in 0..20 {
        program.done(&["start", "approval", "\"a\"", "--id", &format!("run-{number}")]);
    }
    let mut child = program.command(&["runs"]).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}
