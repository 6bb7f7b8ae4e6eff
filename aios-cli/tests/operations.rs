//! Commands that look at a service and repair it.

use std::{
    fs,
    io::{BufRead, BufReader},
};

use serde_json::Value;

use crate::support::{Program, service};

#[test]
fn should_list_agents_tasks_and_engines() {
    let (_dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--id", "ada", "--wait"]);
    let agents = program.json(&["agents", "--type", "greeter"]);
    assert_eq!((agents.len(), &agents[0]["agent_type"]), (1, &Value::from("greeter")));
    assert!(program.done(&["agents"]).starts_with("AGENT"));
    let tasks = program.json(&["tasks", "--run", "ada", "--status", "completed"]);
    assert_eq!((tasks.len(), &tasks[0]["run_id"]), (1, &Value::from("ada")));
    assert!(program.json(&["tasks", "--status", "failed"]).is_empty());
    let engines = program.json(&["engines"]);
    assert_eq!(engines.len(), 1);
    assert_eq!(engines[0]["shards"].as_array().unwrap().len(), 64);
    assert!(program.done(&["engines"]).starts_with("ENGINE"));
}

#[test]
fn should_follow_the_events_of_the_log() {
    let (_dev, program) = service();
    let arguments =
        ["events", "tail", "--after", "0", "--pattern", "workflows.*.completed", "--json"];
    let mut following = program.command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    for id in ["a", "b"] {
        program.done(&["start", "welcome", "\"Ada\"", "--id", id, "--wait"]);
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["stream"], format!("runs/{id}"));
        assert_eq!(event["event"]["type"], "workflows.welcome.completed");
    }
    crate::support::send(&following, "-INT");
    assert_eq!(following.wait().unwrap().code(), Some(130));
}

#[test]
fn should_list_redrive_and_purge_dead_letters() {
    let (_dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--wait"]);
    assert!(program.json(&["dead-letters", "list", "agents.greeter"]).is_empty());
    for action in ["redrive", "purge"] {
        let arguments = ["dead-letters", action, "agents.greeter", "--all"];
        let error = program.fails(&arguments, 1);
        assert!(error.contains("--yes") && error.contains("agents.greeter"), "{error}");
        let done = program.json(&[&arguments[..], &["--yes"]].concat());
        assert_eq!(done[0]["count"], 0);
    }
    program.fails(&["dead-letters", "show", "agents.greeter", "nothing"], 3);
    program.fails(&["dead-letters", "list", "agents.unknown"], 3);
}

#[test]
fn should_find_nothing_wrong_with_a_sound_service() {
    let (_dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--wait"]);
    let report = program.done(&["doctor"]);
    assert!(!report.contains("FAULT") && report.contains("1 alive, 0 of 64"), "{report}");
}

#[test]
fn should_find_what_is_wrong_and_say_what_to_do() {
    let program = Program::new();
    let findings = |program: &Program, arguments: &[&str]| -> Vec<Value> {
        let ended = program.ended(&[&["doctor", "--json"], arguments].concat());
        assert_eq!(ended.code, 7, "{}{}", ended.stdout, ended.stderr);
        let lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["status"] == "fault").collect()
    };
    let unreachable = findings(&program, &["--url", "http://127.0.0.1:1/api/v1"]);
    assert_eq!(unreachable[0]["check"], "service");

    let store = ["--store", "sqlite://a.db"];
    let missing = findings(&program, &store);
    assert_eq!((&missing[0]["check"], missing.len()), (&Value::from("schema"), 1));
    assert!(missing[0]["remedy"].as_str().unwrap().contains("aios migrate"));
    program.done(&["migrate", "--store", "sqlite://a.db"]);
    assert_eq!(findings(&program, &store)[0]["check"], "engines");

    fs::write(program.folder().join("a.db"), "this is not a database, but a text").unwrap();
    assert_eq!(findings(&program, &store)[0]["check"], "store");

    fs::create_dir(program.folder().join("config")).unwrap();
    fs::write(program.folder().join("config/base.yaml"), "log: {level: loud}").unwrap();
    assert_eq!(findings(&program, &store)[0]["check"], "settings");
}

#[test]
fn should_check_and_show_the_configuration() {
    let program =
        Program::new().with_variable("AIOS_BROKER_URL", "amqp://me:hunter2@broker.example");
    fs::create_dir(program.folder().join("config")).unwrap();
    let file = program.folder().join("config/base.yaml");
    fs::write(&file, "log: {level: debug}\nmail: {host: a}\n").unwrap();
    assert!(program.done(&["config", "check"]).contains("mail"));
    let shown = program.done(&["config", "show"]);
    assert!(shown.contains("config/base.yaml:1") && shown.contains("AIOS_BROKER_URL"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let schema: Value = serde_json::from_str(&program.done(&["config", "schema"])).unwrap();
    assert!(
        schema["properties"]["api"].is_object() && schema["properties"]["database"].is_object()
    );
    fs::write(&file, "log: {level: loud}\ndatabase: {ur: a}\n").unwrap();
    let report = program.fails(&["config", "check"], 2);
    assert!(report.contains("2 faults") && report.contains("config/base.yaml:2"), "{report}");
    program.fails(&["config", "check", "--folder", "missing"], 2);
}

#[test]
fn should_write_manual_pages_and_completions() {
    let program = Program::new();
    program.done(&["man", "."]);
    let page = fs::read_to_string(program.folder().join("aios.1")).unwrap();
    assert!(page.contains("AIOS_API_URL") && page.contains("143"), "{page}");
    assert!(program.folder().join("aios-dead-letters-redrive.1").exists());
    program.fails(&["man", "missing"], 2);
    for shell in ["bash", "zsh", "fish"] {
        assert!(program.done(&["completions", shell]).contains("dead-letters"));
    }
}
