//! Answers the requests of a session.
//!
//! A request enters the session and gets an [`Entry`]: the router, and a receiver that counts it as
//! in progress. When the session closes, requests that do not end in time are cut off by that
//! receiver. A response with a body of unknown length keeps the receiver until its body has ended,
//! so it counts as in progress as long as it is being read.
//!
//! A request that finds no open session is answered with 503 and `Retry-After`, so that a client of
//! a process that restarts tries again.

use std::sync::Arc;

use aios_core::{
    catalog::codes,
    clock::{Clock, SystemClock},
};
use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::watch;
use tower::ServiceExt;
use tracing::warn;

use super::{options::ApiArguments, requests::Entry};
use crate::session::SessionSlot;

/// Enters the open session; `None` if it is closed.
pub(super) async fn enter(slot: &SessionSlot, arguments: &ApiArguments) -> Option<Entry> {
    let guard = slot.read().await;
    let session = guard.as_ref()?;
    Some(session.requests.enter(&session.runtime, arguments))
}

impl Entry {
    /// Answers a request; returns what ends the response too.
    pub(super) async fn answer(self, request: Request) -> (Response, watch::Receiver<bool>) {
        let Self { router, mut cut } = self;
        let response = tokio::select! {
            biased;
            answered = router.oneshot(request) => answered.unwrap_or_else(|never| match never {}),
            _ = cut.wait_for(|is_cut| *is_cut) => closed(),
        };
        (response, cut)
    }
}

/// Answers a request of a server of this process.
pub(super) async fn serve(
    slot: SessionSlot,
    arguments: Arc<ApiArguments>,
    request: Request,
) -> Response {
    let Some(entry) = enter(&slot, &arguments).await else { return closed() };
    let (response, mut cut) = entry.answer(request).await;
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let end = async move {
            // An error means that the session is closed.
            let _ = cut.wait_for(|is_cut| *is_cut).await;
        };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(end)))
    })
}

/// The answer when the runtime is not open.
pub(super) fn closed() -> Response {
    let message = "the runtime that serves the API is not open";
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, codes::RUNTIME_CLOSED, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    response
}

/// An error in the shape of the API, before a router has seen the request.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let request_id = aios_core::event::EventId::generate().to_string();
    let timestamp = SystemClock.now();
    let body = json!({
        "error": { "code": code, "message": message, "details": {} },
        "meta": { "request_id": request_id, "timestamp": timestamp },
    });
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    let mut response = (status, headers, body.to_string()).into_response();
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// The whole body, if its length is known; otherwise the response again.
pub(super) async fn whole(response: Response) -> Result<(Response<()>, Vec<u8>), Response> {
    if response.body().size_hint().exact().is_none() {
        return Err(response);
    }
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(body) => Ok((Response::from_parts(parts, ()), body.into())),
        Err(error) => {
            warn!(%error, "failed to read the body of an answer");
            let response =
                refusal(StatusCode::INTERNAL_SERVER_ERROR, codes::INTERNAL_ERROR, "no body");
            Err(response)
        }
    }
}
