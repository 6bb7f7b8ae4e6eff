use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

const KEY: &str = "x-api-key: the key of the operator";
/// The SHA-256 of the key.
const HASH: &str = "d5fbebfa160b57bc27d9410939fecf08bbaf65a84a6a14487837f998db677f81";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rest_service/keys.json");
/// A token of Grace with the role `operator` until 2100. Its private key no longer exists.
const TOKEN: &str = include_str!("token.txt");

/// The program, which is stopped with the test.
struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rest-service"));
        command.args(["127.0.0.1:0", HASH, KEYS]).current_dir(folder).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { process, output, address }
    }

    /// Sends a request, and returns the status and the body of the answer.
    fn ask(&self, method: &str, path: &str, header: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        let request = format!("{head}content-length: {length}\r\n{header}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn get(&self, path: &str, header: &str) -> (u16, String) {
        self.ask("GET", path, header, "")
    }

    fn post(&self, path: &str, body: &str) -> u16 {
        self.ask("POST", path, "accept: */*", body).0
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), self.process.wait().unwrap().code()), ("stopped\n", Some(0)));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn should_serve_own_routes_beside_the_api_and_resume_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let order = "/api/v1/runs/order-7";
    let token = format!("authorization: Bearer {}", TOKEN.trim());
    let service = Service::start(folder.path());
    assert_eq!(service.get("/health/ready", KEY).0, 200);
    assert_eq!(service.post("/orders/7", "tea"), 202);
    assert_eq!(service.post("/orders/7", "coffee"), 409);
    assert_eq!(service.post("/payments/8", "500"), 404);
    assert_eq!(service.get("/api/v1/me", &token).0, 200);
    for (header, status) in [(KEY, 200), (token.as_str(), 200), ("x-api-key: another", 401)] {
        let (answered, run) = service.get(order, header);
        assert_eq!(answered, status, "{header}: {run}");
    }
    assert_eq!(service.get("/api/v1/tasks", KEY).0, 403);
    service.stop();

    let service = Service::start(folder.path());
    assert_eq!(service.post("/payments/7", "500"), 202);
    let (status, result) = service.get(&format!("{order}/result?wait=20s"), &token);
    assert_eq!(status, 200);
    assert!(result.contains("tea was paid with 500"), "{result}");
    service.stop();
}

#[test]
fn should_explain_its_arguments() {
    let output = Command::new(env!("CARGO_BIN_EXE_rest-service")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("LISTEN"));
}
