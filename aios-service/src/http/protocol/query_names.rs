//! The query parameters that each route takes. A request with another one is refused.
//!
//! A misspelt filter that is ignored returns too much, and a client would act on it. The names come
//! from the OpenAPI document, so that the document and the check can't differ.

use std::collections::{BTreeMap, HashMap};

use axum::{
    extract::{MatchedPath, NestedPath, Query, Request},
    http::Method,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{config::nearest, http::ApiError};

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
        let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else {
            return Ok(());
        };
        // Without a route, the request fails anyway.
        let Some(known) = self.of_request(request) else { return Ok(()) };
        // Extractors replace bytes that are not UTF-8.
        if percent_decode_str(query).decode_utf8().is_err() {
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

    /// The names that the route of a request takes. A HEAD takes those of GET.
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

/// The names of the query parameters of an operation.
fn names(operation: &Value) -> Vec<String> {
    let parameters = operation.pointer("/parameters").and_then(Value::as_array);
    let is_query = |it: &&Value| it.get("in").is_some_and(|place| place == "query");
    let of_query = parameters.into_iter().flatten().filter(is_query);
    of_query.filter_map(|it| Some(it.get("name")?.as_str()?.to_owned())).collect()
}

/// The refusal, with the names that the route takes and the one that was probably meant.
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
