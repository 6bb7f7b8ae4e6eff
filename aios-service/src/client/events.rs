//! Live events, and publishing.

use std::{fmt, future::IntoFuture};

use aios_core::{
    BoxFuture,
    event::{EventError, EventId, Payload},
    store::RecordedEvent,
};
use futures_util::{Stream, stream};
use serde::Serialize;

use super::{
    Client, ClientError, Event,
    connection::{Resource, attributes},
    messages::Messages,
    query::Parameters,
};

/// Events of the log or of a run, in order, each once.
///
/// When the connection breaks or the service ends the stream, it connects again after the last event.
/// It holds one event and one chunk of the connection in memory and reads no faster than it is asked.
///
/// # Examples
///
/// A dashboard that reads the state first and then misses nothing:
///
/// ```no_run
/// use aios_service::client::{Client, EventQuery, RunQuery};
///
/// # async fn example(client: Client) -> Result<(), aios_service::client::ClientError> {
/// let mut events = client.events(&EventQuery::new().with_pattern("workflows.#"));
/// events.begin().await?; // from here on, every event comes
/// let page = client.runs(&RunQuery::new()).await?;
/// println!("{} runs", page.items.len());
/// while let Some(recorded) = events.next().await {
///     let recorded = recorded?;
///     println!("{} {}", recorded.position, recorded.event.event_type);
/// }
/// # Ok(())
/// # }
/// ```
pub struct EventStream(Messages);

impl EventStream {
    /// Follows a path of the service, after a position if one is given.
    pub(super) fn new(
        client: Client,
        path: Vec<String>,
        filter: Parameters,
        after: Option<u64>,
    ) -> Self {
        Self(Messages::new(client, path, filter, after))
    }

    /// Position after which further events come; `None` until the service has sent where a stream of
    /// new events begins.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.after
    }

    /// Waits until the stream has a beginning, so that no event that is recorded from now on is
    /// missed. Returns the position after which events come.
    ///
    /// # Errors
    ///
    /// See [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begin(&mut self) -> Result<u64, ClientError> {
        loop {
            if let Some(after) = self.0.after {
                return Ok(after);
            }
            if let Some(message) = self.0.next().await? {
                self.0.after = message.id;
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
            let message = match self.0.next_new().await {
                Ok(message) => message?,
                Err(error) => return Some(Err(error)),
            };
            if let Some(data) = message.data {
                return Some(event(&data));
            }
        }
    }

    /// The events as a stream, which ends when [`next`](Self::next) returns `None`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use aios_service::client::{Client, EventQuery};
    /// use futures_util::{StreamExt, TryStreamExt};
    ///
    /// # async fn example(client: Client) -> Result<(), aios_service::client::ClientError> {
    /// let failures = client.events(&EventQuery::new().with_pattern("agents.*.task_failed")).into_stream();
    /// let first: Vec<_> = failures.take(10).try_collect().await?;
    /// println!("{} tasks have failed", first.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> impl Stream<Item = Result<RecordedEvent, ClientError>> + Send {
        stream::unfold(self, |mut events| async move {
            let next = events.next().await?;
            Some((next, events))
        })
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(formatter.debug_struct("EventStream"))
    }
}

/// Reads the event of a message.
fn event(data: &str) -> Result<RecordedEvent, ClientError> {
    let invalid = |reason| ClientError::InvalidResponse { reason, request_id: None };
    let resource: Resource<'_> =
        serde_json::from_str(data).map_err(|error| invalid(error.to_string()))?;
    attributes::<Event>(resource, &None)?.recorded().map_err(invalid)
}

/// Publishes an event. Await it.
///
/// # Cancel safety
///
/// If it is cancelled, the event may or may not have been published. Publish it again with the same id.
///
/// # Examples
///
/// A webhook that is delivered again after a timeout publishes the same id, so that consumers
/// recognise the duplicate:
///
/// ```no_run
/// use aios_service::client::{Client, ClientError};
///
/// # async fn example(client: Client, delivery: &str, traceparent: &str) -> Result<(), ClientError> {
/// let event = client
///     .publish("shop.payment.received", &serde_json::json!({ "order": 7, "cents": 1250 }))
///     .id(delivery)
///     .correlation_id("order-7")
///     .traceparent(traceparent)
///     .await?;
/// println!("published {}", event.id);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    client: Client,
    /// Checked by the service.
    event_type: String,
    /// An error of encoding is returned when the call is awaited.
    data: Result<Payload, EventError>,
    id: Option<String>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

/// The body of the request.
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
        let event_type = event_type.to_owned();
        Self { client, event_type, data, id: None, correlation_id: None, traceparent: None }
    }

    /// Sets the id of the event; a new UUID unless set. A repeated attempt publishes the same id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the correlation id of the event.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the W3C trace context of the event.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
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
            self.client
                .connection
                .one(&request.with_traceparent(self.traceparent.as_deref())?)
                .await
        })
    }
}
