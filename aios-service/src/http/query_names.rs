//! The query parameters that each route takes. A request with another one is refused.

use std::collections::{BTreeMap, HashMap};

use axum::{
    extract::{MatchedPath, NestedPath, Query, Request},
    http::Method,
};
use serde_json::{Value, json};

use super::ApiError;
use crate::config::nearest;

/// The names of the query parameters of all operations, from the OpenAPI document.
#[derive(Debug)]
pub(crate) struct QueryNames(HashMap<String, BTreeMap<String, Vec<String>>>);

impl QueryNames {
    /// Reads the names from the OpenAPI document.
    pub(crate) fn of(document: &Value) -> Self {
        let paths = document.pointer("/paths").and_then(Value::as_object);
        let names = paths.into_iter().flatten().map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            let operations = operations.map(|(method, it)| (method.to_uppercase(), names(it)));
            (path.clone(), operations.collect())
        });
        Self(names.collect())
    }

    /// Fails if a request has a query parameter that its route does not take.
    pub(crate) fn check(&self, request: &Request) -> Result<(), ApiError> {
        if request.uri().query().is_none_or(str::is_empty) {
            return Ok(());
        }
        // Without a route, the request fails anyway.
        let Some(known) = self.of_request(request) else { return Ok(()) };
        if !is_utf_8(request.uri().query().unwrap_or_default()) {
            let message = "the query of the request cannot be read: it is not in UTF-8";
            return Err(ApiError::new("MALFORMED_REQUEST", message));
        }
        let given = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let given = given.map_err(|rejection| {
            let reason = rejection.body_text();
            let message = format!("the query of the request cannot be read: {reason}");
            ApiError::new("MALFORMED_REQUEST", message)
        })?;
        match given.0.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(unknown(name, known)),
        }
    }

    fn of_request(&self, request: &Request) -> Option<&[String]> {
        let path = request.extensions().get::<MatchedPath>()?.as_str();
        let nested = request.extensions().get::<NestedPath>().map(NestedPath::as_str);
        let path = nested.and_then(|nested| path.strip_prefix(nested)).unwrap_or(path);
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        Some(self.0.get(path)?.get(method.as_str())?)
    }
}

/// Whether the percent-encoded bytes of a query are UTF-8. Extractors replace what is not.
fn is_utf_8(query: &str) -> bool {
    let mut parts = query.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(part.bytes().skip(2));
            }
            None => bytes.extend(part.bytes()),
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

fn names(operation: &Value) -> Vec<String> {
    let parameters = operation.pointer("/parameters").and_then(Value::as_array);
    let is_query = |it: &&Value| it.get("in").is_some_and(|place| place == "query");
    let of_query = parameters.into_iter().flatten().filter(is_query);
    of_query.filter_map(|it| Some(it.get("name")?.as_str()?.to_owned())).collect()
}

fn unknown(name: &str, known: &[String]) -> ApiError {
    let shown: String = name.chars().take(100).collect();
    let nearest = nearest(&shown, known.iter().map(String::as_str));
    let meant = nearest.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default();
    let all = known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    let takes =
        if known.is_empty() { "it takes none".to_owned() } else { format!("it takes {all}") };
    let message = format!("the path has no query parameter `{shown}`{meant}; {takes}");
    let details = json!({ "parameter": shown, "known": known, "nearest": nearest });
    ApiError::new("MALFORMED_REQUEST", message).with_details(details)
}
