//! Commands that maintain a store.

use std::fs;

use aios_tests::postgres::PostgresServer;

use crate::{
    direct::stopped,
    support::{Dev, Program},
};

#[test]
fn should_create_a_store_once() {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", "sqlite://a.db");
    let error = program.fails(&["runs"], 2);
    assert!(error.contains("aios migrate"), "{error}");
    assert!(!program.folder().join("a.db").exists());
    assert!(program.done(&["migrate"]).contains("from version 0"));
    assert!(program.done(&["migrate"]).contains("current"));
    assert!(program.json(&["runs"]).is_empty());
}

#[test]
fn should_copy_a_store_that_is_in_use() {
    let program = Program::new();
    let dev = Dev::start(&program, &[]);
    let start = |id: &str| {
        program.done(&["--url", &dev.url, "start", "approval", "\"a\"", "--id", id]);
    };
    start("a");
    let store = ["--store", "sqlite://aios.db"];
    program.done(&[&["backup", "copy.db"][..], &store].concat());
    start("b");
    program.fails(&[&["backup", "copy.db"][..], &store].concat(), 2);
    let copy = ["--store", "sqlite://copy.db"];
    let ids: Vec<_> = program
        .json(&[&["runs"][..], &copy].concat())
        .into_iter()
        .map(|run| run["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["a"]);
    assert!(program.done(&[&["verify"][..], &copy].concat()).contains("checked"));
    program.fails(&["backup", "c.db", "--store", "sqlite://nothing.db"], 2);
    let error = program.fails(&[&["backup", "nowhere/copy.db"][..], &store].concat(), 2);
    assert!(error.contains("there is no folder nowhere; create it first"), "{error}");
    let error = program.fails(&[&["backup", "copy.db/copy.db"][..], &store].concat(), 2);
    assert!(error.contains("copy.db"), "{error}");
}

#[test]
fn should_find_and_rebuild_read_models_that_differ() {
    let program = stopped();
    program.done(&["verify"]);
    let sql = "UPDATE workflow_runs SET status = 'paused' WHERE external_id = 'a'";
    let path = program.folder().join("aios.db");
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let ended = program.ended(&["verify"]);
    assert_eq!(ended.code, 7, "{}", ended.stderr);
    assert!(ended.stdout.contains("row a of the table workflow_runs"), "{}", ended.stdout);
    assert!(ended.stderr.contains("aios rebuild"), "{}", ended.stderr);
    assert!(program.fails(&["rebuild"], 1).contains("--yes"));
    program.done(&["rebuild", "--yes"]);
    program.done(&["verify"]);
}

#[test]
fn should_remove_old_runs_only_with_consent() {
    let program = stopped();
    let retain = ["retain", "--older-than", "0s", "--compact"];
    assert!(program.fails(&retain, 1).contains("--yes"));
    // Events stay until an engine has published them, which `aios dev` may have had no time for.
    let removed = (0..10).any(|_| {
        let removed = &program.json(&[&retain[..], &["--yes"]].concat())[0];
        if removed["runs"] == 0 {
            let mut dev = Dev::start(&program, &[]);
            dev.signal("-INT");
            assert!(dev.child.wait().unwrap().success());
        }
        removed["runs"] == 1
    });
    assert!(removed, "the relay publishes a part of the events in each process");
    assert_eq!(program.json(&["runs"]).len(), 1);
    let ended = program.ended(&["verify"]);
    assert_eq!(ended.code, 7, "{}", ended.stdout);
    assert!(ended.stderr.contains("--retained"), "{}", ended.stderr);
    program.done(&["verify", "--retained"]);
}

#[test]
fn should_refuse_a_store_newer_than_the_program() {
    let program = stopped();
    let path = program.folder().join("aios.db");
    let sql = "INSERT INTO aios_migrations (version, name, created_at) VALUES (9999, 'later', 0)";
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    for arguments in [
        &["runs"][..],
        &["migrate"],
        &["verify"],
        &["rebuild", "--yes"],
        &["dev", "--listen", "127.0.0.1:0"],
    ] {
        let error = program.fails(arguments, 1);
        assert!(
            error.contains("schema version 9999") && error.contains("or a later one"),
            "{error}"
        );
    }
    assert!(program.ended(&["doctor"]).stdout.contains("FAULT  schema"));
}

#[test]
fn should_refuse_a_file_that_is_not_a_database() {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", "sqlite://a.db");
    fs::write(program.folder().join("a.db"), "this is not a database, but a text").unwrap();
    for arguments in [&["runs"][..], &["verify"], &["migrate"], &["backup", "b.db"]] {
        let error = program.fails(arguments, 1);
        assert!(error.contains("a.db is corrupt"), "{error}");
    }
}

#[test]
fn should_work_directly_on_postgres() {
    let Some(server) = PostgresServer::start() else { return };
    on_postgres(&server.url());
}

fn on_postgres(url: &str) {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", url);
    program.fails(&["runs"], 2);
    program.done(&["migrate"]);
    let dev = Dev::start(&program, &[]);
    // Works on the store while the service does, whose engine continues the runs.
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    program.done(&["signal", "a", "approval", "true"]);
    assert_eq!(program.done(&["run", "a", "--wait"]), "\"a is approved\"\n");
    assert_eq!(program.json(&["engines"]).len(), 1);
    drop(dev);
    program.done(&["verify"]);
    program.done(&["rebuild", "--yes"]);
    program.done(&["verify"]);
}
