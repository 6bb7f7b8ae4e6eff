//! Live events, and publishing.

use std::{fmt, future::IntoFuture, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    event::{EventError, EventId, Payload},
    store::RecordedEvent,
};
use axum::http::{HeaderValue, StatusCode};
use futures_util::{Stream, stream};
use reqwest::Response;
use serde::Serialize;
use tracing::{debug, warn};

use super::{
    Client, ClientError, Event,
    connection::{MAX_BODY_BYTES, Resource, attributes, unreachable},
    convert::traced,
    query::Parameters,
    server_events::{Message, Parser},
};

/// How long a stream may be silent. The service sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Events of the log or of a run, in order, each once.
///
/// When the connection breaks or the service ends the stream, it connects again after the last event.
/// It holds one event and one chunk of the connection in memory and reads no faster than it is asked.
pub struct EventStream {
    client: Client,
    path: Vec<String>,
    filter: Parameters,
    /// Position of the last event; `None` until the service has sent where the stream begins.
    after: Option<u64>,
    open: Option<Open>,
    /// How often connecting has failed since the last message.
    failures: u32,
    /// How long to wait before the next attempt.
    pause: Option<Duration>,
    is_over: bool,
}

/// An open connection.
struct Open {
    response: Response,
    parser: Parser,
    has_events: bool,
}

impl EventStream {
    pub(super) fn new(
        client: Client,
        path: Vec<String>,
        filter: Parameters,
        after: Option<u64>,
    ) -> Self {
        let (open, failures, pause, is_over) = (None, 0, None, false);
        Self { client, path, filter, after, open, failures, pause, is_over }
    }

    /// Position after which further events come; `None` until the service has sent where a stream of
    /// new events begins.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.after
    }

    /// Waits until the stream has a beginning, so that no event that is recorded from now on is
    /// missed. Returns the position after which events come.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begin(&mut self) -> Result<u64, ClientError> {
        loop {
            if let Some(after) = self.after {
                return Ok(after);
            }
            if let Some(message) = self.message().await? {
                self.after = message.id;
            } else {
                let reason = "the stream ended before it began".to_owned();
                return Err(ClientError::InvalidResponse { reason, request_id: None });
            }
        }
    }

    /// The next event, waiting for it without a limit; `None` after the event that ends a run.
    ///
    /// An error with [`is_retryable`](ClientError::is_retryable) comes when as many attempts to connect
    /// as the retry policy allows have failed; the next call tries again from the same position. An
    /// event that cannot be read is an error after which the stream continues. After any other error
    /// the stream is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<Result<RecordedEvent, ClientError>> {
        loop {
            let message = match self.message().await {
                Ok(message) => message?,
                Err(error) => return Some(Err(error)),
            };
            let is_known = message.id.is_some() && message.id <= self.after;
            self.after = self.after.max(message.id);
            if let Some(data) = message.data.filter(|_| !is_known) {
                return Some(event(&data));
            }
        }
    }

    /// The events as a stream, which ends when [`next`](Self::next) returns `None`.
    pub fn into_stream(self) -> impl Stream<Item = Result<RecordedEvent, ClientError>> + Send {
        stream::unfold(self, |mut events| async move {
            let next = events.next().await?;
            Some((next, events))
        })
    }

    /// The next message; `None` at the end.
    async fn message(&mut self) -> Result<Option<Message>, ClientError> {
        while !self.is_over {
            if let Some(pause) = self.pause {
                self.client.connection.clock.sleep(pause).await;
                self.pause = None;
            }
            let Some(open) = &mut self.open else {
                self.connect().await?;
                continue;
            };
            if let Some(message) = open.parser.next() {
                open.has_events |= message.data.is_some();
                self.failures = 0;
                return Ok(Some(message));
            }
            let chunk = tokio::select! {
                biased;
                chunk = open.response.chunk() => chunk.map_err(|error| unreachable(&error)),
                () = self.client.connection.clock.sleep(SILENCE) => {
                    Err(ClientError::Timeout { timeout: SILENCE })
                }
            };
            match chunk {
                Ok(Some(chunk)) => {
                    open.parser.push(&chunk);
                    if open.parser.held() > MAX_BODY_BYTES {
                        let reason = format!("an event has more than {MAX_BODY_BYTES} bytes");
                        self.is_over = true;
                        return Err(ClientError::InvalidResponse { reason, request_id: None });
                    }
                }
                Ok(None) => self.ended(),
                Err(error) => self.failed(error)?,
            }
        }
        Ok(None)
    }

    /// Connects after the last event.
    async fn connect(&mut self) -> Result<(), ClientError> {
        let connection = &self.client.connection;
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        let mut request = connection.get(&path)?.with_query(self.filter.clone());
        request = request.with_header("accept", HeaderValue::from_static("text/event-stream"));
        if let Some(after) = self.after {
            request = request.with_header("last-event-id", HeaderValue::from(after));
        }
        let timeout = connection.timeout;
        let answered = tokio::select! {
            biased;
            answered = connection.send(&request) => answered,
            () = connection.clock.sleep(timeout) => Err(ClientError::Timeout { timeout }),
        };
        match answered {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => self.is_over = true,
            Ok(response) => {
                let parser = Parser::default();
                self.open = Some(Open { response, parser, has_events: false });
            }
            Err(error) => self.failed(error)?,
        }
        Ok(())
    }

    /// The service ended the stream, which it does after some minutes and when a run has ended.
    fn ended(&mut self) {
        let had_events = self.open.take().is_some_and(|open| open.has_events);
        debug!(after = self.after, "a stream of events ended; connects again");
        if !had_events {
            self.failures += 1;
            let endless = self.client.connection.retry.clone().with_max_attempts(0);
            self.pause = endless.delay_after(self.failures, 0.0);
        }
    }

    /// Decides whether to try again.
    fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.open = None;
        self.failures += 1;
        self.pause = self.client.connection.pause(&error, true, self.failures);
        if let Some(pause) = self.pause {
            let (code, error) = (error.code(), Chain(&error).to_string());
            warn!(
                code,
                error,
                after = self.after,
                ?pause,
                "a stream of events broke; connects again"
            );
            return Ok(());
        }
        self.failures = 0;
        self.is_over = !error.is_retryable();
        Err(error)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EventStream")
            .field("path", &self.path)
            .field("after", &self.after)
            .field("is_open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

fn event(data: &str) -> Result<RecordedEvent, ClientError> {
    let invalid = |reason| ClientError::InvalidResponse { reason, request_id: None };
    let resource: Resource<'_> =
        serde_json::from_str(data).map_err(|error| invalid(error.to_string()))?;
    attributes::<Event>(resource, &None)?.recorded().map_err(invalid)
}

/// Publishes an event. Await it.
#[derive(Debug)]
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    client: Client,
    event_type: String,
    data: Result<Payload, EventError>,
    id: Option<String>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

#[derive(Serialize)]
struct PublishBody {
    #[serde(rename = "type")]
    event_type: String,
    data: Payload,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

impl Publish {
    pub(super) fn new(client: Client, event_type: &str, data: Result<Payload, EventError>) -> Self {
        let (event_type, id, correlation_id) = (event_type.to_owned(), None, None);
        Self { client, event_type, data, id, correlation_id, traceparent: None }
    }

    /// Sets the id of the event; a new UUID unless set. A repeated attempt publishes the same id.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the correlation id of the event.
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the W3C trace context of the event.
    pub fn with_traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

impl IntoFuture for Publish {
    type Output = Result<Event, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let body = PublishBody {
                event_type: self.event_type,
                data: self.data?,
                id: self.id.unwrap_or_else(|| EventId::generate().to_string()),
                correlation_id: self.correlation_id,
            };
            let request = self.client.connection.post(&["events"], &body)?;
            self.client.connection.one(&traced(request, self.traceparent)?).await
        })
    }
}
