//! Constraints on the inputs of requests in the OpenAPI document: patterns and limits that the code
//! checks and that types alone do not tell.
//!
//! Generated clients and generated tests rely on them: what fulfils the document must not be
//! refused as malformed. The names of parameters and fields decide, because the same name has the
//! same meaning everywhere.

use aios_core::store::RunStatus;
use serde_json::{Map, Value, json};

use super::openapi_3_0::set;
use crate::http::protocol::page;

/// Shortest timeout of a task, in seconds.
pub(crate) const SHORTEST_TIMEOUT_SECONDS: f64 = 0.001;
/// Longest timeout and longest delay, in seconds: 100 years.
const LONGEST_SECONDS: u32 = 100 * 365 * 24 * 60 * 60;

/// Names of agent types and workflows.
const NAME: &str = "^[a-z][a-z0-9_]{0,99}$";
/// Names of groups, mailboxes and agents.
const ADDRESS: &str = "^[A-Za-z0-9._-]{1,200}$";
/// Names of output streams.
const STREAM: &str = "^[a-z][a-z0-9_]{0,39}$";
/// Patterns of event types.
const EVENT_PATTERN: &str = r"^([a-z][a-z0-9_]*|\*|#)(\.([a-z][a-z0-9_]*|\*|#))*$";
/// Types of events that clients may publish.
const EVENT_TYPE: &str =
    r"^(?!(agents|workflows|system)\.)[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$";
/// Times to wait.
const WAIT: &str = "^(0|[1-9][0-9]{0,8})(ms|s|m)?$";

/// About ids of runs in paths.
const RUN_ID: &str = "1 to 200 bytes of UTF-8 without control characters. Every operation refuses another id with 400 \
                      and `INVALID_RUN_ID`, and one that no run has with 404 and `RUN_NOT_FOUND`.";

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
        if name.ends_with("Body") || ["StartSignal", "TaskRetry"].contains(&name.as_str()) {
            of_body(name, schema);
        }
    }
}

/// Constrains a parameter by its place and name.
fn of_parameter(path: &str, parameter: &mut Value) {
    let field = |key: &str| parameter.get(key).and_then(Value::as_str).unwrap_or_default();
    let constraints = match (field("in"), field("name")) {
        ("path", "run_id") => described(bytes(&PRINTABLE, 200), RUN_ID),
        ("path", "projection") => json!({ "pattern": NAME }),
        ("path", "name") => json!({ "pattern": ADDRESS }),
        ("path", "stream") => json!({ "pattern": STREAM }),
        ("query", "after") if is_text(parameter) => json!({ "pattern": page::pattern(list(path)) }),
        ("query", "status") if is_text(parameter) => json!({ "pattern": statuses() }),
        ("query", "pattern") => ascii(EVENT_PATTERN, 255),
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

/// Whether the parameter is a text; a position of the same name is a number.
fn is_text(parameter: &Value) -> bool {
    parameter.pointer("/schema/type").is_some_and(|it| it == "string")
}

/// The name of the list at a path: its last segment that is not a parameter.
fn list(path: &str) -> &str {
    path.rsplit('/').find(|segment| !segment.starts_with('{')).unwrap_or_default()
}

/// The pattern of a list of statuses of runs.
fn statuses() -> String {
    let all: Vec<_> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
    let one = format!("({})", all.join("|"));
    format!("^{one}(,{one})*$")
}

/// Constrains the fields of a body.
fn of_body(name: &str, schema: &mut Value) {
    let properties = schema.pointer_mut("/properties").and_then(Value::as_object_mut);
    for (field, property) in properties.into_iter().flatten() {
        let constraints = match (name, field.as_str()) {
            (_, "run_id") => undotted(bytes(&CHOSEN, 200)),
            ("SignalBody" | "StartSignal", "name") => bytes(&PRINTABLE, 200),
            ("CreateAgentBody" | "ReplaceAgentBody", "name") => bytes(&PRINTABLE, 255),
            (_, "agent_type") => json!({ "pattern": NAME }),
            (_, "agent_id") | ("CreateAgentBody", "id") => undotted(json!({ "pattern": ADDRESS })),
            ("PublishBody", "type") => ascii(EVENT_TYPE, 255),
            ("PublishBody", "id") => bytes(&ANY, 255),
            (_, "timeout_seconds" | "total_timeout_seconds") => {
                json!({ "minimum": SHORTEST_TIMEOUT_SECONDS, "maximum": LONGEST_SECONDS })
            }
            (_, "delay_seconds") => json!({ "maximum": LONGEST_SECONDS }),
            ("TaskRetry", "initial_delay_seconds" | "max_delay_seconds") => {
                json!({ "minimum": 0, "maximum": LONGEST_SECONDS })
            }
            ("TaskRetry", "max_attempts") => json!({ "maximum": u32::MAX }),
            ("TaskRetry", "jitter") => json!({ "minimum": 0, "maximum": 1 }),
            (_, "operation" | "position") => json!({ "maximum": i64::MAX }),
            (_, "ids") => json!({ "items": event_id() }),
            _ => continue,
        };
        add(property, constraints);
    }
    match name {
        "ExecuteBody" => set(schema, &["not"], both_times()),
        "SelectionBody" => set(schema, &["not"], both_or_nothing()),
        _ => {}
    }
}

/// The schema of an id that can be a part of a path.
fn undotted(mut schema: Value) -> Value {
    set(&mut schema, &["not"], json!({ "enum": [".", ".."] }));
    schema
}

/// Adds a description.
fn described(mut schema: Value, description: &str) -> Value {
    set(&mut schema, &["description"], json!(description));
    schema
}

/// The schema of an ASCII text that matches `pattern` and has at most `max` characters.
fn ascii(pattern: &str, max: usize) -> Value {
    json!({ "pattern": pattern, "minLength": 1, "maxLength": max })
}

/// Characters that a text may have, as parts of a class of regular expressions.
struct Characters {
    /// Those of ASCII.
    ascii: &'static str,
    /// The first one above ASCII.
    from: &'static str,
    /// All of them, as a class.
    all: &'static str,
}

/// All but control characters.
const PRINTABLE: Characters =
    Characters { ascii: " -~", from: r"\u00a0", all: r"[^\x00-\x1f\x7f-\x9f]" };
/// Those of ids that clients choose for runs: `~` is in the ids of children and of continued runs.
const CHOSEN: Characters =
    Characters { ascii: " -}", from: r"\u00a0", all: r"[^\x00-\x1f\x7f-\x9f~]" };
/// Every character.
const ANY: Characters = Characters { ascii: r"\x00-\x7f", from: r"\u0080", all: r"[\s\S]" };

/// The schema of a text with 1 to `max` bytes of UTF-8. JSON Schema counts characters, so a text may have
/// as many as fit if all are of its longest kind. The code takes every text with so many bytes.
fn bytes(characters: &Characters, max: usize) -> Value {
    let Characters { ascii, from, all } = characters;
    let two = format!(r"[{ascii}{from}-\u07ff]{{1,{}}}", max / 2);
    let three = format!(r"[{ascii}{from}-\ud7ff\ue000-\uffff]{{1,{}}}", max / 3);
    let pattern = format!("^([{ascii}]{{1,{max}}}|{two}|{three}|{all}{{1,{}}})$", max / 4);
    json!({ "pattern": pattern, "minLength": 1, "maxLength": max })
}

/// The schema of an id of an event.
fn event_id() -> Value {
    let mut schema = bytes(&ANY, 255);
    set(&mut schema, &["type"], json!("string"));
    schema
}

/// Bodies with both times of a start. What is excluded is written with `not`, which generators of clients
/// ignore: alternatives would become types without the other fields.
fn both_times() -> Value {
    json!({
        "required": ["start_at", "delay_seconds"],
        "properties": { "start_at": { "type": "string" }, "delay_seconds": { "type": "number" } },
    })
}

/// Bodies that select by id and all at once, or nothing.
fn both_or_nothing() -> Value {
    let both = json!({
        "required": ["ids", "all"],
        "properties": { "ids": { "type": "array" }, "all": { "enum": [true] } },
    });
    let nothing =
        json!({ "properties": { "ids": { "enum": [null] }, "all": { "enum": [false] } } });
    json!({ "anyOf": [both, nothing] })
}

/// Adds constraints to a schema.
fn add(schema: &mut Value, constraints: Value) {
    if let (Some(schema), Value::Object(constraints)) = (schema.as_object_mut(), constraints) {
        schema.extend(constraints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_count_the_bytes_of_texts_as_the_code_does() {
        let validator = jsonschema::validator_for(&bytes(&CHOSEN, 200)).unwrap();
        for (character, longest) in [("a", 200), ("é", 100), ("語", 66), ("🦀", 50)] {
            let of = |count: usize| json!(character.repeat(count));
            assert!(validator.is_valid(&of(1)) && validator.is_valid(&of(longest)), "{character}");
            assert!(!validator.is_valid(&of(longest + 1)), "{character}");
            assert!(character.repeat(longest).len() <= 200);
            assert!(character.repeat(longest + 1).len() > 200);
        }
        for invalid in ["", "a~b", "a\nb"] {
            assert!(!validator.is_valid(&json!(invalid)), "{invalid:?}");
        }
    }
}
