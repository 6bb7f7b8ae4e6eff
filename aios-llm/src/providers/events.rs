//! Events of streams that programs receive with a client of their own.

use std::fmt;

use super::{
    body,
    error::{check_event, invalid_response},
    stream::Assemble,
};
use crate::model::{ModelError, StreamEvent, Usage};

/// Builds a response from the events of a stream, for programs that make the request with a client of their
/// own: see [`OpenAiModel::response_events`](super::OpenAiModel::response_events) and
/// [`AnthropicModel::response_events`](super::AnthropicModel::response_events).
pub struct ResponseEvents {
    /// Name of the model, for errors.
    name: String,
    /// Makes pieces of events.
    assemble: Box<dyn Assemble>,
}

impl ResponseEvents {
    /// Nothing has arrived.
    pub(super) fn new(name: &str, assemble: impl Assemble) -> Self {
        Self { name: name.to_owned(), assemble: Box::new(assemble) }
    }

    /// Takes the data of the next event, as JSON, and returns the pieces that it adds. After
    /// [`StreamEvent::Finished`], the response is complete.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_RESPONSE` if it is not JSON or the response is malformed, and the error of the
    /// provider if it is one; with the usage that was reported before it.
    pub fn take(&mut self, json: &str) -> Result<Vec<StreamEvent>, ModelError> {
        self.read(json).map_err(|error| self.with_usage(error))
    }

    /// Takes the end of the stream, and returns the last piece.
    ///
    /// # Errors
    ///
    /// `MODEL_INVALID_RESPONSE` if the response is not complete.
    pub fn end(&mut self) -> Result<StreamEvent, ModelError> {
        let last = self.assemble.end(true).map_err(|error| self.with_usage(error))?;
        let incomplete = || invalid_response(&self.name, "ended before it was complete");
        last.ok_or_else(|| self.with_usage(incomplete()))
    }

    /// The pieces of an event.
    fn read(&mut self, json: &str) -> Result<Vec<StreamEvent>, ModelError> {
        let event = body::read(json.as_bytes())
            .map_err(|_| invalid_response(&self.name, "has an event that is not valid JSON"))?;
        check_event(&self.name, &event)?;
        self.assemble.take(&event)
    }

    /// An error with the usage that was reported before it, unless it has its own.
    fn with_usage(&self, error: ModelError) -> ModelError {
        let usage = self.assemble.usage();
        let is_added = error.usage().is_none() && usage != Usage::default();
        if is_added { error.with_usage(usage) } else { error }
    }
}

impl fmt::Debug for ResponseEvents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ResponseEvents").field(&self.name).finish()
    }
}
