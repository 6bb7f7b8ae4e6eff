//! Commands that look at a service and repair it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
};

use serde_json::{Value, json};

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
    let (dev, program) = service();
    program.done(&["start", "welcome", "\"Ada\"", "--wait"]);
    assert!(program.json(&["dead-letters", "list", "agents.greeter"]).is_empty());
    for action in ["redrive", "purge"] {
        let arguments = ["dead-letters", action, "agents.greeter", "--all"];
        let error = program.fails(&arguments, 1);
        assert!(error.contains("--yes") && error.contains("agents.greeter"), "{error}");
        assert!(error.contains(&dev.url), "{error}");
        let done = program.json(&[&arguments[..], &["--yes"]].concat());
        assert_eq!(done[0]["count"], 0);
    }
    program.fails(&["dead-letters", "show", "agents.greeter", "nothing"], 3);
    program.fails(&["dead-letters", "list", "agents.unknown"], 3);
}

/// The service ends each page early, as it does when letters are large.
#[test]
fn should_list_and_find_dead_letters_on_all_pages() {
    let program = Program::new().with_variable("AIOS_API_URL", &service_of_pages());
    let letters = |arguments: &[&str]| {
        let letters =
            program.json(&[&["dead-letters", "list", "agents.greeter"], arguments].concat());
        let ids: Vec<_> = letters.iter().map(|letter| letter["event_id"].clone()).collect();
        json!(ids)
    };
    assert_eq!(letters(&[]), json!(["e0", "e1", "e2"]));
    assert_eq!(letters(&["--after", "1"]), json!(["e1", "e2"]));
    let some = program.ended(&["dead-letters", "list", "agents.greeter", "--limit", "2", "--json"]);
    let sign: Value = serde_json::from_str(&some.stderr).unwrap();
    assert_eq!((some.code, some.stdout.lines().count(), sign), (0, 2, json!({ "next": "2" })));
    let shown = program.done(&["dead-letters", "show", "agents.greeter", "e2"]);
    assert!(shown.contains("as the test says"), "{shown}");
    program.fails(&["dead-letters", "show", "agents.greeter", "e3"], 3);
}

/// The URL of a service with three dead letters, one on each page.
fn service_of_pages() -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v1", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in server.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let length = client.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let after = head.split_once("after=").and_then(|(_, rest)| rest.chars().next());
            let number = after.and_then(|digit| digit.to_digit(10)).unwrap_or(0);
            let letter = json!({
                "id": format!("e{number}"), "type": "dead_letter", "attributes": {
                    "event_type": "agents.greeter.task_assigned", "data": 1, "metadata": {},
                    "reason": "as the test says", "attempts": 5,
                    "first_failure": "2030-01-31T08:00:00Z",
                },
            });
            let next = (number < 2).then(|| (number + 1).to_string());
            let body = json!({ "data": [letter], "meta": { "next": next } }).to_string();
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            client.write_all(format!("{head} {length}\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    url
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
