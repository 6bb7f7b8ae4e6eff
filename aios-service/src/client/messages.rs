//! Messages of a stream of the service, over any number of connections.
//!
//! The client keeps the id of the last message and sends it when it connects again, so that every
//! event comes once and in order, even when a process of the service ends. A message may come twice
//! at the border between two connections; its data is then left out.
//!
//! | the stream | the client |
//! |---|---|
//! | was ended by the service after events, or after some time | connects again at once |
//! | was ended soon and without an event | connects again after a growing pause, without a limit of attempts |
//! | was ended with a `failure` | ends with the error |
//! | broke, or was silent for 45 s | connects again, as often as the retry policy allows |
//! | was answered with 204 | ends |
//! | was refused | ends with the error |
//!
//! Nothing is read ahead: the connection is read when the caller asks for the next message.

use std::{fmt, time::Duration};

use aios_core::{Chain, failure::Failure};
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use reqwest::Response;
use tracing::{debug, warn};

use super::{
    Client, ClientError,
    query::Parameters,
    response::{MAX_BODY_BYTES, unreachable},
    server_events::{Message, Parser},
};

/// How long a stream without events has to last to count as one that works.
const LASTING: Duration = Duration::from_secs(10);
/// How long a stream may be silent. The service sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Messages in order. When the connection breaks or the service ends the stream, it connects again after
/// the last message. It holds one message and one chunk of the connection in memory.
pub(super) struct Messages {
    /// The service.
    client: Client,
    /// The path of the stream.
    path: Vec<String>,
    /// The query, without the position.
    filter: Parameters,
    /// Id of the last message; `None` until the service has sent where the stream begins.
    pub(super) after: Option<u64>,
    /// The connection, if there is one.
    open: Option<Open>,
    /// How often connecting has failed since the last message.
    failures: u32,
    /// How many streams the service has ended in turn, soon and without an event.
    empty: u32,
    /// How long to wait before the next attempt.
    pause: Option<Duration>,
    /// Whether nothing comes any more.
    is_over: bool,
}

/// An open connection.
struct Open {
    /// Read in chunks.
    response: Response,
    /// Splits the chunks into messages.
    parser: Parser,
    /// Whether this connection has brought an event.
    has_events: bool,
    /// When it began, on the clock of the client.
    since: Duration,
}

impl Messages {
    /// A stream that connects when the first message is asked for.
    pub(super) fn new(
        client: Client,
        path: Vec<String>,
        filter: Parameters,
        after: Option<u64>,
    ) -> Self {
        let (open, failures, empty, pause) = (None, 0, 0, None);
        Self { client, path, filter, after, open, failures, empty, pause, is_over: false }
    }

    /// The next message after the last one; `None` at the end. Its data is left out if it was sent
    /// before. Cancel safe.
    pub(super) async fn next_new(&mut self) -> Result<Option<Message>, ClientError> {
        let Some(mut message) = self.next().await? else { return Ok(None) };
        if message.id.is_some()
            && message.id <= self.after
            && message.kind.as_deref() != Some("end")
        {
            message.data = None;
        }
        self.after = self.after.max(message.id);
        Ok(Some(message))
    }

    /// Ends the stream: the service has said that nothing comes any more.
    pub(super) fn finish(&mut self) {
        (self.open, self.is_over) = (None, true);
    }

    /// The state for `Debug`.
    pub(super) fn describe(&self, mut debug: fmt::DebugStruct<'_, '_>) -> fmt::Result {
        debug
            .field("path", &self.path)
            .field("after", &self.after)
            .field("is_open", &self.open.is_some())
            .finish_non_exhaustive()
    }

    /// The next message; `None` at the end. Cancel safe.
    ///
    /// State that a later call needs is changed only between awaits: a chunk is added to the parser
    /// in the same poll in which it arrives, and a pause that was cut short begins again.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ClientError> {
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
                if message.kind.as_deref() == Some("failure") {
                    self.finish();
                    return Err(failure(&message));
                }
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
        // A request that reads is always repeatable.
        let mut is_sent = false;
        let answered = tokio::select! {
            biased;
            answered = connection.send(&request, &mut is_sent) => answered,
            () = connection.clock.sleep(timeout) => Err(ClientError::Timeout { timeout }),
        };
        match answered {
            Ok(response) if response.status() == StatusCode::NO_CONTENT => self.is_over = true,
            Ok(response) if !is_event_stream(&response) => {
                self.is_over = true;
                let reason = "it is not a stream of events".to_owned();
                return Err(ClientError::InvalidResponse { reason, request_id: None });
            }
            Ok(response) => {
                let parser = Parser::default();
                let since = connection.clock.elapsed();
                self.open = Some(Open { response, parser, has_events: false, since });
            }
            Err(error) => self.failed(error)?,
        }
        Ok(())
    }

    /// The service ended the stream, which it does after some minutes and when a run has ended.
    fn ended(&mut self) {
        let connection = &self.client.connection;
        let now = connection.clock.elapsed();
        let has_worked = self
            .open
            .take()
            .is_some_and(|open| open.has_events || now.saturating_sub(open.since) >= LASTING);
        debug!(after = self.after, "a stream of events ended; connects again");
        self.empty = if has_worked { 0 } else { self.empty.saturating_add(1) };
        if self.empty > 0 {
            let endless = connection.retry.clone().with_max_attempts(0);
            self.pause = endless.delay_after(self.empty, 0.0);
        }
    }

    /// Decides whether to try again.
    fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.open = None;
        self.failures += 1;
        self.pause = self.client.connection.pause(&error, true, self.failures);
        if let Some(pause) = self.pause {
            let code = error.code();
            let error = Chain(&error).to_string();
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

/// The error of a stream that cannot be read. A failure that a later attempt may overcome is not sent.
fn failure(message: &Message) -> ClientError {
    let data = message.data.as_deref().unwrap_or_default();
    match serde_json::from_str::<Failure>(data) {
        Ok(Failure { code, message, details }) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
            let (details, request_id, retry_after) = (details.to_value(), None, None);
            ClientError::Service { status, code, message, details, request_id, retry_after }
        }
        Err(error) => ClientError::InvalidResponse { reason: error.to_string(), request_id: None },
    }
}

/// Whether a response is a stream of events, and not for example a page of another server.
fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.is_some_and(|it| it.starts_with("text/event-stream"))
}
