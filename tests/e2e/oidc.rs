//! The example `rest-service` with tokens of `oidc-provider`, an OpenID provider of others: discovery,
//! client credentials, and a rotation of its keys.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use aios_tests::program::program;
use serde_json::Value;

const AUDIENCE: &str = "urn:tea-shop";
const HASH: &str = "d5fbebfa160b57bc27d9410939fecf08bbaf65a84a6a14487837f998db677f81";

/// A process that prints its URL, and is killed with the test.
struct Process(Child, String);

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find(|line| line.starts_with("http://"));
        Self(child, url.unwrap_or_else(|| panic!("{command:?} does not listen")))
    }

    /// Sends a request, and returns the status and the body of the answer.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let host = self.1.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\n{headers}\r\n");
        write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The provider of the tests of the service, installed. `None` if there is no Node.js.
fn provider() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aios-service/tests/oidc-provider");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider");
    fs::create_dir_all(&folder).unwrap();
    for file in ["package.json", "package-lock.json", "provider.mjs"] {
        fs::copy(sources.join(file), folder.join(file)).unwrap();
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--prefer-offline"]).current_dir(&folder);
    let Ok(output) = npm.stdin(Stdio::null()).output() else {
        aios_tests::skip("npm is not installed");
        return None;
    };
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

fn token(provider: &Process) -> String {
    let form = "grant_type=client_credentials&client_id=tea&scope=runs:read\
                &client_secret=the+secret+of+the+tests";
    let kind = "content-type: application/x-www-form-urlencoded";
    let (status, body) = provider.ask("POST", "/token", kind, form);
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn should_let_in_callers_with_tokens_of_a_provider_whose_keys_rotate() {
    let Some(folder) = provider() else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |key: &str| {
        let mut node = Command::new("node");
        Process::start(node.args(["provider.mjs", &port, key, AUDIENCE]).current_dir(&folder))
    };
    let issuer = start("one");
    let orders = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("rest-service"));
    command.args(["127.0.0.1:0", HASH, &issuer.1, AUDIENCE]).current_dir(orders.path());
    let service = Process::start(&mut command);
    let get = |path: &str, token: &str| {
        service.ask("GET", path, &format!("authorization: Bearer {token}"), "")
    };
    assert_eq!(service.ask("POST", "/orders/7", "accept: */*", "tea").0, 202);
    let first = token(&issuer);
    let (status, run) = get("/api/v1/runs/order-7", &first);
    assert_eq!((status, &run["data"]["attributes"]["workflow"]), (200, &"order".into()), "{run}");
    assert_eq!(get("/api/v1/tasks", &first).0, 403);
    assert_eq!(get("/api/v1/runs/order-7", "no.token.at-all").0, 401);

    drop(issuer);
    assert_eq!(get("/api/v1/runs/order-7", &first).0, 200, "known keys are kept");
    let issuer = start("two");
    let second = token(&issuer);
    // The service asks for unknown keys once in a second.
    let answered = (0..60).map(|_| {
        thread::sleep(Duration::from_secs(1));
        get("/api/v1/runs/order-7", &second).0
    });
    assert!(answered.into_iter().any(|status| status == 200), "the new key is not found");
    assert_eq!(get("/api/v1/runs/order-7", &first).0, 401, "the old key is withdrawn");
}
