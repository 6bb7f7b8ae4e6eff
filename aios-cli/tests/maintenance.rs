//! Commands that maintain a store.

use std::{fs, time::Duration};

use aios_core::{
    event::Event,
    store::{Append, EventStoreExt, Store, StreamId},
};
use aios_store::{AnyStore, Retention};
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

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

/// Commands on a store never take the store of the settings when a service is named.
#[test]
fn should_refuse_a_service_for_commands_on_a_store() {
    let program = stopped();
    let service = ["--url", "http://127.0.0.1:1/api/v1"];
    for arguments in [
        &["retain", "--older-than", "0s", "--yes"][..],
        &["rebuild", "--yes"],
        &["readers"],
        &["readers", "retire", "relay", "--yes"],
        &["migrate"],
        &["verify"],
        &["backup", "copy.db"],
    ] {
        let error = program.fails(&[arguments, &service].concat(), 2);
        assert!(error.contains("--url") && error.contains("on a store"), "{error}");
    }
    assert!(!program.folder().join("copy.db").exists());
    assert_eq!(program.json(&["runs"]).len(), 2);
}

#[test]
fn should_name_the_store_before_it_is_changed() {
    let url = "postgres://me:hunter2@127.0.0.1:1/shop";
    let program = Program::new().with_variable("AIOS_DATABASE_URL", url);
    for arguments in [&["retain", "--older-than", "0s"][..], &["rebuild"]] {
        let error = program.fails(arguments, 1);
        assert!(error.contains("postgres://me:***@127.0.0.1:1/shop"), "{error}");
    }
}

#[test]
fn should_say_all_that_retention_will_remove() {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", "sqlite://a.db");
    let ages =
        ["--older-than", "720h", "--outputs-older-than", "5m", "--requests-older-than", "90m"];
    let question = program.fails(&[&["retain", "--archive"][..], &ages].concat(), 1);
    for part in [
        "archive the runs that ended more than 30d ago",
        "permanently delete output streams of ended runs older than 5m",
        "idempotency keys older than 1h 30m",
    ] {
        assert!(question.contains(part), "{question}");
    }
    let question = program.fails(&["retain", "--older-than", "720h"], 1);
    assert!(question.contains("permanently delete the runs"), "{question}");
    assert_eq!(question.matches("30d").count(), 3, "{question}");
}

#[test]
fn should_report_what_was_removed_before_a_failure() {
    let program = stopped();
    let sql = "CREATE TRIGGER kept BEFORE DELETE ON streams WHEN OLD.name LIKE 'system/requests/%'
               BEGIN SELECT RAISE(ABORT, 'this row is kept'); END";
    let path = program.folder().join("aios.db");
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let retain = ["retain", "--older-than", "0s", "--yes"];
    let ended = program.ended(&[&retain[..], &["--json"]].concat());
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    let removed: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(removed["runs"].is_u64() && removed["outputs"].is_u64(), "{removed}");
    assert!(removed["requests"].is_null(), "{removed}");
    let ended = program.ended(&retain);
    assert!(ended.stdout.starts_with("removed 0 runs"), "{}{}", ended.stdout, ended.stderr);
    assert!(!ended.stdout.contains("idempotency keys"), "{}", ended.stdout);
}

async fn append(store: &dyn Store, stream: &str, event_type: &str) {
    let data = json!({ "version": 1, "result": 1 });
    let event = Event::new(event_type.parse().unwrap(), "test", &data).unwrap();
    let append = Append::new(StreamId::new(stream).unwrap(), vec![event]);
    store.append_one(append).await.unwrap();
}

/// Removed runs whose events were between those of a run that is kept leave a gap each.
#[tokio::main(flavor = "current_thread")]
async fn remove_interleaved_runs(url: &str) {
    let opened = AnyStore::connect(url).await.unwrap();
    let store = opened.store();
    append(&*store, "runs/kept", "workflows.deploy.started").await;
    for run in 0..120 {
        let run = format!("runs/{run}");
        append(&*store, &run, "workflows.deploy.started").await;
        append(&*store, &run, "workflows.deploy.completed").await;
        append(&*store, "runs/kept", "workflows.deploy.signaled").await;
    }
    let policy = Retention::new(Duration::ZERO).with_pause(Duration::ZERO);
    assert_eq!(opened.expire_runs(&policy).await.unwrap(), 120);
    store.close().await.unwrap();
}

#[test]
fn should_find_a_missing_event_among_many_gaps() {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", "sqlite://a.db");
    let path = program.folder().join("a.db");
    remove_interleaved_runs(&format!("sqlite:{}", path.display()));
    program.done(&["verify", "--retained"]);
    let all = program.ended(&["verify"]);
    assert!(all.stdout.contains("20 more gaps"), "{}", all.stdout);
    assert!(all.stderr.contains("120 faults"), "{}", all.stderr);

    let sql = "DELETE FROM events WHERE position = (SELECT max(position) FROM events
               WHERE position < (SELECT max(position) FROM events))";
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let ended = program.ended(&["verify", "--retained"]);
    assert_eq!(ended.code, 7, "{}", ended.stdout);
    assert!(ended.stdout.contains("stream runs/kept has version"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("gaps"), "{}", ended.stdout);
    assert!(ended.stderr.contains("1 fault;"), "{}", ended.stderr);
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
    program.fails(&["retain", "--older-than", "0s", "--compact", "--yes"], 2);
    assert_eq!(program.json(&["runs"]).len(), 1);
    program.done(&["verify"]);
    program.done(&["rebuild", "--yes"]);
    program.done(&["verify"]);
}
