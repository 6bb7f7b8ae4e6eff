//! Examples of bodies in the OpenAPI document.
//!
//! Generated pages and generated tests show and send them, so they are requests that the API
//! accepts.

use aios_core::catalog::codes;
use serde_json::{Value, json};

use super::openapi_3_0::set;

/// Adds an example to every schema of a body, and to those of the most important answers.
pub(crate) fn add(document: &mut Value) {
    for (name, example) in examples() {
        // A schema that does not exist gets none: the tests check that every name is one.
        if document.pointer(&format!("/components/schemas/{name}")).is_some() {
            set(document, &["components", "schemas", name, "example"], example);
        }
    }
}

/// All examples, by the name of their schema.
fn examples() -> Vec<(&'static str, Value)> {
    let mut all = of_bodies();
    all.extend(of_answers());
    all
}

/// Examples of requests.
fn of_bodies() -> Vec<(&'static str, Value)> {
    let config = json!({ "model": "small" });
    vec![
        ("ExecuteBody", json!({ "input": { "order": 7 }, "run_id": "order-7" })),
        (
            "SignalWithStartBody",
            json!({
                "run_id": "order-7",
                "input": { "order": 7 },
                "signal": { "name": "paid", "payload": { "cents": 500 }, "id": "payment-1" },
            }),
        ),
        ("SignalBody", json!({ "name": "paid", "payload": { "cents": 500 }, "id": "payment-1" })),
        ("CancelBody", json!({ "reason": "the customer has left" })),
        ("ForkBody", json!({ "operation": 3, "run_id": "order-7-again" })),
        ("RetryBody", json!({ "run_id": "order-7-again" })),
        (
            "TaskBody",
            json!({ "agent_type": "greeter", "parameters": "Ada", "timeout_seconds": 30 }),
        ),
        ("AgentTaskBody", json!({ "parameters": "Ada", "timeout_seconds": 30 })),
        (
            "CreateAgentBody",
            json!({ "agent_type": "backend", "name": "Backend Developer", "config": config }),
        ),
        ("ReplaceAgentBody", json!({ "name": "Backend Developer", "config": config })),
        ("PublishBody", json!({ "type": "orders.order.placed", "data": { "order": 7 } })),
        ("RedriveBody", json!({ "position": 42 })),
        ("SelectionBody", json!({ "ids": ["0198c6a4-6f2e-7c3a-9f57-2f6d1c0a7b11"] })),
    ]
}

/// Examples of answers.
fn of_answers() -> Vec<(&'static str, Value)> {
    let at = "2026-01-01T00:00:00Z";
    let meta = json!({ "timestamp": at, "version": "1.0.0" });
    let run = json!({
        "workflow": "order", "workflow_version": 1, "status": "completed", "result": "shipped",
        "failure": null, "status_text": null, "progress": null, "waits_for": null, "position": 42,
        "parent_run_id": null, "first_run_id": null,
        "created_at": at, "updated_at": "2026-01-01T00:00:07Z", "deleted_at": null,
    });
    let agent = json!({
        "agent_type": "backend", "name": "Backend Developer", "config": { "model": "small" },
        "status": "running", "last_seen_at": at, "created_at": at, "updated_at": at,
        "deleted_at": null,
    });
    let error = json!({
        "error": { "code": codes::RUN_NOT_FOUND, "message": "there is no run order-8", "details": { "id": "order-8" } },
        "meta": { "request_id": "req-456", "timestamp": at },
    });
    vec![
        (
            "Document_Run",
            json!({ "data": { "id": "order-7", "type": "run", "attributes": run }, "meta": meta }),
        ),
        (
            "Document_Agent",
            json!({ "data": { "id": "agent-123", "type": "backend_agent", "attributes": agent }, "meta": meta }),
        ),
        ("ErrorDocument", error),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema with the others beside it, so that its references lead somewhere.
    fn validator(document: &Value, name: &str) -> jsonschema::Validator {
        let reference = format!("#/components/schemas/{name}");
        let schema = json!({ "$ref": reference, "components": document["components"] });
        jsonschema::validator_for(&schema).unwrap()
    }

    #[test]
    fn should_have_a_valid_example_of_every_body() {
        let document: Value = serde_json::from_str(&crate::http::openapi()).unwrap();
        let examples = examples();
        for (name, example) in &examples {
            let faults: Vec<_> =
                validator(&document, name).iter_errors(example).map(|it| it.to_string()).collect();
            assert!(faults.is_empty(), "{name}: {faults:?}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let is_body = name.ends_with("Body") && name != "ErrorBody";
            let has_example = examples.iter().any(|(of, _)| of == name);
            assert!(!is_body || has_example, "{name} has no example");
        }
    }
}
