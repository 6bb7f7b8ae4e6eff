//! Events of a service.
//!
//! Python reads the log and the events of a run in pages, and asks for each page by the place where
//! the last one ended, because a client of a store works like that. A service has streams. The
//! [`Follower`] connects the two: it keeps the stream between two pages, and opens another one only
//! if the reader asks for a different place. Each reader has a follower of its own, because one that
//! waits for an event would keep the others waiting.
//!
//! A page has the first event that comes and those that are ready. If an error comes after some
//! events, the page ends before it, and the next call reports it, so that no event is lost.
//!
//! A wait that is cancelled drops the stream with the events that it had read for the page. The
//! next call finds no stream and opens one after the place for which it asks, so these events come
//! again.

use std::sync::Arc;

use aios_core::{
    event::{Pattern, Payload},
    store::RecordedEvent,
};
use aios_service::client::{Client, ClientError, EventQuery, EventStream};
use futures_util::FutureExt;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::{
    calls::{Answer, Calls},
    convert::{errors::ErrorInfo, json},
};

/// Reads an event stream in pages, whose reader asks by the place where the last page ended.
#[derive(Clone, Default)]
pub(super) struct Follower(Arc<tokio::sync::Mutex<Option<Following>>>);

/// A stream between two pages.
struct Following {
    /// The stream, which is where the last page ended.
    stream: EventStream,
    /// Where the last page ended, as the reader counts.
    after: u64,
    /// An error that came behind the events of the last page.
    error: Option<ClientError>,
}

impl Follower {
    /// At most `limit` events after `after`: waits for the first, and adds those that are ready. `None`
    /// at the end of the stream. `open` opens another stream if this one is elsewhere.
    pub(super) async fn next(
        &self,
        after: u64,
        limit: usize,
        open: impl FnOnce(u64) -> EventStream,
    ) -> Result<Option<Vec<RecordedEvent>>, ClientError> {
        self.next_by(after, limit, |event| event.position, open).await
    }

    /// As `next`, counted by another number than the position.
    pub(super) async fn next_by(
        &self,
        after: u64,
        limit: usize,
        number: impl Fn(&RecordedEvent) -> u64,
        open: impl FnOnce(u64) -> EventStream,
    ) -> Result<Option<Vec<RecordedEvent>>, ClientError> {
        let mut slot = self.0.lock().await;
        let known = slot.take().filter(|following| following.after == after);
        let mut following =
            known.unwrap_or_else(|| Following { stream: open(after), after, error: None });
        if let Some(error) = following.error.take() {
            return Err(error);
        }
        let mut page: Vec<RecordedEvent> = Vec::new();
        while page.len() < limit {
            let next = match page.is_empty() {
                true => following.stream.next().await,
                false => match following.stream.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                },
            };
            match next {
                Some(Ok(event)) if number(&event) <= after => {}
                Some(Ok(event)) => page.push(event),
                Some(Err(error)) if page.is_empty() => return Err(error),
                Some(Err(error)) => {
                    following.error = Some(error);
                    break;
                }
                None => break,
            }
        }
        let Some(last) = page.last() else { return Ok(None) };
        following.after = number(last);
        *slot = Some(following);
        Ok(Some(page))
    }
}

/// The native part of `aios.EventStream` of a remote client.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct RemoteEventStream {
    calls: Arc<Calls>,
    reading: Arc<Reading>,
}

/// A subscription.
struct Reading {
    /// Locked while a call waits for an event.
    stream: tokio::sync::Mutex<EventStream>,
    /// The events to pass on; none for all. A service filters by one pattern at most, so the others
    /// are applied here.
    patterns: Vec<Pattern>,
    /// The event that Python has not received yet.
    current: Mutex<Option<Payload>>,
}

impl RemoteEventStream {
    /// Follows events from now on.
    pub(super) async fn begin(
        client: &Client,
        patterns: &[String],
        calls: Arc<Calls>,
    ) -> Result<Answer, ErrorInfo> {
        let query = match patterns {
            [pattern] => EventQuery::new().with_pattern(pattern),
            _ => EventQuery::new(),
        };
        let patterns: Vec<Pattern> =
            patterns.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let mut stream = client.events(&query);
        stream.begin().await?;
        let stream = tokio::sync::Mutex::new(stream);
        let reading = Arc::new(Reading { stream, patterns, current: Mutex::default() });
        let stream = Self { calls, reading };
        Ok(Answer::Object(Box::new(move |py| Ok(Py::new(py, stream)?.into_any()))))
    }
}

impl Reading {
    /// Whether one of the patterns matches.
    fn matches(&self, event: &RecordedEvent) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(&event.event.event_type);
        self.patterns.is_empty() || self.patterns.iter().any(matches)
    }

    /// An event counts as received once Python has it: a cancelled wait does not lose one.
    async fn next(self: Arc<Self>) -> Result<Answer, ErrorInfo> {
        let mut stream = self.stream.lock().await;
        while self.current.lock().is_none() {
            let Some(event) = stream.next().await else { return Ok(Answer::Nothing) };
            let event = event?;
            if self.matches(&event) {
                *self.current.lock() = Some(Payload::encode(&(1, &event.event))?);
            }
        }
        drop(stream);
        Ok(Answer::Object(Box::new(move |py| match self.current.lock().take() {
            Some(row) => Ok(json::read(py, row.as_str())?.unbind()),
            None => Ok(py.None()),
        })))
    }
}

#[pymethods]
impl RemoteEventStream {
    /// The next event: `[attempt, envelope]`.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reading = Arc::clone(&self.reading);
        self.calls.call(py, reading.next())
    }

    /// Events of the log need no acknowledgement.
    fn ack<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.calls.call(py, async { Ok::<_, ErrorInfo>(Answer::Nothing) })
    }
}
