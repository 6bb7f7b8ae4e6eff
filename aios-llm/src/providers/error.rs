//! Errors of providers. Their texts never contain the request.
//!
//! Providers report errors in three places: the status of the response, an event of a stream, or a
//! body with status 200. Each is mapped to a kind here, in one place for all adapters, because the
//! providers share most of their words: first by what the body names as the error, then by its text,
//! then by the status. The kind decides whether another request may succeed; after a status of 500 or
//! more, it always may.

use std::time::{Duration, SystemTime};

use aios_core::event::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::model::{ModelError, ModelErrorKind};

/// Longest message of a provider that is kept, in characters.
const MAX_MESSAGE: usize = 500;

/// Texts by which providers say that a request is too long, in lower case.
const OVERFLOW: [&str; 9] = [
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "exceeds the context window",
    "exceeds the available context size",
    "context size has been exceeded",
    "exceed context limit",
    "input token count",
    "input is too long",
];

/// Names by which providers say that the account has nothing left to pay with. Waiting does not help.
const UNPAID: [&str; 2] = ["insufficient_quota", "billing_error"];

/// Kinds that the names of errors stand for, in lower case, of all providers. The first that fits
/// decides.
const NAMES: [(ModelErrorKind, &[&str]); 6] = [
    // The model has written a call, or JSON, that the provider rejects.
    (ModelErrorKind::InvalidResponse, &["tool_use_failed", "json_validate_failed"]),
    (ModelErrorKind::Refused, &["content_filter", "responsibleaipolicyviolation"]),
    (ModelErrorKind::ContextOverflow, &["context_length_exceeded", "exceed_context_size_error"]),
    (
        ModelErrorKind::Overloaded,
        &["overloaded_error", "unavailable", "serviceunavailableexception"],
    ),
    (
        ModelErrorKind::RateLimited,
        &[
            "rate_limit_error",
            "rate_limit_exceeded",
            "resource_exhausted",
            "throttlingexception",
            "insufficient_quota",
            "billing_error",
        ],
    ),
    (
        ModelErrorKind::Unauthorized,
        &[
            "authentication_error",
            "permission_error",
            "invalid_api_key",
            "unauthenticated",
            "permission_denied",
        ],
    ),
];

/// Names of errors in the request that say no more. The text or the status may.
const INVALID: [&str; 4] =
    ["invalid_request_error", "invalid_prompt", "invalid_argument", "validationexception"];

/// Where a body has the name of its error: a type or a code, of Gemini a status.
const PLACES: [&str; 6] =
    ["/error/type", "/error/code", "/error/status", "/error/innererror/code", "/type", "/code"];

/// The error of a response that can't be read. `what` continues the sentence "the response of …".
pub(super) fn invalid_response(name: &str, what: &str) -> ModelError {
    ModelError::new(ModelErrorKind::InvalidResponse, format!("the response of {name} {what}"))
}

/// A request with something that the protocol of the model does not have.
pub(super) fn unsupported(name: &str, what: &str) -> ModelError {
    ModelError::new(ModelErrorKind::InvalidRequest, format!("{name} does not support {what}"))
}

/// The error of a request, without its URL, which can contain keys.
pub(super) fn of_transport(name: &str, error: reqwest::Error) -> ModelError {
    let (kind, what) = if error.is_timeout() {
        (ModelErrorKind::Timeout, "did not answer in time")
    } else if error.is_body() || error.is_decode() {
        (ModelErrorKind::InvalidResponse, "closed the connection before the end of the response")
    } else {
        (ModelErrorKind::Unavailable, "cannot be reached")
    };
    ModelError::new(kind, format!("{name} {what}")).with_source(error.without_url())
}

/// The error of a response whose status is no success.
pub(super) fn of_status(name: &str, status: u16, headers: &HeaderMap, body: &str) -> ModelError {
    status_error(name, status, retry_after(headers).or_else(|| retry_delay(body)), body)
}

/// The error of a response whose status is no success, for adapters of other clients: its kind from the
/// status and the body, and the message of the provider from a body as `OpenAI`, Anthropic and Gemini
/// send it.
///
/// # Examples
///
/// ```
/// use aios_llm::{model::ModelErrorKind, providers::status_error};
///
/// let body = r#"{"error": {"message": "prompt is too long: 210000 tokens"}}"#;
/// let error = status_error("acme:large", 400, None, body);
/// assert_eq!(error.kind(), ModelErrorKind::ContextOverflow);
/// ```
#[must_use]
pub fn status_error(
    name: &str,
    status: u16,
    retry_after: Option<Duration>,
    body: &str,
) -> ModelError {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let names = names_of(&json);
    let is_unpaid = status == 402 || is_any(&names, &UNPAID);
    let kind = match (kind_of(&names), status) {
        (Some(kind), _) => kind,
        (_, 400 | 413) if is_overflow(body) => ModelErrorKind::ContextOverflow,
        // Gemini reports an invalid key with status 400.
        (_, 400) if body.contains("API_KEY_INVALID") => ModelErrorKind::Unauthorized,
        (_, 401 | 403) => ModelErrorKind::Unauthorized,
        (_, 408 | 504) => ModelErrorKind::Timeout,
        (_, 402 | 429) => ModelErrorKind::RateLimited,
        (_, 503 | 529) => ModelErrorKind::Overloaded,
        // A conflict, a failure of the model in Bedrock, and a request that is too early.
        (_, 409 | 424 | 425) => ModelErrorKind::Backend,
        (_, 400..500) => ModelErrorKind::InvalidRequest,
        _ => ModelErrorKind::Backend,
    };
    let message = message_of(&json);
    let error = ModelError::new(kind, format!("{name} answered with status {status}: {message}"));
    let is_passing = kind.is_retryable() || status >= 500 || matches!(status, 409 | 424 | 425);
    let error = error.with_retryable(is_passing && !is_unpaid);
    match retry_after {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// Whether a text says that a request is too long.
fn is_overflow(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    OVERFLOW.iter().any(|words| text.contains(words))
}

/// The names of the error in a body, in lower case.
fn names_of(body: &Value) -> Vec<String> {
    let names = PLACES.iter().filter_map(|place| body.pointer(place)?.as_str());
    names.map(str::to_ascii_lowercase).collect()
}

/// Whether one of the names is known.
fn is_any(names: &[String], known: &[&str]) -> bool {
    names.iter().any(|name| known.contains(&name.as_str()))
}

/// The kind of an error by its names; `None` if they do not decide.
fn kind_of(names: &[String]) -> Option<ModelErrorKind> {
    NAMES.iter().find(|(_, known)| is_any(names, known)).map(|(kind, _)| *kind)
}

/// The kind of an error by its names and its message; `None` if they do not decide.
fn told_kind(names: &[String], message: &str) -> Option<ModelErrorKind> {
    match kind_of(names) {
        None if is_overflow(message) => Some(ModelErrorKind::ContextOverflow),
        None if is_any(names, &INVALID) => Some(ModelErrorKind::InvalidRequest),
        kind => kind,
    }
}

/// Whether a body with status 200, or an event, is about an error.
pub(super) fn tells_of_error(body: &Value) -> bool {
    let has = |path: &str| body.pointer(path).is_some_and(|error| !error.is_null());
    let is_error = body.get("type").and_then(Value::as_str) == Some("error");
    is_error || has("/error") || has("/response/error")
}

/// Fails if a body with status 200, or an event, is an error.
pub(super) fn check_event(name: &str, event: &Value) -> Result<(), ModelError> {
    match event.get("error") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(of_event(name, event)),
    }
}

/// An error that a provider reports within a stream, or with status 200.
pub(super) fn of_event(name: &str, event: &Value) -> ModelError {
    let names = names_of(event);
    let message = message_of(event);
    let kind = told_kind(&names, &message);
    // Some servers have only a number.
    let status = event.pointer("/error/code").and_then(Value::as_u64);
    let status = status.and_then(|status| u16::try_from(status).ok());
    if let (None, Some(status @ 400..600)) = (kind, status) {
        return status_error(name, status, None, &event.to_string());
    }
    reported(kind, &names, format!("{name} reported an error in the response: {message}"))
}

/// An exception in an event stream of AWS.
pub(super) fn exception(name: &str, kind: &str, payload: &Value) -> ModelError {
    let names = [kind.to_ascii_lowercase()];
    let message = message_of(payload);
    let reason = format!("{name} reported {kind} in the response: {message}");
    reported(told_kind(&names, &message), &names, reason)
}

/// An error in a response that had begun. Those of unknown kinds may be passing.
fn reported(kind: Option<ModelErrorKind>, names: &[String], reason: String) -> ModelError {
    let kind = kind.unwrap_or(ModelErrorKind::Backend);
    let is_passing = kind.is_retryable() || kind == ModelErrorKind::Backend;
    ModelError::new(kind, reason).with_retryable(is_passing && !is_any(names, &UNPAID))
}

/// The provider's message in the body of an error.
fn message_of(body: &Value) -> String {
    let places = [body.pointer("/error/message"), body.get("message"), body.get("error")];
    let message = places.into_iter().flatten().find_map(Value::as_str);
    message.unwrap_or("no reason").chars().take(MAX_MESSAGE).collect()
}

/// The delay that a provider asks for, in seconds or milliseconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let millis = text("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok());
    let millis = millis.and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok());
    millis.or_else(|| read_retry_after(text("retry-after")?))
}

/// The delay in a header `Retry-After`: a number of seconds, or a date.
///
/// # Examples
///
/// ```
/// assert_eq!(
///     aios_llm::providers::read_retry_after("1.5"),
///     Some(std::time::Duration::from_millis(1500)),
/// );
/// ```
#[must_use]
pub fn read_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH)))
}

/// The delay that Gemini asks for in the body, as in `"retryDelay": "7s"`.
fn retry_delay(body: &str) -> Option<Duration> {
    let body: Value = serde_json::from_str(body).ok()?;
    let details = body.pointer("/error/details")?.as_array()?;
    let delay = details.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
    Duration::try_from_secs_f64(delay.strip_suffix('s')?.parse().ok()?).ok()
}
