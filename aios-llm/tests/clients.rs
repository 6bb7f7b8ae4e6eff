//! The official clients of providers for Node.js understand the provider for tests.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use aios_llm::{
    ModelResponse,
    model::{Part, Usage},
    testing::{FakeProvider, FakeReply},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::text;

/// Requests that succeed: three protocols, whole and as streams.
const SUCCESSES: usize = 6;
/// Requests for each fault.
const PROTOCOLS: usize = 3;

/// Installs the clients. `None` if there is no npm.
async fn installed() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("llm-clients");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["package.json", "package-lock.json", "clients.mjs"] {
        std::fs::copy(sources.join(file), folder.join(file)).unwrap();
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--prefer-offline"]).current_dir(&folder);
    let Ok(output) = npm.stdin(Stdio::null()).output().await else {
        aios_tests::skip("npm is not installed");
        return None;
    };
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

/// A fault, and the names of the errors of the clients for chat completions, responses and messages.
fn faults() -> Vec<(FakeReply, [&'static str; PROTOCOLS])> {
    let overloaded = ["InternalServerError", "InternalServerError", "OverloadedError"];
    vec![
        (FakeReply::rate_limited(Duration::from_secs(1)), ["RateLimitError"; PROTOCOLS]),
        (FakeReply::context_overflow(), ["BadRequestError"; PROTOCOLS]),
        (FakeReply::status(401, "wrong key"), ["AuthenticationError"; PROTOCOLS]),
        (FakeReply::overloaded(), overloaded),
        (FakeReply::malformed(), ["SyntaxError"; PROTOCOLS]),
        (FakeReply::cut_off(text("never"), 0), ["TypeError"; PROTOCOLS]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_the_official_clients_for_node() {
    let Some(folder) = installed().await else { return };
    let rich = ModelResponse::new(vec![
        Part::text("Let me look, ünïcode too."),
        Part::tool_call("call_1", "search", &json!({"words": "rust"})),
        Part::tool_call("call_2", "search", &json!({"words": "sqlite"})),
    ])
    .with_usage(Usage::new(120, 30));
    let successes = (0..SUCCESSES).map(|_| FakeReply::response(rich.clone()));
    let failures = faults().into_iter().flat_map(|(reply, _)| vec![reply; PROTOCOLS]);
    let provider = FakeProvider::start(successes.chain(failures)).await.unwrap();
    let mut node = Command::new("node");
    node.args(["clients.mjs", &provider.openai_url(), &provider.anthropic_url()]);
    let output = node.current_dir(&folder).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    provider.assert_finished();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let understood = json!({
        "text": "Let me look, ünïcode too.",
        "calls": [{"words": "rust"}, {"words": "sqlite"}],
        "usage": [120, 30],
    });
    assert_eq!(printed["understood"], Value::Array(vec![understood; SUCCESSES]));
    let names: Vec<_> = faults().into_iter().map(|(_, names)| names).collect();
    assert_eq!(printed["faults"], json!(names));
}
