//! The outermost layer: ids of requests, timeouts, panics, and the shape of every error.
//!
//! ```text
//! request ─► finish ─► guard ─► route
//!              │         └ credentials, rate limit, audit, conditions, idempotency
//!              ├ refuses foreign pages, before anything is read
//!              ├ catches panics, ends requests that take too long
//!              └ writes the body of every error, and the headers of every response
//! ```
//!
//! Inner layers return an error as an extension of an empty response. This layer adds the body,
//! because only it knows the id of the request. An error response without that extension was made by
//! axum, and gets the code that fits its status.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use aios_core::{
    catalog::codes,
    clock::{Clock, SystemClock},
    event::Timestamp,
};
use axum::{
    Router,
    body::HttpBody,
    extract::{DefaultBodyLimit, MatchedPath, OriginalUri, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use serde_json::json;
use tracing::{error, warn};

use super::{
    request_id::{REQUEST_ID, RequestId},
    trace::Trace,
};
use crate::{
    http::{
        ApiError,
        protocol::{ErrorBody, ErrorDocument, ErrorMeta, envelope},
        state::Api,
    },
    telemetry::traces::TRACE_RESPONSE,
};

/// Tells browsers to take the content type as it is.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Passes a request to the inner layers, and completes the response.
pub(crate) async fn finish(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let trace = Trace::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let limits = &api.options.limits;
    DefaultBodyLimit::max(limits.max_body_bytes()).apply(&mut request);
    let source = api.options.cors.source(&request);
    let response = match source.answer(&api.options.cors) {
        Some(answer) => answer,
        None => answer(&api, request, next).await,
    };
    let mut response = render(&api, &id, response);
    source.permit(response.headers_mut());
    if response.status().is_server_error() {
        let trace_id = trace.as_ref().map(Trace::id);
        let status = response.status().as_u16();
        warn!(request_id = &*id.0, trace_id, %method, path, status, "a request failed");
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(value) = trace.as_ref().and_then(Trace::response) {
        response.headers_mut().insert(TRACE_RESPONSE, value);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// The response of a handler, or an error if it panics or takes too long.
pub(crate) async fn answer(api: &Api, request: Request, next: Next) -> Response {
    let timeout = api.options.limits.request_timeout();
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
    tokio::select! {
        biased;
        answered = answered => answered.unwrap_or_else(|panic| {
            ApiError::panicked().with_cause(message(&*panic)).into_response()
        }),
        () = api.options.clock.sleep(timeout) => timed_out(timeout).into_response(),
    }
}

/// The error of a request that took too long. It may still take effect.
fn timed_out(timeout: Duration) -> ApiError {
    let message = format!("the request took longer than {timeout:?}");
    ApiError::new(codes::REQUEST_TIMEOUT, message)
}

/// The text of a panic, for the log.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a handler panicked".to_owned())
}

/// Adds the body to an error, including errors that axum made.
fn render(api: &Api, id: &RequestId, mut response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let known = response.extensions_mut().remove::<ApiError>();
    let error = known.unwrap_or_else(|| foreign(status));
    if let Some(cause) = &error.cause {
        error!(request_id = &*id.0, code = &*error.code, error = cause, "a request failed");
    }
    rendered(error, id, api.now(), response.headers())
}

/// The response with an error. It keeps the headers that do not describe another body.
fn rendered(
    error: ApiError,
    id: &RequestId,
    timestamp: Timestamp,
    headers: &HeaderMap,
) -> Response {
    let body = ErrorDocument {
        error: ErrorBody {
            code: error.code.into_owned(),
            message: error.message.into(),
            details: error.details,
        },
        meta: ErrorMeta { request_id: id.0.to_string(), timestamp },
    };
    let mut rendered = envelope::json(error.status, &body);
    for (name, value) in headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    rendered
}

/// Answers requests that no route of a program takes with an error in the shape of the API, which says
/// where the API begins. Without it, such responses have no body. The responses of the program's own routes
/// and of its fallback are unchanged, except that the refusal of a method that a path does not take gets
/// a body.
///
/// ```
/// use axum::{Router, routing::get};
///
/// let router = Router::new().route("/hello", get(|| async { "Hello!" }));
/// let router = aios_service::http::answer_unrouted(router, Some("/api/v1"));
/// # drop::<Router>(router);
/// ```
pub fn answer_unrouted(router: Router, api_path: Option<&str>) -> Router {
    router.layer(from_fn_with_state(api_path.map(Arc::from), unrouted))
}

/// Adds a body to an empty refusal of the router. Responses of handlers are unchanged, whatever their
/// status.
async fn unrouted(
    State(api_path): State<Option<Arc<str>>>,
    request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers());
    let is_routed = request.extensions().get::<MatchedPath>().is_some();
    let path = excerpt(request.uri());
    let response = next.run(request).await;
    let is_empty = response.body().size_hint().exact() == Some(0)
        && !response.headers().contains_key(header::CONTENT_TYPE);
    let error = match response.status() {
        StatusCode::NOT_FOUND if is_empty && !is_routed => no_path(&path, api_path.as_deref()),
        StatusCode::METHOD_NOT_ALLOWED if is_empty => method_not_allowed(),
        _ => return response,
    };
    refused(error, &id, response.headers())
}

/// The answer to a request that the server refuses before its router. `headers` are those of the request.
pub(crate) fn refusal(error: ApiError, headers: &HeaderMap) -> Response {
    refused(error, &RequestId::of(headers), &HeaderMap::new())
}

/// The response with an error outside the API, and with these headers.
fn refused(error: ApiError, id: &RequestId, headers: &HeaderMap) -> Response {
    let mut response = rendered(error, id, SystemClock.now(), headers);
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// The error of a path that no route accepts.
fn no_path(path: &str, api_path: Option<&str>) -> ApiError {
    let (message, details) = match api_path {
        Some(api) => {
            let message = format!("there is no path {path}; the API begins at {api}");
            (message, json!({ "path": path, "api": api }))
        }
        None => (format!("there is no path {path}"), json!({ "path": path })),
    };
    ApiError::new(codes::ROUTE_NOT_FOUND, message).with_details(details)
}

/// An error that did not come from a handler.
fn foreign(status: StatusCode) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => ApiError::new(codes::ROUTE_NOT_FOUND, "there is no such path"),
        StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(),
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(codes::BODY_TOO_LARGE, "the body of the request is too large")
        }
        status if status.is_client_error() => {
            ApiError::new(codes::MALFORMED_REQUEST, "the request cannot be read")
        }
        status => ApiError::panicked().with_cause(format!("an answer with status {status}")),
    }
}

/// The error of a method that a path does not take.
fn method_not_allowed() -> ApiError {
    ApiError::new(
        codes::METHOD_NOT_ALLOWED,
        "the path does not accept this method; the header `allow` lists the methods that it accepts",
    )
}

/// Answers requests to paths that do not exist.
pub(crate) async fn not_found(OriginalUri(uri): OriginalUri) -> ApiError {
    no_path(&excerpt(&uri), None)
}

/// The path of a request, truncated for display.
fn excerpt(uri: &Uri) -> String {
    uri.path().chars().take(200).collect()
}
