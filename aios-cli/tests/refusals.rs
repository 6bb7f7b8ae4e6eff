//! Bad input: each is refused with the documented exit code and a remedy.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Program, service};

/// A URL at which nothing listens.
const CLOSED: &str = "http://127.0.0.1:1/api/v1";

#[test]
fn should_name_what_does_not_exist() {
    let (dev, program) = service();
    for arguments in [
        &["run", "nothing"][..],
        &["run", "nothing", "--wait"],
        &["signal", "nothing", "approval"],
        &["cancel", "nothing"],
        &["pause", "nothing"],
        &["resume", "nothing"],
        &["retry", "nothing"],
        &["fork", "nothing", "0"],
        &["journal", "nothing"],
        &["journal", "nothing", "--follow"],
    ] {
        assert!(program.fails(arguments, 3).contains("RUN_NOT_FOUND"), "{arguments:?}");
    }
    let outside = dev.url.replace("/api/v1", "");
    assert!(program.fails(&["--url", &outside, "runs"], 1).contains("such as /api/v1?"));
    assert!(program.fails(&["start", "welcomes"], 3).contains("welcome"));
    let error = program.fails(&["run", "nothing", "--json"], 3);
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["code"], "RUN_NOT_FOUND");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("there is no run nothing"), "{message}");
    program.done(&["start", "approval", "\"a\"", "--id", "a"]);
    assert!(program.fails(&["retry", "a"], 1).contains("RUN_NOT_FAILED"));
    assert!(program.fails(&["start", "welcome", "\"b\"", "--id", "a"], 1).contains("RUN_EXISTS"));
    for name in ["", "a\nb", &"x".repeat(201)] {
        assert!(program.fails(&["signal", "a", name], 2).contains("INVALID_SIGNAL_NAME"));
    }
}

#[test]
fn should_refuse_arguments_that_are_invalid() {
    let program = Program::new();
    fs::write(program.folder().join("empty.db"), "").unwrap();
    for arguments in [
        &[][..],
        &["unknown"],
        &["run"],
        &["runs", "--status", "unknown"],
        &["runs", "--limit", "0"],
        &["fork", "a", "first"],
        &["start", "welcome", "--after", "soon"],
        &["start", "welcome", "--at", "tomorrow"],
        &["start", "welcome", "--at", "2030-01-01T00:00:00Z", "--after", "5m"],
        &["runs", "--url", "ftp://127.0.0.1"],
        &["runs", "--url", "not a URL"],
        &["runs", "--url", CLOSED, "--store", "sqlite://a.db"],
        &["runs", "--store", "mysql://a"],
        &["runs", "--store", "memory://"],
        &["runs", "--store", "sqlite://missing/a.db"],
        &["dead-letters", "list", "a", "--broker", "localhost"],
        &["events", "tail", "--pattern", "a b"],
        &["agents", "--status", "unknown"],
        &["tasks", "--status", "unknown"],
        &["dead-letters", "list"],
        &["dead-letters", "list", "a", "--limit", "0"],
        &["dead-letters", "purge", "agents.greeter"],
        &["dead-letters", "purge", "agents.greeter", "id", "--all"],
        &["dead-letters", "list", "agents.greeter", "--store", "sqlite://a.db"],
        &["migrate"],
        &["rebuild", "--yes"],
        &["verify"],
        &["backup", "a.db"],
        &["readers"],
        &["readers", "retire", "--yes"],
        &["retain", "--yes"],
        &["retain", "--older-than", "yesterday", "--yes"],
        &["verify", "--store", "sqlite://a.db"],
        &["rebuild", "--store", "sqlite://a.db", "--yes"],
        &["backup", "b.db", "--store", "postgres://me@127.0.0.1/a"],
        &["backup", "b.db", "--store", "sqlite://a.db"],
        &["backup", "b.db", "--store", "sqlite://empty.db"],
        &["migrate", "--store", "sqlite://missing/a.db"],
        &["dev", "--listen", "nowhere"],
        &["dev", "--store", "mysql://a"],
        &["dev", "--url", CLOSED],
    ] {
        program.fails(arguments, 2);
    }
    let url = ["--url", CLOSED];
    let error = program.fails(&[&["start", "welcome", "Ada"][..], &url].concat(), 2);
    assert!(error.contains("two pairs of quotes"), "{error}");
    let error = program.fails(&[&["start", "welcome", "@missing.json"][..], &url].concat(), 2);
    assert!(error.contains("missing.json") && error.contains("name a file"), "{error}");
}

#[test]
fn should_say_what_is_wrong_with_a_store() {
    let program = Program::new();
    let error = program.fails(&["runs", "--store", "a.db"], 2);
    assert!(error.contains("'--store <URL>'") && error.contains("sqlite://a.db"), "{error}");
    let error = program.fails(&["runs", "--store", "sqlite://missing/a.db"], 2);
    assert!(error.contains("no store missing/a.db") && error.contains("aios migrate"), "{error}");
    fs::write(program.folder().join("text.db"), "a text that is longer than a header ".repeat(20))
        .unwrap();
    let found = program.ended(&["doctor", "--store", "sqlite://text.db"]).stdout;
    assert!(found.contains("restore a backup") && !found.contains("start the"), "{found}");
}

/// `--json` also holds for arguments that cannot be parsed, and for what the service refuses.
#[test]
fn should_report_invalid_arguments_as_json() {
    let (_dev, program) = service();
    let after = ["runs", "--after", "nonsense"];
    for (arguments, code, says) in [
        (&["runs", "--limit", "0"][..], "INVALID_REQUEST", "--limit"),
        (&["unknown"], "INVALID_REQUEST", "unknown"),
        (&["run"], "INVALID_REQUEST", "<RUN>"),
        (&["start", "welcome", "{bad"], "INVALID_REQUEST", "INPUT: it is not JSON: key must be"),
        (&["start", "welcome", " \n"], "INVALID_REQUEST", "INPUT: it is not JSON: EOF"),
        (&["start", "welcome", "--id", "a~b"], "INVALID_RUN_ID", "~"),
        (&after, "INVALID_CURSOR", "meta.next"),
        (&["runs", "--url", "nonsense"], "INVALID_REQUEST", "--url or AIOS_API_URL"),
        (&["runs", "--url", ""], "INVALID_REQUEST", "http://127.0.0.1:8080/api/v1"),
    ] {
        let error = program.fails(&[arguments, &["--json"]].concat(), 2);
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!(error["error"]["code"], code, "{arguments:?}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(says) && !message.starts_with("error"), "{message}");
        assert!(error["error"]["remedy"].is_null());
    }
    assert!(program.done(&["--help", "--json"]).contains("Exit codes"));
}

#[test]
fn should_say_how_to_reach_a_service() {
    let program = Program::new().with_variable("AIOS_API_URL", CLOSED);
    for arguments in [
        &["runs"][..],
        &["run", "a"],
        &["run", "a", "--wait"],
        &["start", "welcome"],
        &["signal", "a", "b"],
        &["cancel", "a"],
        &["pause", "a"],
        &["resume", "a"],
        &["retry", "a"],
        &["fork", "a", "1"],
        &["journal", "a"],
        &["events", "tail"],
        &["agents"],
        &["tasks"],
        &["engines"],
        &["dead-letters", "list", "agents.greeter"],
        &["dead-letters", "show", "agents.greeter", "a"],
        &["dead-letters", "redrive", "agents.greeter", "--all", "--yes"],
        &["dead-letters", "purge", "agents.greeter", "--all", "--yes"],
    ] {
        let error = program.fails(arguments, 5);
        assert!(error.contains("aios dev") && error.contains("--store"), "{error}");
    }
}

#[test]
fn should_report_a_faulty_configuration() {
    let program = Program::new();
    fs::create_dir(program.folder().join("config")).unwrap();
    let file = program.folder().join("config/base.yaml");
    fs::write(&file, "api:\n  ur: http://127.0.0.1\nmail:\n  host: a\n").unwrap();
    let error = program.fails(&["runs"], 2);
    assert!(error.contains("config/base.yaml:2") && error.contains("api.url"), "{error}");
    assert!(!error.contains("mail"), "{error}");
    fs::write(&file, format!("api:\n  url: {CLOSED}\nmail:\n  host: a\n")).unwrap();
    program.fails(&["runs"], 5);
}

#[test]
fn should_accept_the_configuration_of_a_service_with_sections_of_its_own() {
    let program = Program::new()
        .with_variable("AIOS_HTTP_CLIENT_TIMEOUT", "5s")
        .with_variable("AIOS_APP_URL", "http://127.0.0.1");
    fs::create_dir(program.folder().join("config")).unwrap();
    let sections = "smtp: {host: mx}\norders: {limit: 5}\napp: {name: shop}\n\
                    databse: {url: 'sqlite://b.db'}\n";
    let file = program.folder().join("config/base.yaml");
    fs::write(&file, format!("database: {{url: 'sqlite://a.db'}}\n{sections}")).unwrap();
    program.done(&["migrate"]);
    assert_eq!(program.json(&["runs"]), [] as [Value; 0]);

    let report = program.done(&["config", "check"]);
    let found = &program.json(&["config", "check"])[0];
    assert_eq!(found["not_checked"], json!(["app", "databse", "orders", "smtp"]));
    assert_eq!(found["ignored_variables"], json!(["AIOS_APP_URL", "AIOS_HTTP_CLIENT_TIMEOUT"]));
    for similar in [
        "config/base.yaml:2:1: smtp: unknown name; did you mean http?",
        "config/base.yaml:5:1: databse: unknown name; did you mean database?",
        "AIOS_APP_URL: unknown name; did you mean AIOS_API_URL?",
        "AIOS_HTTP_CLIENT_TIMEOUT: unknown name",
    ] {
        assert!(report.contains(similar), "{similar}: {report}");
        let listed = found["similar_names"].as_array().unwrap();
        assert!(listed.iter().any(|it| it.as_str().unwrap().starts_with(similar)), "{found}");
    }
    let report = program.ended(&["doctor"]).stdout;
    assert!(report.contains("ok     settings") && report.contains("databse"), "{report}");
}
