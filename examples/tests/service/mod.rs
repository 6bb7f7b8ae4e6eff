use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// The program, which is stopped with the test.
struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    command
}

impl Service {
    fn start(folder: &Path) -> Self {
        Self::start_with(&mut command(folder))
    }

    fn start_with(command: &mut Command) -> Self {
        let mut process = command
            .env("AIOS_DATABASE_URL", "sqlite://service.db")
            .env("AIOS_BROKER_URL", "memory://")
            .env("AIOS_HTTP_LISTEN", "127.0.0.1:0")
            .env("AIOS_SHUTDOWN_ACCEPT_DELAY", "2s")
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { process, output, address }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        let kind = "content-type: application/json";
        let request = format!("{head}{kind}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "")
    }

    fn start_run(&self, id: &str) {
        let body = format!(r#"{{"input": "Ada", "run_id": "{id}"}}"#);
        let started = self.ask("POST", "/api/v1/workflows/welcome/actions/execute", &body);
        assert_eq!(started.0, 202, "{}", started.1);
    }

    /// Ends the program with SIGTERM, and checks that it reports so before it takes no more
    /// connections.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        while self.get("/health/ready").0 == 200 {}
        assert_eq!(self.get("/health/live").0, 200);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), self.process.wait().unwrap().code()), ("stopped\n", Some(0)));
        assert!(TcpStream::connect(&self.address).is_err());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn should_serve_from_settings_and_end_in_order_at_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    assert_eq!(service.get("/hello"), (200, "my own route".to_owned()));
    assert_eq!(service.get("/health/ready").0, 200);
    service.start_run("r1");
    service.stop();

    let service = Service::start(folder.path());
    let (status, result) = service.get("/api/v1/runs/r1/result?wait=20s");
    assert_eq!(status, 200);
    assert!(result.contains("Hello, Ada!"), "{result}");
    let (_, journal) = service.get("/api/v1/runs/r1/journal");
    assert_eq!(journal.matches("agents.greeter.task_completed").count(), 1, "{journal}");
    service.stop();
}

#[test]
fn should_name_the_variable_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path()).env("AIOS_HTTP_LISTEN", "127.0.0.1:0").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("AIOS_DATABASE_URL"), "{error}");
}

#[test]
fn should_take_a_new_level_at_sighup_and_log_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        std::fs::create_dir_all(folder.path().join("config")).unwrap();
        std::fs::write(folder.path().join("config/base.yaml"), text).unwrap();
    };
    write("log:\n  level: warn\n");
    let path = folder.path().join("service.log");
    let log = std::fs::File::create(&path).unwrap();
    let service = Service::start_with(command(folder.path()).stderr(log));
    let hang_up = || kill_process(Pid::from_child(&service.process), Signal::HUP).unwrap();
    let has = |text: &str| std::fs::read_to_string(&path).unwrap().contains(text);
    write("log:\n  level: loud\n");
    hang_up();
    while !has("expected one of off, error, warn") {}
    write("log:\n  level: info\n");
    hang_up();
    while !has(r#""key":"log.level","before":"warn","after":"info""#) {}
    service.stop();
    assert!(has("the service has stopped"));
}

#[test]
fn should_continue_when_no_process_reads_the_log_or_the_disk_is_full() {
    let full = || Stdio::from(std::fs::File::create("/dev/full").unwrap());
    for log in [Stdio::piped(), full()] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        let service = Service::start_with(command.env("AIOS_LOG_LEVEL", "trace").stderr(log));
        for number in 0..20 {
            service.start_run(&format!("r{number}"));
        }
        let (status, result) = service.get("/api/v1/runs/r19/result?wait=20s");
        assert!(status == 200 && result.contains("Hello, Ada!"), "{result}");
        service.stop();
    }
}
