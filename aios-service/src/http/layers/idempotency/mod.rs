//! `Idempotency-Key`: a repeated request takes effect once, and gets the same response.
//!
//! The stream `system/requests/<digest of caller and key>` has an event when a process begins to
//! handle the request, and one with the answer. The ids of what the request creates derive from the
//! digest, so a request that is handled again after a crash finds what it has created.
//!
//! ```text
//! (no events) ── received ──► open, until a time ── answered ──► final: replayed from now on
//!                                   │  ▲
//!                                   │  └── received, by a later request
//!                                   ├───── abandoned, or the time passes ──► open to others
//!                                   └───── refused, and it was the first ──► free: any request
//! ```
//!
//! All appends expect the version that was read, so of two processes with the same request, one
//! gets a conflict. A claim ends by itself: if its process dies, the next repetition after the time
//! of the claim handles the request again.
//!
//! A caller who lacks a permission that the route requires is refused before the record is read, even if
//! the request was answered when the caller had it.
//!
//! A key is bound to its caller: the digest has the subject and its scope, so two callers never meet. It is bound
//! to its request by a fingerprint of method, path and body.

mod ids;
mod record;

use aios_core::catalog::codes;
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub(crate) use self::ids::RequestIds;
use self::record::{Claimed, Record};
use super::{
    audit::{AuditedCall, after_announcing},
    authorize::require,
    finish,
};
use crate::{
    auth::Identity,
    http::{
        ApiError,
        protocol::{digest, extract},
        state::Api,
    },
};

/// The header with the key.
pub(crate) const KEY: &str = "idempotency-key";
/// The header of a response that is repeated.
pub(crate) const REPLAYED: &str = "idempotent-replayed";
/// Longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 255;

/// Answers a repeated request with the first response.
pub(crate) async fn idempotent(api: &Api, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    match begin(api, request).await {
        Ok(begun) => {
            let (record, request) = *begun;
            // A client that disconnects ends neither the claim nor the request, because it will repeat the
            // request.
            let handled = tokio::spawn(handle(api.clone(), record, request, next));
            handled.await.unwrap_or_else(|error| {
                ApiError::panicked().with_cause(error.to_string()).into_response()
            })
        }
        Err(error) => error.into_response(),
    }
}

/// Reads the body, which the fingerprint needs, and finds the record of the request.
async fn begin(api: &Api, request: Request) -> Result<Box<(Record, Request)>, ApiError> {
    let key = key(request.headers())?;
    let identity = request.extensions().get::<Identity>().cloned();
    let identity = identity
        .ok_or_else(|| ApiError::panicked().with_cause("a route without authentication"))?;
    // An earlier answer is returned only with the permissions that it needs now.
    let required = api.operations.permissions(&request);
    required.iter().try_for_each(|permission| require(&identity, permission))?;
    let Identity { scope, subject, .. } = &identity;
    let digest = digest(&[scope.as_bytes(), subject.as_bytes(), key.as_bytes()]);
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let body = Bytes::from_request(Request::from_parts(parts.clone(), body), api).await;
    let body = body.map_err(|rejection| extract::unreadable_body(api, &rejection))?;
    let fingerprint = digest_of_request(&parts.method, &path, &body);
    let ids = crate::http::protocol::digest(&[digest.as_bytes(), fingerprint.as_bytes()]);
    let record = Record::new(api, &digest, &fingerprint, &identity)?;
    parts.extensions.insert(RequestIds::derived(&ids));
    Ok(Box::new((record, Request::from_parts(parts, body.into()))))
}

/// Claims a request and handles it, and records its answer and its audit event together, which then
/// share a commit.
async fn handle(api: Api, record: Record, request: Request, next: Next) -> Response {
    let call = request.extensions().get::<AuditedCall>().cloned();
    // The outer layer may have been dropped with its client.
    let announcement = call.as_ref().and_then(AuditedCall::announcement);
    let answered = async {
        match record.claim().await {
            Ok(Claimed::Before(response)) => (response, None),
            Ok(Claimed::Now(claim)) => (finish::answer(&api, request, next).await, Some(claim)),
            Err(error) => (error.into_response(), None),
        }
    };
    let (response, claim) = after_announcing(announcement, &*api.options.clock, answered).await;
    let stored = call.and_then(|call| call.record(&response));
    let response = match claim {
        Some(claim) => claim.answer(response).await,
        None => response,
    };
    if let Some(stored) = stored {
        // It fails if the event is lost, which is reported.
        let _ = stored.await;
    }
    response
}

/// Reads the key. The IETF draft has it in quotes, but most clients don't.
fn key(headers: &HeaderMap) -> Result<String, ApiError> {
    let mut values = headers.get_all(KEY).iter();
    let key = match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => value.trim(),
        _ => "",
    };
    let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    let key = quoted.unwrap_or(key);
    match (1..=MAX_KEY_BYTES).contains(&key.len()) {
        true => Ok(key.to_owned()),
        false => {
            let message = format!(
                "`Idempotency-Key` is given once, with 1 to {MAX_KEY_BYTES} printable ASCII characters"
            );
            Err(ApiError::new(codes::INVALID_IDEMPOTENCY_KEY, message))
        }
    }
}

/// The fingerprint of a request.
fn digest_of_request(method: &Method, path: &str, body: &[u8]) -> String {
    digest(&[method.as_str().as_bytes(), path.as_bytes(), body])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        key(&headers)
    }

    #[test]
    fn should_read_keys_with_and_without_quotes() {
        for value in ["order-7", "\"order-7\"", " order-7 "] {
            assert_eq!(read(&[value]).unwrap(), "order-7", "{value}");
        }
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for values in [&[""][..], &["\"\""], &["ä"], &["a", "b"], &[long.as_str()]] {
            assert_eq!(read(values).unwrap_err().code, "INVALID_IDEMPOTENCY_KEY", "{values:?}");
        }
    }
}
