//! Server-sent events of a response, and the response that they build.

use std::collections::VecDeque;

use futures_util::stream;
use reqwest::Response;
use serde_json::Value;

use super::{
    connection::MAX_RESPONSE_BYTES,
    error::{invalid_response, of_event, of_transport},
};
use crate::model::{ModelError, ModelStream, StreamEvent};

/// Builds a response from the events of one protocol.
pub(super) trait Assemble: Send + 'static {
    /// Takes the data of an event and returns the pieces that it adds. The last one is
    /// [`StreamEvent::Finished`].
    fn take(&mut self, event: &Value) -> Result<Vec<StreamEvent>, ModelError>;

    /// Takes the text of an event that is not JSON: the end of some streams.
    fn take_done(&mut self) -> Result<Vec<StreamEvent>, ModelError>;
}

struct Reading<A> {
    name: String,
    response: Response,
    assemble: A,
    buffer: Vec<u8>,
    read: usize,
    ready: VecDeque<StreamEvent>,
    is_over: bool,
}

/// The pieces of a response. A stream that ends before the whole response is an error.
pub(super) fn read(name: &str, response: Response, assemble: impl Assemble) -> ModelStream {
    let reading = Reading {
        name: name.to_owned(),
        response,
        assemble,
        buffer: Vec::new(),
        read: 0,
        ready: VecDeque::new(),
        is_over: false,
    };
    Box::pin(stream::unfold(reading, |mut reading| async move {
        if reading.is_over {
            return None;
        }
        let next = reading.next().await;
        reading.is_over = matches!(next, Err(_) | Ok(StreamEvent::Finished(_)));
        Some((next, reading))
    }))
}

impl<A: Assemble> Reading<A> {
    async fn next(&mut self) -> Result<StreamEvent, ModelError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(piece);
            }
            if let Some(line) = self.line() {
                self.take(&line)?;
                continue;
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| of_transport(&self.name, error))?;
            let Some(chunk) = chunk else {
                return Err(invalid_response(&self.name, "ended before it was complete"));
            };
            self.read += chunk.len();
            if self.read > MAX_RESPONSE_BYTES {
                return Err(invalid_response(&self.name, "is too large"));
            }
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next complete line.
    fn line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn take(&mut self, line: &str) -> Result<(), ModelError> {
        // Providers put the data of each event on one line; names and comments add nothing.
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { return Ok(()) };
        if data == "[DONE]" {
            self.ready.extend(self.assemble.take_done()?);
            return Ok(());
        }
        let event: Value = serde_json::from_str(data)
            .map_err(|_| invalid_response(&self.name, "has an event that is not valid JSON"))?;
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(of_event(&self.name, &event));
        }
        self.ready.extend(self.assemble.take(&event)?);
        Ok(())
    }
}
