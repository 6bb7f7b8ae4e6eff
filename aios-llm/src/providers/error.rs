//! Errors of providers. Their texts never contain the request.
//!
//! Providers report errors in three places: the status of the response, an event of a stream, or a
//! body with status 200. Each is mapped to a kind here, in one place for all adapters, because the
//! providers share most of their words. The kind decides whether another request may succeed; a
//! status of 500 or more always may.

use std::time::{Duration, SystemTime};

use aios_core::event::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::model::{ModelError, ModelErrorKind};

/// Longest message of a provider that is kept, in characters.
const MAX_MESSAGE: usize = 500;

/// Texts by which providers say that a request is too long.
const OVERFLOW: [&str; 7] = [
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "exceeds the context window",
    "exceed context limit",
    "input token count",
    "Input is too long",
];

/// Words by which providers say that the key is invalid, or not enough.
const UNAUTHORIZED: [&str; 5] = [
    "authentication_error",
    "permission_error",
    "invalid_api_key",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
];

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
    let kind = match status {
        400 | 413 if is_overflow(body) => ModelErrorKind::ContextOverflow,
        // Gemini reports an invalid key with status 400.
        400 if body.contains("API_KEY_INVALID") => ModelErrorKind::Unauthorized,
        401 | 403 => ModelErrorKind::Unauthorized,
        408 | 504 => ModelErrorKind::Timeout,
        429 => ModelErrorKind::RateLimited,
        503 | 529 => ModelErrorKind::Overloaded,
        400..500 => ModelErrorKind::InvalidRequest,
        _ => ModelErrorKind::Backend,
    };
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let message = message_of(&body);
    let error = ModelError::new(kind, format!("{name} answered with status {status}: {message}"));
    let error = error.with_retryable(kind.is_retryable() || status >= 500);
    match retry_after {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// Whether a text says that a request is too long.
fn is_overflow(text: &str) -> bool {
    OVERFLOW.iter().any(|words| text.contains(words))
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
    // Errors of `OpenAI` and Anthropic have a type, those of Gemini a status, and some servers only
    // a number.
    let has = |path: &str, text: &str| event.pointer(path).and_then(Value::as_str) == Some(text);
    let is_one = |kinds: &[&str]| {
        let paths = ["/error/type", "/error/code", "/error/status"];
        paths.iter().any(|path| kinds.iter().any(|kind| has(path, kind)))
    };
    let kind = if is_one(&["overloaded_error", "UNAVAILABLE"]) {
        ModelErrorKind::Overloaded
    } else if is_one(&["rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"]) {
        ModelErrorKind::RateLimited
    } else if is_one(&UNAUTHORIZED) {
        ModelErrorKind::Unauthorized
    } else if is_one(&["context_length_exceeded"]) || is_overflow(&message_of(event)) {
        ModelErrorKind::ContextOverflow
    } else if is_one(&["invalid_request_error", "invalid_prompt", "INVALID_ARGUMENT"]) {
        ModelErrorKind::InvalidRequest
    } else {
        let status = event.pointer("/error/code").and_then(Value::as_u64);
        match status.and_then(|status| u16::try_from(status).ok()) {
            Some(status @ 400..600) => return status_error(name, status, None, &event.to_string()),
            _ => ModelErrorKind::Backend,
        }
    };
    let reason = format!("{name} reported an error in the response: {}", message_of(event));
    ModelError::new(kind, reason)
        .with_retryable(kind.is_retryable() || kind == ModelErrorKind::Backend)
}

/// An exception in an event stream of AWS.
pub(super) fn exception(name: &str, kind: &str, payload: &Value) -> ModelError {
    let model_kind = match kind {
        "throttlingException" => ModelErrorKind::RateLimited,
        "serviceUnavailableException" => ModelErrorKind::Overloaded,
        "validationException" if is_overflow(&message_of(payload)) => {
            ModelErrorKind::ContextOverflow
        }
        "validationException" => ModelErrorKind::InvalidRequest,
        _ => ModelErrorKind::Backend,
    };
    let reason = format!("{name} reported {kind} in the response: {}", message_of(payload));
    ModelError::new(model_kind, reason)
        .with_retryable(model_kind.is_retryable() || model_kind == ModelErrorKind::Backend)
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
