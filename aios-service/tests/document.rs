//! The OpenAPI document.

use std::path::Path;

use aios_service::http::openapi;
use serde_json::Value;

use crate::support::Service;

/// `AIOS_WRITE_OPENAPI=1 cargo test -p aios-service should_have_committed` writes the document.
#[test]
fn should_have_committed_the_document() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("AIOS_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, openapi()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == openapi(),
        "openapi.json is out of date: AIOS_WRITE_OPENAPI=1 cargo test -p aios-service should_have_committed"
    );
}

#[test]
fn should_refer_only_to_what_exists() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "found the references");
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// Collects the references of a document.
pub(crate) fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| collect(value, references));
        }
        _ => {}
    }
}

#[test]
fn should_name_every_operation_once() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut ids = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            ids.push(operation["operationId"].as_str().unwrap());
            assert!(operation["summary"].is_string(), "{operation}");
            assert!(operation["responses"]["401"].is_object(), "{operation}");
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn should_describe_every_cursor_position_and_run_id() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let (mut cursors, mut positions, mut ids) = (0, 0, 0);
    for item in document["paths"].as_object().unwrap().values() {
        let operations = item.as_object().unwrap().values();
        for parameter in operations.flat_map(|it| it["parameters"].as_array()).flatten() {
            let schema = &parameter["schema"];
            match (parameter["name"].as_str().unwrap(), schema["type"].as_str()) {
                ("after", Some("string")) => {
                    assert!(schema["pattern"].is_string(), "{parameter}");
                    cursors += 1;
                }
                ("after" | "changed_after", _) => {
                    assert_eq!(schema["maximum"], i64::MAX, "{parameter}");
                    positions += 1;
                }
                ("run_id", _) if parameter["in"] == "path" => {
                    assert!(schema["pattern"].is_string(), "{parameter}");
                    ids += 1;
                }
                _ => {}
            }
        }
    }
    assert!(cursors >= 6 && positions >= 6 && ids >= 10, "{cursors} {positions} {ids}");
    for (schema, field) in
        [("ExecuteBody", "run_id"), ("TaskBody", "run_id"), ("ForkBody", "run_id")]
    {
        let pattern = &document["components"]["schemas"][schema]["properties"][field]["pattern"];
        assert!(pattern.is_string(), "{schema}.{field}");
    }
}

/// Examples have the fields and the type of answers.
#[tokio::test(flavor = "multi_thread")]
async fn should_show_answers_like_those_of_the_service() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let service = Service::in_memory().await;
    service.runtime.start("approval", &1).id("r1").await.unwrap();
    let agents = service.get("/agents").await;
    let agent = agents.body["data"][0]["id"].as_str().unwrap();
    for (schema, path) in
        [("Document_Run", "/runs/r1"), ("Document_Agent", &format!("/agents/{agent}"))]
    {
        let shown = &document["components"]["schemas"][schema]["example"]["data"];
        let answer = service.get(path).await;
        let keys = |data: &Value| {
            let mut keys: Vec<_> =
                data["attributes"].as_object().unwrap().keys().cloned().collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys(shown), keys(&answer.body["data"]), "{schema}");
        let kind = shown["type"].as_str().unwrap();
        let of_agent = shown["attributes"]["agent_type"].as_str().map(|it| format!("{it}_agent"));
        assert_eq!(kind, of_agent.as_deref().unwrap_or("run"));
    }
}

#[tokio::test]
async fn should_serve_the_document_in_two_versions() {
    let service = Service::in_memory().await;
    assert_eq!(service.get("/openapi.json").await.body["openapi"], "3.1.0");
    let old = service.get("/openapi.json?version=3.0").await.body;
    assert_eq!(old["openapi"], "3.0.3");
    assert!(!old.to_string().contains("\"null\""), "3.0 has no type null");
    assert_eq!(old["paths"]["/runs"]["get"]["x-required-permissions"][0], "runs:read");
}
