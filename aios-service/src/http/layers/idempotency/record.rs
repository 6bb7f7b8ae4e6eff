//! The record of a request with a key: its claim and its answer.
//!
//! | the record has | a request with the key |
//! |---|---|
//! | nothing | claims it |
//! | a claim whose time has not passed | is answered with 409 `REQUEST_IN_PROGRESS` |
//! | a claim whose time has passed, or that was abandoned | claims it |
//! | a claim that was refused for its content, and none before | claims it, with any fingerprint |
//! | an answer | gets the answer |
//! | another fingerprint | is answered with 409 `IDEMPOTENCY_KEY_REUSED` |
//!
//! The time of a claim is that of a request, and 5 s each for recording the claim and the answer. A process
//! that is slower than that may find its claim taken; it then returns the answer of the other process, so
//! that both clients get the same one.
//!
//! Each of the two events is appended until the store accepts it, at most for those 5 s: a claim whose
//! response is lost, or an answer that is not recorded, would keep the key from its client until the time
//! of the claim has passed.

use std::{sync::Arc, time::Duration};

use aios_core::{
    Cause, Chain,
    catalog::{
        codes,
        system::{
            self, REQUEST_ABANDONED, REQUEST_ANSWERED, REQUEST_RECEIVED, REQUEST_REFUSED,
            RequestAnswered, RequestReceived,
        },
    },
    event::{Event, EventType, Metadata, Payload, Timestamp},
    failure::Failure,
    store::{Append, Expected, RecordedEvent, Store, StoreError, StreamId},
};
use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::REPLAYED;
use crate::{
    auth::Identity,
    http::{ApiError, layers::append::append_until_taken, state::Api},
};

/// Events of a request that are read at once.
const PAGE: usize = 100;
/// Longest time in which a process records the claim, and in which it records the answer.
const RECORDING: Duration = Duration::from_secs(5);
/// Statuses of requests that are refused for their content or their headers, before they have an effect.
const REFUSED: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];
/// Statuses of requests that may be admitted later.
const CLOSED: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
/// Source of the events.
const SOURCE: &str = "http";

/// The record of a request in the log.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Clock and limits.
    api: Api,
    /// Where the record is.
    store: Arc<dyn Store>,
    /// The stream of the key.
    stream: StreamId,
    /// Digest of the method, the path and the body.
    fingerprint: String,
    /// The user, for all events of the record.
    metadata: Metadata,
}

/// The state of a request, from its events.
#[derive(Debug, Default)]
struct State {
    /// Version of the last event that was read; the next append expects it.
    version: u64,
    /// That of the first request with the key.
    fingerprint: Option<String>,
    /// Until when another process may be handling it.
    open_until: Option<Timestamp>,
    /// The final answer, if there is one.
    answer: Option<RequestAnswered>,
}

/// Whether this process may handle a request.
pub(super) enum Claimed {
    /// It was answered before.
    Before(Response),
    /// This process handles it.
    Now(Claim),
}

/// The right to handle a request.
pub(super) struct Claim {
    /// Where the answer goes.
    record: Record,
    /// Version of the stream after the claim, which the answer expects.
    version: u64,
    /// Whether no earlier attempt of the request can have had an effect.
    is_first: bool,
}

impl Record {
    /// The record of a request. Nothing is read yet.
    pub(super) fn new(
        api: &Api,
        digest: &str,
        fingerprint: &str,
        identity: &Identity,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            store: Arc::clone(api.store()?),
            api: api.clone(),
            stream: StreamId::new(format!("system/requests/{digest}"))?,
            fingerprint: fingerprint.to_owned(),
            metadata: Metadata { user_id: Some(identity.subject.clone()), ..Metadata::default() },
        })
    }

    /// Claims the request, unless another request has its key, or it is being handled.
    pub(super) async fn claim(self) -> Result<Claimed, ApiError> {
        let state = self.read().await?;
        if state.fingerprint.as_ref().is_some_and(|found| *found != self.fingerprint) {
            let message = "the `Idempotency-Key` was used for a request with another path or body";
            return Err(ApiError::new(codes::IDEMPOTENCY_KEY_REUSED, message));
        }
        if let Some(answer) = state.answer {
            return Ok(Claimed::Before(replay(answer)));
        }
        let is_first = state.fingerprint.is_none();
        let now = self.api.now();
        if let Some(until) = state.open_until.filter(|until| *until > now) {
            return Err(ApiError::in_progress(until, now));
        }
        let open_until = now + self.api.options.limits.request_timeout() + RECORDING * 2;
        let received = RequestReceived::new(self.fingerprint.clone(), open_until);
        match self.append(REQUEST_RECEIVED, &received, state.version).await {
            Ok(version) => Ok(Claimed::Now(Claim { record: self, version, is_first })),
            // Another process was faster.
            Err(StoreError::Conflict { .. }) => Err(ApiError::in_progress(open_until, now)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the state from all events of the stream.
    async fn read(&self) -> Result<State, ApiError> {
        let mut state = State::default();
        loop {
            let page = self.store.read_stream(&self.stream, state.version, PAGE).await?;
            let is_last = page.len() < PAGE;
            for recorded in page {
                state.apply(&recorded)?;
            }
            if is_last {
                return Ok(state);
            }
        }
    }

    /// Appends an event at the expected version, and returns the version after it.
    async fn append<T: Serialize + Sync>(
        &self,
        action: &str,
        data: &T,
        version: u64,
    ) -> Result<u64, StoreError> {
        let invalid = |error| StoreError::Backend {
            backend: "http",
            operation: "encode a request",
            retryable: false,
            source: Cause::new(error),
        };
        let event = EventType::new(system::DOMAIN, "request", action)
            .and_then(|event_type| Event::new(event_type, SOURCE, data))
            .map_err(invalid)?;
        let event = event.with_timestamp(self.api.now()).with_metadata(self.metadata.clone());
        let expected = match version {
            0 => Expected::Empty,
            version => Expected::Exact(version),
        };
        let append = Append::new(self.stream.clone(), vec![event]).with_expected(expected);
        let clock = &*self.api.options.clock;
        tokio::select! {
            biased;
            appended = append_until_taken(&*self.store, clock, &append) => Ok(appended?.version),
            () = clock.sleep(RECORDING) => {
                Err(StoreError::Timeout { operation: "record a request", after: RECORDING })
            }
        }
    }
}

impl State {
    /// Applies an event. An unknown one, of a later version of aios, changes nothing but the
    /// version.
    fn apply(&mut self, recorded: &RecordedEvent) -> Result<(), ApiError> {
        self.version = recorded.version;
        match recorded.event.event_type.segments().2 {
            REQUEST_RECEIVED => {
                let received: RequestReceived = recorded.event.data()?;
                self.fingerprint.get_or_insert(received.fingerprint);
                self.open_until = Some(received.open_until);
            }
            REQUEST_ABANDONED => self.open_until = None,
            REQUEST_REFUSED => (self.fingerprint, self.open_until) = (None, None),
            REQUEST_ANSWERED => self.answer = Some(recorded.event.data()?),
            _ => {}
        }
        Ok(())
    }
}

impl Claim {
    /// Records an answer. One that another attempt may change is not final, and not recorded.
    pub(super) async fn answer(self, response: Response) -> Response {
        let (response, answer) = final_answer(response).await;
        let record = &self.record;
        let recorded = match &answer {
            Some(answer) => record.append(REQUEST_ANSWERED, answer, self.version).await,
            None => record.append(self.open_action(&response), &Value::Null, self.version).await,
        };
        match recorded {
            Ok(_) => response,
            // The time of this claim ran out, and another process has taken the request.
            Err(StoreError::Conflict { .. }) => self.other().await,
            Err(error) => {
                let error = Chain(&error);
                tracing::warn!(stream = %record.stream, %error, "failed to record the answer to a request");
                response
            }
        }
    }

    /// The action of the event after a response that is not final. The key of a refused request is free, unless
    /// an earlier attempt of it may have had an effect.
    fn open_action(&self, response: &Response) -> &'static str {
        match self.is_first && REFUSED.contains(&response.status()) {
            true => REQUEST_REFUSED,
            false => REQUEST_ABANDONED,
        }
    }

    /// The answer of the process that has taken the request.
    async fn other(&self) -> Response {
        match self.record.read().await {
            Ok(State { answer: Some(answer), .. }) => replay(answer),
            Ok(State { open_until, .. }) => {
                let now = self.record.api.now();
                ApiError::in_progress(open_until.unwrap_or(now), now).into_response()
            }
            Err(error) => error.into_response(),
        }
    }
}

/// The answer to record: none if the server failed, if the caller may be admitted later, or if the request
/// was refused for its content.
async fn final_answer(response: Response) -> (Response, Option<RequestAnswered>) {
    let status = response.status();
    if status.is_server_error() || CLOSED.contains(&status) || REFUSED.contains(&status) {
        return (response, None);
    }
    let error = response.extensions().get::<ApiError>();
    let headers = response.headers();
    let location = text(headers, &header::LOCATION);
    let etag = text(headers, &header::ETAG);
    let error = error.map(ApiError::failure);
    let (parts, body) = response.into_parts();
    // The body was made by a handler, and is in memory.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return (ApiError::panicked().with_cause("a body that ends early").into_response(), None);
    };
    let body = String::from_utf8(bytes.to_vec()).ok();
    let body = body.and_then(|text| Payload::from_text(text).ok()).unwrap_or_default();
    let answer = RequestAnswered::new(status.as_u16(), location, etag, body, error);
    (Response::from_parts(parts, bytes.into()), Some(answer))
}

/// The text of a header.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The answer as it was given first. The body of an error gets the id of this request.
fn replay(answer: RequestAnswered) -> Response {
    let mut response = match answer.error {
        Some(Failure { code, message, details }) => {
            ApiError::replayed(answer.status, code, message, details.to_value()).into_response()
        }
        None => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
            let json = [(header::CONTENT_TYPE, "application/json")];
            (status, json, Body::from(answer.body.as_str().to_owned())).into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [(header::LOCATION, answer.location), (header::ETAG, answer.etag)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
