//! Responses in pieces.
//!
//! A stream ends in one of two ways: with `Finished`, which has the whole response, or with an
//! error. A caller that only wants the response can ignore all pieces; one that shows them has to
//! drop what it has shown at a `Reset`.

use std::pin::Pin;

use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::{ModelError, ModelErrorKind, ModelResponse, Part, Usage};

/// A response in pieces.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<StreamEvent, ModelError>> + Send>>;

/// A piece of a response.
///
/// # Examples
///
/// ```
/// use aios_llm::model::StreamEvent;
///
/// /// Shows the text of a response while it arrives.
/// fn show(shown: &mut String, event: &StreamEvent) {
///     match event {
///         StreamEvent::Text(text) => shown.push_str(text),
///         StreamEvent::Reset => shown.clear(),
///         _ => {}
///     }
/// }
/// # let mut shown = String::new();
/// # show(&mut shown, &StreamEvent::Text("Hi".to_owned()));
/// # assert_eq!(shown, "Hi");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// More text.
    Text(String),
    /// More reasoning.
    Reasoning(String),
    /// More of a tool call.
    ToolCall {
        /// Number of the call in the response, from 0.
        index: usize,
        /// Id of the call; empty if it was sent before.
        id: String,
        /// Name of the tool; empty if it was sent before.
        name: String,
        /// More of the arguments.
        arguments: String,
    },
    /// The tokens of the request so far, as far as the provider has reported them; the latest such event
    /// counts. A model need not report them: the whole response has its usage as well. They count if the
    /// request is given up before its end.
    Usage(Usage),
    /// Everything that came before is void: another model begins the response from the start.
    Reset,
    /// The whole response. The stream ends.
    Finished(ModelResponse),
}

/// Reads a stream to its end and returns the whole response.
///
/// # Errors
///
/// The error of the stream; `MODEL_INVALID_RESPONSE` if it ends without the whole response.
///
/// # Cancel safety
///
/// Dropping the future aborts the request.
pub async fn collect(mut stream: ModelStream) -> Result<ModelResponse, ModelError> {
    while let Some(event) = stream.next().await {
        if let StreamEvent::Finished(response) = event? {
            return Ok(response);
        }
    }
    let reason = "the stream ended before the response was complete";
    Err(ModelError::new(ModelErrorKind::InvalidResponse, reason))
}

/// A whole response as a stream: one event for each part, then [`StreamEvent::Finished`].
///
/// ```
/// use aios_llm::model::{ModelResponse, StreamEvent, collect, whole};
/// use futures_util::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aios_llm::ModelError> {
/// let mut stream = whole(ModelResponse::text("Paris"));
/// let first = stream.next().await.transpose()?;
/// assert_eq!(first, Some(StreamEvent::Text("Paris".to_owned())));
/// assert_eq!(collect(stream).await?.output_text(), "Paris");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn whole(response: ModelResponse) -> ModelStream {
    let mut calls = 0;
    let pieces = response.content.iter().filter_map(|part| match part {
        Part::Text { text } => Some(StreamEvent::Text(text.clone())),
        Part::Reasoning { text, .. } => Some(StreamEvent::Reasoning(text.clone())),
        Part::ToolCall(call) => {
            calls += 1;
            Some(StreamEvent::ToolCall {
                index: calls - 1,
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            })
        }
        _ => None,
    });
    let mut events: Vec<_> = pieces.map(Ok).collect();
    events.push(Ok(StreamEvent::Finished(response)));
    Box::pin(stream::iter(events))
}
