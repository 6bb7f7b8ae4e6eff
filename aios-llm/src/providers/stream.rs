//! The events of a response, and the response that they build.
//!
//! A stream is read in three layers: chunks of the body, frames in the chunks, and pieces that the
//! adapter makes of a frame. Each layer buffers only what is not complete. Nothing is read ahead:
//! the next chunk is requested when all pieces of the last one were taken, so a slow reader slows
//! the provider down.
//!
//! A stream ends with a complete response or an error, never silently. An error has the usage that
//! was reported before it, because the provider bills that. The size of a body is limited, because
//! lines have no limit of their own.

use std::collections::VecDeque;

use futures_util::stream;
use reqwest::Response;
use serde_json::Value;

use super::{
    aws_events, body,
    connection::{Connection, MAX_RESPONSE_BYTES},
    error::{check_event, invalid_response, of_transport, tells_of_error},
    key::ApiKey,
};
use crate::model::{ModelError, ModelStream, StreamEvent, Usage};

/// Longest body that is kept because it is an object instead of events, in bytes.
const MAX_PLAIN_BYTES: usize = 64 * 1024;

/// Builds a response from the events of one protocol.
pub(super) trait Assemble: Send + 'static {
    /// Takes the data of an event and returns the pieces that it adds. The last one is
    /// [`StreamEvent::Finished`].
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError>;

    /// Takes the end of the stream: the marker `[DONE]`, or else the end of the body. Returns the last
    /// piece, or `None` if the response is not complete.
    fn end(&mut self, _is_marked: bool) -> Result<Option<StreamEvent>, ModelError> {
        Ok(None)
    }

    /// The usage that was reported so far.
    fn usage(&self) -> Usage;
}

/// How events are separated.
#[derive(Clone, Copy)]
pub(super) enum Framing {
    /// Server-sent events with JSON.
    ServerEvents,
    /// Messages of AWS event streams.
    AwsEvents,
}

/// A part of the body.
enum Frame {
    /// The data of an event.
    Event(Value),
    /// A comment, or the name of an event.
    Nothing,
    /// The marker of the end.
    Done,
}

/// The state of a stream that is read.
struct Reading<A> {
    /// Name of the model, for errors.
    name: String,
    /// Hidden in errors.
    key: ApiKey,
    /// The body.
    response: Response,
    /// How its events are separated.
    framing: Framing,
    /// Makes pieces of events.
    assemble: A,
    /// The part of the next frame that has arrived.
    buffer: Vec<u8>,
    /// The lines of a body that is an object instead of events.
    plain: Vec<u8>,
    /// How many bytes of `buffer` are known to have no end of a line, so that a long line is searched once.
    searched: usize,
    /// Bytes of the body so far.
    read: usize,
    /// The usage that was passed on.
    reported: Usage,
    /// Pieces of the last event that were not taken yet.
    ready: VecDeque<StreamEvent>,
    /// Whether the stream has ended.
    is_over: bool,
}

/// The pieces of a response. A stream that ends before the whole response is an error.
pub(super) fn read(
    connection: &Connection,
    response: Response,
    framing: Framing,
    assemble: impl Assemble,
) -> ModelStream {
    let reading = Reading {
        name: connection.name.clone(),
        key: connection.api_key.clone(),
        response,
        framing,
        assemble,
        buffer: Vec::new(),
        plain: Vec::new(),
        searched: 0,
        read: 0,
        reported: Usage::default(),
        ready: VecDeque::new(),
        is_over: false,
    };
    Box::pin(stream::unfold(reading, |mut reading| async move {
        if reading.is_over {
            return None;
        }
        // The provider bills what it has reported.
        let next = reading.next().await.map_err(|error| error.or_usage(reading.assemble.usage()));
        reading.is_over = matches!(next, Err(_) | Ok(StreamEvent::Finished(_)));
        Some((next, reading))
    }))
}

impl<A: Assemble> Reading<A> {
    /// The next piece, from what has arrived or from more of the body.
    async fn next(&mut self) -> Result<StreamEvent, ModelError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(piece);
            }
            match self.frame()? {
                Some(Frame::Event(event)) => {
                    let pieces = self.assemble.take(&event)?;
                    // First, so that it is known as soon as one of the pieces is.
                    let usage = self.changed_usage();
                    self.ready.extend(usage.into_iter().chain(pieces));
                }
                Some(Frame::Nothing) => {}
                Some(Frame::Done) => return self.end(true),
                None => {
                    let chunk = self.response.chunk().await;
                    let chunk = chunk.map_err(|error| of_transport(&self.name, error))?;
                    let Some(chunk) = chunk else {
                        // The last line may have no end.
                        if self.ends_line() {
                            continue;
                        }
                        return self.end(false);
                    };
                    self.read += chunk.len();
                    if self.read > MAX_RESPONSE_BYTES {
                        return Err(invalid_response(&self.name, "is too large"));
                    }
                    self.buffer.extend_from_slice(&chunk);
                }
            }
        }
    }

    /// The usage, if it has changed since it was passed on.
    fn changed_usage(&mut self) -> Option<StreamEvent> {
        let usage = self.assemble.usage();
        let before = std::mem::replace(&mut self.reported, usage);
        (usage != before).then_some(StreamEvent::Usage(usage))
    }

    /// Ends the last line of a body, if there is one.
    fn ends_line(&mut self) -> bool {
        let is_open = matches!(self.framing, Framing::ServerEvents) && !self.buffer.is_empty();
        self.buffer.extend(is_open.then_some(b'\n'));
        is_open
    }

    /// The last piece, if the protocol ends with the stream.
    fn end(&mut self, is_marked: bool) -> Result<StreamEvent, ModelError> {
        // Some providers answer a request for a stream with an error that has status 200.
        if let Ok(body) = serde_json::from_slice(&self.plain) {
            check_event(&self.name, &self.key.hidden_in(body))?;
        }
        let last = self.assemble.end(is_marked)?;
        last.ok_or_else(|| invalid_response(&self.name, "ended before it was complete"))
    }

    /// The next frame, if it has arrived.
    fn frame(&mut self) -> Result<Option<Frame>, ModelError> {
        match self.framing {
            Framing::ServerEvents => self.line(),
            Framing::AwsEvents => {
                let event = aws_events::take(&self.name, &self.key, &mut self.buffer)?;
                Ok(event.map(Frame::Event))
            }
        }
    }

    /// The next line. Providers put the data of each event on one.
    fn line(&mut self) -> Result<Option<Frame>, ModelError> {
        let mut rest = self.buffer.iter().skip(self.searched);
        let Some(found) = rest.position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        let end = self.searched + found;
        self.searched = 0;
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let data = match line.strip_prefix("data:").map(str::trim) {
            None => {
                let is_plain = !self.plain.is_empty() || line.trim_start().starts_with('{');
                if is_plain && self.plain.len() + line.len() <= MAX_PLAIN_BYTES {
                    self.plain.extend_from_slice(line.as_bytes());
                }
                return Ok(Some(Frame::Nothing));
            }
            Some("[DONE]") => return Ok(Some(Frame::Done)),
            Some(data) => data,
        };
        let event = body::read(data.as_bytes())
            .map_err(|_| invalid_response(&self.name, "has an event that is not valid JSON"))?;
        // Some providers report an error in the middle of a stream with status 200.
        let event = if tells_of_error(&event) { self.key.hidden_in(event) } else { event };
        check_event(&self.name, &event)?;
        Ok(Some(Frame::Event(event)))
    }
}
