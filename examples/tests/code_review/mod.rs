use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn code_review(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_code-review");
    Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn should_write_the_same_report_again_even_into_the_tree_it_reviews() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.rs"), "// TODO: more\nfn a() {}\n").unwrap();
    fs::write(folder.path().join("b.bin"), b"\0\xff").unwrap();
    let report = || {
        let output = code_review(folder.path(), &["."]);
        assert!(output.status.success(), "{output:?}");
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        (read("report.json"), read("report.md"))
    };
    let first = report();
    assert_eq!(first, report());
    assert!(first.0.contains("\"b.bin\"") && first.1.contains("a.rs:1"));
    assert!(!first.0.contains(folder.path().to_str().unwrap()));
}

#[test]
fn should_refuse_a_missing_path_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = code_review(folder.path(), &["gone"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("code-review: can't read gone: "), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn should_add_the_remarks_of_a_model_and_keep_secrets_from_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tree")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join("tree").join(name), text);
    write("a.rs", "fn a() {\n    b().unwrap();\n}\n").unwrap();
    let secret = concat!("hunter2", "Xy!q9");
    write("b.rs", &format!("// password = \"{secret}\"\nfn b() {{ c().unwrap() }}\n")).unwrap();
    write("c.rs", &"// long\n".repeat(10_000)).unwrap();
    let output = code_review(folder.path(), &["tree", "--model", "offline"]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(text.contains("## Remarks of the model (1)\n"), "{text}");
    assert!(text.contains("- `a.rs:2` `` `unwrap` may panic. ``\n"), "{text}");
    assert!(text.contains("- `b.rs` not reviewed by the model: `it has likely secrets`"), "{text}");
    assert!(text.contains("- `c.rs` not reviewed by the model: `it is too large`"), "{text}");
    let state = fs::read(folder.path().join("code-review.db")).unwrap();
    assert!(!state.windows(secret.len()).any(|part| part == secret.as_bytes()));

    let output = code_review(folder.path(), &["tree", "--model", "gpt"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("gpt is no model: write <provider>:<model>, or offline"), "{message}");
}

/// `code-review serve`, which is ended with the test.
struct Served {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Served {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_code-review"))
            .args(["serve", "--listen", "127.0.0.1:0", "--root", "trees"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { process, output, address }
    }

    /// Sends a request, and returns the status and the body of the answer, once it has ended.
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

    fn review(&self, path: &str) -> String {
        let (status, body) = self.ask("POST", "/reviews", &format!(r#"{{"path": "{path}"}}"#));
        assert_eq!(status, 202, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["id"].as_str().unwrap().to_owned()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), self.process.wait().unwrap().code()), ("stopped\n", Some(0)));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn should_start_show_and_stream_reviews_over_http() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("trees/one")).unwrap();
    fs::write(folder.path().join("trees/one/a.rs"), "// TODO: more\nfn a() {}\n").unwrap();
    let served = Served::start(folder.path());
    let id = served.review("one");
    // The stream ends with the review.
    let (status, events) = served.ask("GET", &format!("/api/v1/runs/{id}/events"), "");
    assert_eq!(status, 200);
    assert!(events.contains("agents.analyzer.task_completed"), "{events}");
    assert!(events.contains("workflows.code_review.completed"), "{events}");
    let (status, run) = served.ask("GET", &format!("/api/v1/runs/{id}"), "");
    assert_eq!(status, 200);
    assert!(run.contains(r#""status":"completed""#), "{run}");
    let (status, report) = served.ask("GET", &format!("/reviews/{id}/report"), "");
    assert_eq!(status, 200);
    assert!(report.contains("a.rs:1"), "{report}");
    served.stop();

    let served = Served::start(folder.path());
    let (status, again) = served.ask("GET", &format!("/reviews/{id}/report"), "");
    assert_eq!((status, again), (200, report));
    assert_ne!(served.review("one"), id, "a completed review is not reviewed again");
    for (path, status) in [("..", 403), ("/", 403), ("gone", 400)] {
        let (answered, body) = served.ask("POST", "/reviews", &format!(r#"{{"path": "{path}"}}"#));
        assert_eq!(answered, status, "{path}: {body}");
    }
    assert_eq!(served.ask("GET", "/reviews/gone/report", "").0, 404);
    served.stop();
}
