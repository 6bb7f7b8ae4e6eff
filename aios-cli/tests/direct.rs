//! Commands that work on a store, without a service.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Dev, Program};

/// A program on a SQLite file in which `aios dev` has registered its workflows.
pub(crate) fn stopped() -> Program {
    let program = Program::new();
    let mut dev = Dev::start(&program, &[]);
    program.done(&["--url", &dev.url, "start", "approval", "\"a\"", "--id", "a"]);
    program.done(&["--url", &dev.url, "start", "welcome", "\"\"", "--id", "w"]);
    program.fails(&["--url", &dev.url, "run", "w", "--wait"], 6);
    dev.signal("-INT");
    assert!(dev.child.wait().unwrap().success());
    program.with_variable("AIOS_DATABASE_URL", "sqlite://aios.db")
}

#[test]
fn should_change_runs_that_a_service_then_continues() {
    let program = stopped();
    assert_eq!(program.json(&["runs", "--all"]).len(), 2);
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada"]);
    program.done(&["signal", "a", "approval", "true"]);
    program.done(&["pause", "a"]);
    program.done(&["resume", "a"]);
    program.done(&["retry", "w", "--new-id", "w2"]);
    program.done(&["fork", "a", "0", "--new-id", "b"]);
    program.done(&["cancel", "b"]);
    // Larger than the largest body of a service.
    let large = format!("\"{}\"", "a".repeat(3 << 20));
    fs::write(program.folder().join("large.json"), large).unwrap();
    program.done(&["start", "approval", "@large.json", "--id", "large"]);
    // The name of the file begins with the sign.
    fs::write(program.folder().join("@ada.json"), "\"ada\"").unwrap();
    program.done(&["start", "approval", "@@ada.json", "--id", "signed"]);
    assert!(program.done(&["journal", "signed"]).contains("\"ada\""));
    assert!(program.done(&["journal", "a"]).contains("workflows.approval.resumed"));

    let dev = Dev::start(&program, &[]);
    let run = |id: &str| program.ended(&["--url", &dev.url, "run", id, "--wait"]);
    assert_eq!(run("ada").stdout, "\"Hello, Ada!\"\n");
    assert_eq!(run("a").stdout, "\"a is approved\"\n");
    assert_eq!(run("w2").code, 6);
    assert_eq!(run("b").code, 6);
}

#[test]
fn should_name_the_rows_that_a_list_leaves_out() {
    let program = stopped();
    let sql = "UPDATE workflow_runs SET result = '{' WHERE external_id = 'a'";
    let path = program.folder().join("aios.db");
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let listed = program.ended(&["runs"]);
    assert!(!listed.stdout.contains("approval"), "{}", listed.stdout);
    assert!(listed.stderr.contains("can't be read: a"), "{}", listed.stderr);
    let listed = program.ended(&["runs", "--json"]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 1), "{}", listed.stderr);
    let sign: Value = serde_json::from_str(&listed.stderr).unwrap();
    assert_eq!(sign, json!({ "unreadable": ["a"] }));
}

#[test]
fn should_refuse_a_store_that_a_service_has_open() {
    let program = Program::new();
    let _dev = Dev::start(&program, &[]);
    let error = program.fails(&["--store", "sqlite://aios.db", "runs"], 5);
    assert!(error.contains("open already") && error.contains("--url"), "{error}");
}
