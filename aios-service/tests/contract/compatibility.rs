//! The changes from an old OpenAPI document to a new one that break clients.
//!
//! A client of the old document sends requests that fit it, and reads answers that fit it. It ignores fields
//! that it does not know, unless the old document says that there are none.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, json};

use super::schema::{Direction, Schemas};

/// A change that breaks a client, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Break {
    place: String,
    what: String,
}

impl Break {
    pub(super) fn new(place: &str, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.what)
    }
}

/// All changes that break a client.
pub(super) fn breaks(old: &Value, new: &Value) -> Vec<Break> {
    let mut breaks = Vec::new();
    let schemes = |document: &Value| object(document.pointer("/components/securitySchemes"));
    let new_schemes = schemes(new);
    for (name, scheme) in schemes(old) {
        let place = format!("security scheme {name}");
        match new_schemes.get(&name) {
            None => breaks.push(Break::new(&place, "is removed")),
            Some(new) => {
                let same =
                    ["type", "scheme", "in", "name"].iter().all(|it| scheme.get(it) == new.get(it));
                if !same {
                    breaks.push(Break::new(&place, format!("was {scheme}, is {new}")));
                }
            }
        }
    }
    let paths = object(new.get("paths"));
    for (path, item) in object(old.get("paths")) {
        let operations = object(paths.get(&path));
        for (method, operation) in object(Some(&item)) {
            let place = format!("{} {path}", method.to_uppercase());
            match operations.get(&method) {
                None => breaks.push(Break::new(&place, "is removed")),
                Some(now) => breaks.extend(Operations { old, new, place }.compare(&operation, now)),
            }
        }
    }
    breaks
}

/// Compares the operations of a path and method.
struct Operations<'d> {
    old: &'d Value,
    new: &'d Value,
    place: String,
}

impl Operations<'_> {
    fn compare(&self, old: &Value, new: &Value) -> Vec<Break> {
        let mut breaks = Vec::new();
        if old.get("operationId") != new.get("operationId") {
            let text = |it: &Value| it.get("operationId").cloned().unwrap_or_default();
            let what = format!("`operationId` was {}, is {}", text(old), text(new));
            breaks.push(Break::new(&self.place, what));
        }
        breaks.extend(self.security(old, new));
        breaks.extend(self.parameters(old, new));
        breaks.extend(self.body(old, new));
        breaks.extend(self.responses(old, new));
        breaks
    }

    /// Each set of credentials that was enough has to be enough.
    fn security(&self, old: &Value, new: &Value) -> Vec<Break> {
        let requirements = |document: &Value, operation: &Value| {
            let own = operation.get("security").or_else(|| document.get("security"));
            let listed = own.and_then(Value::as_array).cloned().unwrap_or_default();
            match listed.is_empty() {
                true => vec![json!({})],
                false => listed,
            }
        };
        let is_enough = |given: &Value, needed: &Value| {
            object(Some(needed)).iter().all(|(scheme, scopes)| {
                let given = given.get(scheme).and_then(Value::as_array);
                let scopes = scopes.as_array().into_iter().flatten();
                given.is_some_and(|given| scopes.clone().all(|scope| given.contains(scope)))
            })
        };
        let now = requirements(self.new, new);
        let was = requirements(self.old, old);
        let refused = was.iter().filter(|given| !now.iter().any(|needed| is_enough(given, needed)));
        refused
            .map(|given| {
                let now = Value::from(now.clone());
                Break::new(&self.place, format!("{given} was enough, and one of {now} is needed"))
            })
            .collect()
    }

    fn parameters(&self, old: &Value, new: &Value) -> Vec<Break> {
        let named = |operation: &Value| {
            let listed = operation.get("parameters").and_then(Value::as_array).cloned();
            let key = |it: &Value| format!("{} parameter {}", text(it, "in"), text(it, "name"));
            listed.into_iter().flatten().map(|it| (key(&it), it)).collect::<BTreeMap<_, _>>()
        };
        let (old, new) = (named(old), named(new));
        let mut breaks = Vec::new();
        for (name, parameter) in &new {
            let was_required = old.get(name).is_some_and(is_required);
            if is_required(parameter) && !was_required {
                breaks.push(self.at(name, "is required"));
            }
        }
        for (name, parameter) in &old {
            match new.get(name) {
                None => breaks.push(self.at(name, "is removed")),
                Some(now) => breaks.extend(self.schema(name, Direction::Request, parameter, now)),
            }
        }
        breaks
    }

    fn body(&self, old: &Value, new: &Value) -> Vec<Break> {
        let (old, new) = (old.get("requestBody"), new.get("requestBody"));
        let mut breaks = Vec::new();
        if new.is_some_and(is_required) && !old.is_some_and(is_required) {
            breaks.push(self.at("request", "is required"));
        }
        breaks.extend(self.contents("request", Direction::Request, old, new));
        breaks
    }

    fn responses(&self, old: &Value, new: &Value) -> Vec<Break> {
        let responses = |document: &Value, operation: &Value| {
            let mut responses = object(operation.get("responses"));
            for response in responses.values_mut() {
                let reference = response.get("$ref").and_then(Value::as_str);
                let target = reference.and_then(|it| document.pointer(it.strip_prefix('#')?));
                if let Some(target) = target.cloned() {
                    *response = target;
                }
            }
            responses
        };
        let (old, new) = (responses(self.old, old), responses(self.new, new));
        let mut breaks = Vec::new();
        for status in new.keys().filter(|it| it.starts_with('2') && !old.contains_key(*it)) {
            breaks.push(self.at(&format!("response {status}"), "is a new kind of success"));
        }
        for (status, response) in &old {
            let place = format!("response {status}");
            let Some(now) = new.get(status) else {
                breaks.push(self.at(&place, "is removed"));
                continue;
            };
            breaks.extend(self.contents(&place, Direction::Response, Some(response), Some(now)));
            let headers = object(now.get("headers"));
            for (name, header) in object(response.get("headers")) {
                let place = format!("{place} header {name}");
                match headers.get(&name) {
                    None => breaks.push(self.at(&place, "is removed")),
                    Some(now) => {
                        breaks.extend(self.schema(&place, Direction::Response, &header, now));
                    }
                }
            }
        }
        breaks
    }

    /// Compares the content types and their schemas.
    fn contents(
        &self,
        place: &str,
        direction: Direction,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Vec<Break> {
        let contents = |part: Option<&Value>| object(part.and_then(|part| part.get("content")));
        let now = contents(new);
        let mut breaks = Vec::new();
        for (content_type, content) in contents(old) {
            match now.get(&content_type) {
                None => breaks.push(self.at(place, &format!("{content_type} is removed"))),
                Some(now) => breaks.extend(self.schema(place, direction, &content, now)),
            }
        }
        breaks
    }

    /// Compares the schemas of two parts.
    fn schema(&self, place: &str, direction: Direction, old: &Value, new: &Value) -> Vec<Break> {
        let schema = |part: &Value| part.get("schema").cloned().unwrap_or_else(|| json!({}));
        let place = format!("{} {place} $", self.place);
        let mut schemas = Schemas { old: self.old, new: self.new, direction, open: Vec::new() };
        schemas.compare(&place, &schema(old), &schema(new))
    }

    fn at(&self, place: &str, what: &str) -> Break {
        Break::new(&format!("{} {place}", self.place), what)
    }
}

/// The fields of an object; none of anything else.
fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_required(part: &Value) -> bool {
    part.get("required") == Some(&Value::Bool(true))
}
