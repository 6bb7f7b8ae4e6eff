//! The query parameters, bodies and permissions of operations, from the OpenAPI document, so that it and the checks
//! can't differ.
//!
//! **Query parameters.** A request with another one is refused. A misspelt filter that is ignored returns
//! too much, and a client would act on it.
//!
//! **Bodies.** Their faults are told by their schemas.
//!
//! **Permissions.** Handlers check them. Here they are known before a handler is called, for answers that
//! are given without one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aios_core::catalog::codes;
use axum::{
    extract::{MatchedPath, NestedPath, Query, Request},
    http::Method,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::checked_body::CheckedBody;
use crate::{config::nearest, http::ApiError};

/// All operations, by path and method.
#[derive(Debug)]
pub(crate) struct Operations(HashMap<String, BTreeMap<String, Operation>>);

/// One operation.
#[derive(Debug)]
struct Operation {
    /// The names of its query parameters.
    query_names: Vec<String>,
    /// The permissions that it requires.
    permissions: Vec<String>,
    /// The schema of its body, without references.
    body: Option<Arc<Value>>,
}

impl Operations {
    /// Reads the operations from the OpenAPI document.
    pub(crate) fn of(document: &Value) -> Self {
        let paths = document.pointer("/paths").and_then(Value::as_object);
        let operations = paths.into_iter().flatten().map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            let operations =
                operations.map(|(method, it)| (method.to_uppercase(), Operation::of(document, it)));
            (path.clone(), operations.collect())
        });
        Self(operations.collect())
    }

    /// Fails if a request has a query parameter that its route does not take.
    pub(crate) fn check_query(&self, request: &Request) -> Result<(), ApiError> {
        let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else {
            return Ok(());
        };
        // Without a route, the request fails anyway.
        let Some(Operation { query_names: known, .. }) = self.of_request(request) else {
            return Ok(());
        };
        // Extractors replace bytes that are not UTF-8.
        if percent_decode_str(query).decode_utf8().is_err() {
            let message = "the query of the request cannot be read: it is not in UTF-8";
            return Err(ApiError::new(codes::MALFORMED_REQUEST, message));
        }
        let given = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let given = given.map_err(|rejection| {
            let reason = rejection.body_text();
            let message = format!("the query of the request cannot be read: {reason}");
            ApiError::new(codes::MALFORMED_REQUEST, message)
        })?;
        match given.0.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(unknown(name, known)),
        }
    }

    /// The permissions that the route of a request requires.
    pub(crate) fn permissions(&self, request: &Request) -> &[String] {
        self.of_request(request).map_or(&[], |operation| &operation.permissions)
    }

    /// The body of a request that is compared with its schema if it is refused.
    pub(crate) fn checked_body(&self, request: &Request) -> Option<CheckedBody> {
        self.of_request(request)?.body.clone().map(CheckedBody::new)
    }

    /// The operation of a request. A HEAD is a GET.
    fn of_request(&self, request: &Request) -> Option<&Operation> {
        let path = request.extensions().get::<MatchedPath>()?.as_str();
        let nested = request.extensions().get::<NestedPath>().map(NestedPath::as_str);
        let path = nested.and_then(|nested| path.strip_prefix(nested)).unwrap_or(path);
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        self.0.get(path)?.get(method.as_str())
    }
}

impl Operation {
    /// Reads an operation of the document.
    fn of(document: &Value, operation: &Value) -> Self {
        let list =
            |pointer| operation.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_query = |it: &&Value| it.get("in").is_some_and(|place| place == "query");
        let of_query = list("/parameters").filter(is_query);
        Self {
            query_names: of_query.filter_map(|it| text(it.get("name")?)).collect(),
            // Both schemes of a route have the same permissions.
            permissions: list("/security/0/bearer").filter_map(text).collect(),
            body: operation
                .pointer("/requestBody/content/application~1json/schema")
                .map(|schema| Arc::new(resolved(document, schema))),
        }
    }
}

/// A schema with what it refers to. Schemas of bodies contain no others that contain them.
fn resolved(document: &Value, schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let target = reference.and_then(|it| document.pointer(it.strip_prefix('#')?));
            match target {
                Some(target) => resolved(document, target),
                None => fields.iter().map(|(k, it)| (k.clone(), resolved(document, it))).collect(),
            }
        }
        Value::Array(items) => items.iter().map(|it| resolved(document, it)).collect(),
        other => other.clone(),
    }
}

/// The refusal, with the names that the route accepts and the name that was probably meant.
fn unknown(name: &str, known: &[String]) -> ApiError {
    let shown: String = name.chars().take(100).collect();
    let nearest = nearest(&shown, known.iter().map(String::as_str));
    let meant = nearest.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default();
    let all = known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    let accepted =
        if known.is_empty() { "it accepts none".to_owned() } else { format!("it accepts {all}") };
    let message = format!("the path has no query parameter `{shown}`{meant}; {accepted}");
    let details = json!({ "parameter": shown, "known": known, "nearest": nearest });
    ApiError::new(codes::MALFORMED_REQUEST, message).with_details(details)
}
