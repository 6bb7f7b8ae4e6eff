//! The description of the API as OpenAPI.
//!
//! The handlers carry most of it in their attributes. This module adds what no single handler can
//! know: the errors of each status with their codes, the headers of every answer, and the security
//! schemes. The modules `inputs`, `examples` and `registered` add constraints, examples and the
//! schemas of registered types.
//!
//! The document is committed as a file, and a test compares both, so that a change of the contract
//! is seen in a review. It is also read at run time: the query parameters that a route accepts are
//! those that it documents.

mod examples;
mod inputs;
mod openapi_3_0;
mod registered;
pub(super) mod schema;
mod schema_3_0;
#[cfg(feature = "swagger")]
pub(super) mod swagger;

use std::sync::Arc;

use aios_core::catalog::codes;
use axum::{
    Extension,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::openapi_3_0::{downgrade, set};
use super::{
    ApiError,
    layers::idempotency,
    protocol::{ErrorDocument, Operations, Query, VERSION, status},
    state::Api,
};

pub(crate) use self::inputs::SHORTEST_TIMEOUT_SECONDS;

/// The part of the document that no route has.
#[derive(OpenApi)]
#[openapi(components(schemas(ErrorDocument)))]
pub(super) struct Document;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_openapi))
}

/// The document without what is registered.
#[derive(Debug)]
pub(super) struct Documents(Value);

impl Documents {
    pub(super) fn new(document: &utoipa::openapi::OpenApi) -> Self {
        Self(finished(serde_json::to_value(document).unwrap_or_default()))
    }

    /// The query parameters and permissions of each operation.
    pub(super) fn operations(&self) -> Operations {
        Operations::of(&self.0)
    }

    /// The document of version 3.1, as JSON.
    pub(super) fn v31(&self) -> String {
        text(&self.0)
    }

    /// The document of version 3.1 for a page one level below the API, as JSON.
    #[cfg(feature = "swagger")]
    pub(super) fn v31_below(&self) -> String {
        let mut document = self.0.clone();
        set(&mut document, &["servers"], json!([{ "url": ".." }]));
        text(&document)
    }
}

/// The document as indented JSON with a line end, as the file has it.
fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct VersionQuery {
    /// `3.1`, or `3.0` for programs that know no other version; `3.1` unless given.
    #[param(example = "3.1")]
    version: Option<String>,
}

/// Get this document
///
/// `components.schemas` also has the JSON Schemas of the agent types and workflows that are registered:
/// `AgentConfig.<type>`, `AgentParameters.<type>`, `AgentOutput.<type>`, `WorkflowInput.<name>` and
/// `WorkflowOutput.<name>`.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "me",
    params(VersionQuery),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The OpenAPI document.", body = Object)),
)]
async fn get_openapi(
    State(api): State<Api>,
    Extension(documents): Extension<Arc<Documents>>,
    Query(query): Query<VersionQuery>,
) -> Result<Response, ApiError> {
    let mut document = documents.0.clone();
    registered::add(&api, &mut document).await?;
    let document = match query.version.as_deref() {
        None | Some("3.1") => document,
        Some("3.0") => downgrade(&document),
        Some(_) => {
            let message = "`version` is `3.1` or `3.0`";
            return Err(ApiError::new(codes::MALFORMED_REQUEST, message));
        }
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::OK, json, text(&document)).into_response())
}

/// Adds what all routes have in common.
fn finished(mut document: Value) -> Value {
    let info = json!({
        "title": "aios",
        "version": VERSION,
        "description": "Runs, workflows, tasks, agents and events of aios.",
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    set(&mut document, &["info"], info);
    // The API may be mounted at any path: the document is beside its routes.
    set(&mut document, &["servers"], json!([{ "url": "." }]));
    let schemes = json!({
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
        "api_key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
    });
    set(&mut document, &["components", "securitySchemes"], schemes);
    for status in status::ALL {
        let name = format!("Error{status}");
        set(&mut document, &["components", "responses", &name], error_response(*status));
    }
    let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            add_errors(path, method, operation);
        }
    }
    inputs::constrain(&mut document);
    examples::add(&mut document);
    document
}

/// Documents the errors of an operation, with the codes of each status.
fn add_errors(path: &str, method: &str, operation: &mut Value) {
    let mut statuses = vec![400, 401, 403, 412, 414, 429, 431, 500, 503];
    if path.contains('{') {
        statuses.push(404);
    }
    match method {
        "post" => statuses.extend([404, 409, 413, 415, 422]),
        "put" => statuses.extend([409, 413, 415, 422, 428]),
        "delete" => statuses.extend([409, 413, 415, 422, 428]),
        _ => {}
    }
    if path.starts_with("/agents/{") {
        statuses.push(410);
    }
    if ["put", "delete"].contains(&method) {
        add_parameter(operation, if_match());
    }
    if method == "post" {
        add_idempotency_key(operation);
    }
    if OPTIONAL_BODIES.iter().any(|action| path.ends_with(action)) {
        set(operation, &["requestBody", "required"], json!(false));
    }
    let responses = operation.pointer_mut("/responses").and_then(Value::as_object_mut);
    let Some(responses) = responses else { return };
    for response in responses.values_mut() {
        set(response, &["headers"], headers());
    }
    for status in statuses {
        let reference = json!({ "$ref": format!("#/components/responses/Error{status}") });
        responses.entry(status.to_string()).or_insert(reference);
    }
    if method == "post" {
        add_headers_of_post(responses);
    }
    if TAGGED.contains(&(method, path)) {
        add_etag((method, path), responses);
    }
}

/// Documents `location` and the header of a replayed answer.
fn add_headers_of_post(responses: &mut Map<String, Value>) {
    let location = json!({
        "description": "Where the resource is, if it can be found.",
        "schema": { "type": "string" },
    });
    let replayed = json!({
        "description": "`true` if the request was answered before, because of its `Idempotency-Key`.",
        "schema": { "type": "string", "enum": ["true"] },
    });
    for (status, response) in responses {
        if ["201", "202"].contains(&status.as_str()) {
            set(response, &["headers", "location"], location.clone());
        }
        if status.starts_with('2') {
            set(response, &["headers", idempotency::REPLAYED], replayed.clone());
        }
    }
}

/// The actions that need no body and take one.
const OPTIONAL_BODIES: [&str; 2] = ["/actions/cancel", "/actions/retry"];

/// The operations whose answers have an `ETag`.
const TAGGED: [(&str, &str); 7] = [
    ("get", "/agents/{agent_id}"),
    ("put", "/agents/{agent_id}"),
    ("post", "/agents"),
    ("get", "/agent-types/{agent_type}"),
    ("get", "/runs/{run_id}"),
    ("get", "/tasks/{task_id}"),
    ("get", "/workflows/{workflow}"),
];

/// A GET whose tag covers a part of the resource, and which therefore never answers 304.
const NEVER_UNCHANGED: (&str, &str) = ("get", "/agents/{agent_id}");

/// Documents the tag of a resource, and 304 for a GET.
fn add_etag(operation: (&str, &str), responses: &mut Map<String, Value>) {
    let etag = json!({
        "description": "Version of the resource, for `If-Match` and `If-None-Match`.",
        "schema": { "type": "string" },
    });
    if operation.0 == "get" && operation != NEVER_UNCHANGED {
        let unchanged =
            json!({ "description": "The client has this version: see `If-None-Match`." });
        responses.insert("304".to_owned(), unchanged);
    }
    for status in ["200", "201", "304"] {
        if let Some(response) = responses.get_mut(status) {
            set(response, &["headers", "etag"], etag.clone());
        }
    }
}

/// The parameter `If-Match`.
fn if_match() -> Value {
    json!({
        "name": "If-Match",
        "in": "header",
        "description": "The `ETag` of the version that may be changed, or `*` for any.",
        "required": true,
        "schema": { "type": "string", "minLength": 1 },
    })
}

/// Documents `Idempotency-Key`.
fn add_idempotency_key(operation: &mut Value) {
    let parameter = json!({
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A unique text, for example a UUID. A repetition of the request with the same key is \
                        answered as the first one, and nothing is done twice.",
        "required": false,
        "schema": { "type": "string", "minLength": 1, "maxLength": idempotency::MAX_KEY_BYTES },
    });
    add_parameter(operation, parameter);
}

/// Adds a parameter to an operation.
fn add_parameter(operation: &mut Value, parameter: Value) {
    let Some(operation) = operation.as_object_mut() else { return };
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        parameters.push(parameter);
    }
}

/// The headers that every answer may have.
fn headers() -> Value {
    json!({
        "x-request-id": {
            "description": "Id of the request, also in the log.",
            "schema": { "type": "string" },
        },
        "traceresponse": {
            "description": "The trace of the request, if it has a valid `traceparent`.",
            "schema": { "type": "string" },
        },
    })
}

/// The description of an error status, with its codes.
fn error_response(status: u16) -> Value {
    let codes: Vec<_> = status::codes_of(status).map(|code| format!("`{code}`")).collect();
    let mut headers = headers();
    if [429, 503].contains(&status) {
        let retry_after = json!({
            "description": "After how many seconds the same request may succeed, if it may.",
            "schema": { "type": "integer", "minimum": 1 },
        });
        set(&mut headers, &["retry-after"], retry_after);
    }
    json!({
        "description": format!("One of {}.", codes.join(", ")),
        "headers": headers,
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorDocument" } } },
    })
}
