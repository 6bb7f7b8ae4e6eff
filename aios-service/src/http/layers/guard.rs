//! The layer before every route: credentials, audit, checks of the request, and answers that were
//! given before. Each layer of a router copies all those below it for each request.
//!
//! The order is fixed. Without valid credentials nothing else happens, not even an audit event, so
//! that no caller without them can fill the log. The audit event is handed to the store before the
//! checks, so that a refused call is recorded with its refusal. A repeated request is recognised
//! last, after its query and its conditions were found valid.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    audit::{AuditedCall, after_announcing},
    authorize::authenticate,
    idempotency::idempotent,
};
use crate::http::{protocol::etag, state::Api};

/// Passes a request on to its route, if its caller is known.
pub(crate) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let mut request = match authenticate(&api, request).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let call = AuditedCall::begin(&api, &mut request);
    let announcement = call.as_ref().and_then(AuditedCall::announcement);
    let clock = &*api.options.clock;
    let response = after_announcing(announcement, clock, checked(&api, request, next)).await;
    if let Some(stored) = call.and_then(|call| call.record(&response)) {
        // It fails if the event is lost, which is reported.
        let _ = stored.await;
    }
    response
}

/// Refuses a request with an unknown query parameter or with a condition that does not hold. An error about a
/// body gets all its faults.
async fn checked(api: &Api, mut request: Request, next: Next) -> Response {
    let checked = api.operations.check_query(&request).and_then(|()| etag::check_method(&request));
    if let Err(error) = checked {
        return error.into_response();
    }
    let condition = etag::condition_of_read(&request);
    let body = api.operations.checked_body(&request);
    if let Some(body) = &body {
        request.extensions_mut().insert(body.clone());
    }
    let response = idempotent(api, request, next).await;
    let response = match body {
        Some(body) => body.explain(response),
        None => response,
    };
    match condition {
        Some(condition) => condition.apply(response),
        None => response,
    }
}
