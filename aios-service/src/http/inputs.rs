//! Constraints on the inputs of requests in the OpenAPI document: patterns and limits that the code checks
//! and that types alone do not tell.

use aios_core::store::RunStatus;
use serde_json::{Map, Value, json};

use super::{openapi_3_0::set, page};

/// Shortest timeout of a task, in seconds.
pub(super) const SHORTEST_TIMEOUT_SECONDS: f64 = 0.001;
/// Longest timeout and longest delay, in seconds: 100 years.
const LONGEST_SECONDS: u32 = 100 * 365 * 24 * 60 * 60;

/// Texts without control characters.
const PRINTABLE: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";
/// Ids that clients choose for runs: `~` is in those of children and of continued runs.
const CHOSEN_RUN_ID: &str = r"^[^\x00-\x1f\x7f-\x9f~]+$";
/// Names of agent types and workflows.
const NAME: &str = "^[a-z][a-z0-9_]{0,99}$";
/// Names of groups, mailboxes and agents.
const ADDRESS: &str = "^[A-Za-z0-9._-]{1,200}$";
/// Patterns of event types.
const EVENT_PATTERN: &str = r"^([a-z][a-z0-9_]*|\*|#)(\.([a-z][a-z0-9_]*|\*|#))*$";
/// Types of events that clients may publish.
const EVENT_TYPE: &str =
    r"^(?!(agents|workflows|system)\.)[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$";
/// Times to wait.
const WAIT: &str = "^[0-9]{1,9}(ms|s|m)?$";

/// Adds the constraints to all parameters and to the schemas of all bodies.
pub(super) fn constrain(document: &mut Value) {
    let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let parameters = operation.pointer_mut("/parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                of_parameter(path, parameter);
            }
        }
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for (name, schema) in schemas.into_iter().flatten() {
        if name.ends_with("Body") || name == "StartSignal" {
            of_body(name, schema);
        }
    }
}

fn of_parameter(path: &str, parameter: &mut Value) {
    let field = |key: &str| parameter.get(key).and_then(Value::as_str).unwrap_or_default();
    let constraints = match (field("in"), field("name")) {
        ("path", "run_id") => text(PRINTABLE, 200),
        ("path", "name") => json!({ "pattern": ADDRESS }),
        ("query", "after") if is_text(parameter) => json!({ "pattern": page::pattern(list(path)) }),
        ("query", "status") if is_text(parameter) => json!({ "pattern": statuses() }),
        ("query", "pattern") => text(EVENT_PATTERN, 255),
        ("query", "wait") => json!({ "pattern": WAIT }),
        ("query", "version") => json!({ "enum": ["3.1", "3.0"] }),
        ("query", "after" | "changed_after") | ("header", "last-event-id") => {
            json!({ "maximum": i64::MAX })
        }
        _ => return,
    };
    if let Some(schema) = parameter.get_mut("schema") {
        add(schema, constraints);
    }
}

fn is_text(parameter: &Value) -> bool {
    parameter.pointer("/schema/type").is_some_and(|it| it == "string")
}

/// The name of the list at a path.
fn list(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn statuses() -> String {
    let all: Vec<_> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
    let one = format!("({})", all.join("|"));
    format!("^{one}(,{one})*$")
}

fn of_body(name: &str, schema: &mut Value) {
    let properties = schema.pointer_mut("/properties").and_then(Value::as_object_mut);
    for (field, property) in properties.into_iter().flatten() {
        let constraints = match (name, field.as_str()) {
            (_, "run_id") => text(CHOSEN_RUN_ID, 200),
            ("CreateAgentBody" | "ReplaceAgentBody", "name") => text(PRINTABLE, 255),
            (_, "agent_type") => json!({ "pattern": NAME }),
            (_, "agent_id") | ("CreateAgentBody", "id") => json!({ "pattern": ADDRESS }),
            ("PublishBody", "type") => text(EVENT_TYPE, 255),
            ("PublishBody", "id") => json!({ "minLength": 1, "maxLength": 255 }),
            (_, "timeout_seconds" | "total_timeout_seconds") => {
                json!({ "minimum": SHORTEST_TIMEOUT_SECONDS, "maximum": LONGEST_SECONDS })
            }
            (_, "delay_seconds") => json!({ "maximum": LONGEST_SECONDS }),
            (_, "operation") => json!({ "maximum": i64::MAX }),
            (_, "ids") => json!({
                "items": { "type": "string", "minLength": 1, "maxLength": 255 },
            }),
            _ => continue,
        };
        add(property, constraints);
    }
    match name {
        "ExecuteBody" => {
            set(schema, &["anyOf"], json!([is_null("start_at"), is_null("delay_seconds")]))
        }
        "SelectionBody" => set(schema, &["anyOf"], either_ids_or_all()),
        _ => {}
    }
}

/// The schema of a text that matches `pattern` and has at most `max` characters.
fn text(pattern: &str, max: usize) -> Value {
    json!({ "pattern": pattern, "minLength": 1, "maxLength": max })
}

/// Objects in which a field is missing or `null`.
fn is_null(field: &str) -> Value {
    json!({ "properties": { (field): { "enum": [null] } } })
}

fn either_ids_or_all() -> Value {
    let ids = json!({
        "required": ["ids"],
        "properties": { "ids": { "type": "array" }, "all": { "enum": [false] } },
    });
    let all = json!({
        "required": ["all"],
        "properties": { "ids": { "enum": [null] }, "all": { "enum": [true] } },
    });
    json!([ids, all])
}

fn add(schema: &mut Value, constraints: Value) {
    if let (Some(schema), Value::Object(constraints)) = (schema.as_object_mut(), constraints) {
        schema.extend(constraints);
    }
}
