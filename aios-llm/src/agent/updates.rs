//! Updates that an agent writes to the output stream of its run while it works.
//!
//! The task of a model call writes the pieces of the response, the task of a tool its progress, and
//! the code of the workflow what happens between them. Updates are for people who watch. Nothing
//! depends on them: a failure to write one is logged, and the run continues.
//!
//! Partial output is completed to valid JSON before it is written (`partial_json`). It is written
//! again only when it has grown by an eighth, so that the sum of all versions stays proportional to
//! the last one.

use aios_core::{
    Chain,
    output::{OutputError, OutputStream},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::output::Output;
use crate::{model::StreamEvent, partial_json::complete};

/// Name of the output stream that an agent writes [`AgentUpdate`]s to.
pub const TOKENS: &str = "tokens";

/// Least growth of structured output before it is written again, in bytes.
const LEAST_GROWTH: usize = 16;

/// Whether an agent writes what it does to the output stream [`TOKENS`] of its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Streaming {
    /// Nothing is written, and responses are requested as a whole.
    #[default]
    Off,
    /// Responses are requested as streams, and their pieces are written, as are partial output and
    /// the progress of tools. Processes without a store request whole responses.
    On,
}

/// An item of the output stream [`TOKENS`] of an agent's run.
///
/// The writer of the pieces of a response is the task of the model call. After a reset of the
/// stream, or [`Restarted`](Self::Restarted), the pieces that this writer wrote before are void.
///
/// # Examples
///
/// ```
/// use aios_agents::{output::OutputContent, prelude::*};
/// use aios_llm::{
///     AgentUpdate, LlmAgent, ModelResponse, RuntimeBuilderExt, Streaming, TOKENS,
///     testing::ScriptedModel,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = ScriptedModel::new([ModelResponse::text("Paris")]);
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .llm_agent("geographer", LlmAgent::new(model).streaming(Streaming::On))?
///     .start()
///     .await?;
/// let run = runtime.start("geographer", "What is the capital of France?").await?;
///
/// let mut updates = run.stream(TOKENS).read_from(0);
/// let mut text = String::new();
/// while let Some(item) = updates.next().await {
///     match item?.content {
///         OutputContent::Item(update) => match update.decode()? {
///             AgentUpdate::Text { text: more } => text += &more,
///             AgentUpdate::Restarted => text.clear(),
///             _ => {}
///         },
///         OutputContent::Reset => text.clear(),
///         _ => {}
///     }
/// }
/// assert_eq!(text, "Paris");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentUpdate {
    /// More text of the response.
    Text {
        /// The text.
        text: String,
    },
    /// More reasoning.
    Reasoning {
        /// The text.
        text: String,
    },
    /// More of a tool call.
    ToolCall {
        /// Number of the call in the response, from 0.
        index: usize,
        /// Id of the call; empty if it was written before.
        id: String,
        /// Name of the tool; empty if it was written before.
        name: String,
        /// More of the arguments.
        arguments: String,
    },
    /// The structured output as far as it is known. Nothing in it is validated.
    Partial {
        /// The output.
        value: Value,
    },
    /// Another agent continues the conversation.
    HandedOver {
        /// Name of the agent.
        to: String,
    },
    /// The pieces of this response are void: another model begins it from the start.
    Restarted,
    /// A tool call has begun.
    ToolStarted {
        /// Id of the call.
        call_id: String,
        /// Name of the tool.
        tool: String,
    },
    /// A tool has reported progress.
    ToolProgress {
        /// Id of the call.
        call_id: String,
        /// The progress.
        progress: Value,
    },
    /// A tool call has ended.
    ToolEnded {
        /// Id of the call.
        call_id: String,
        /// Whether it failed.
        is_error: bool,
    },
}

/// Writes the pieces of one response.
pub(super) struct Pieces<'o> {
    /// The stream of the run.
    stream: OutputStream,
    /// How the agent's output is requested, to find it in the pieces.
    output: &'o Output,
    /// The structured output so far, as text.
    text: String,
    /// Number of the call that carries structured output.
    final_call: Option<usize>,
    /// Length of the text when it was last written.
    written: usize,
}

impl<'o> Pieces<'o> {
    /// Nothing was written yet.
    pub(super) fn new(stream: OutputStream, output: &'o Output) -> Self {
        Self { stream, output, text: String::new(), final_call: None, written: 0 }
    }

    /// Writes a piece. Waits if the store is slower than the model.
    pub(super) async fn write(&mut self, event: &StreamEvent) {
        let update = match event {
            StreamEvent::Text(text) => AgentUpdate::Text { text: text.clone() },
            StreamEvent::Reasoning(text) => AgentUpdate::Reasoning { text: text.clone() },
            StreamEvent::ToolCall { index, id, name, arguments } => AgentUpdate::ToolCall {
                index: *index,
                id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
            },
            StreamEvent::Reset => AgentUpdate::Restarted,
            StreamEvent::Finished(_) => return,
        };
        write(&self.stream, &update).await;
        if let Some(value) = self.partial(event) {
            write(&self.stream, &AgentUpdate::Partial { value }).await;
        }
    }

    /// The structured output so far, if it has grown enough: by an eighth, so that all versions
    /// together are not much longer than the last one.
    fn partial(&mut self, event: &StreamEvent) -> Option<Value> {
        match event {
            StreamEvent::Text(text) if self.output.is_text_of_model() => self.text.push_str(text),
            StreamEvent::ToolCall { index, name, arguments, .. } if self.output.is_tool() => {
                if name == super::output::FINAL_TOOL {
                    self.final_call = Some(*index);
                }
                if self.final_call == Some(*index) {
                    self.text.push_str(arguments);
                }
            }
            StreamEvent::Reset => {
                (self.text, self.final_call, self.written) = (String::new(), None, 0);
            }
            _ => return None,
        }
        let growth = LEAST_GROWTH.max(self.written / 8);
        if self.text.len() < self.written.saturating_add(growth) {
            return None;
        }
        self.written = self.text.len();
        complete(self.output.without_decoration(&self.text)).map(|it| self.output.unwrap(it))
    }
}

/// Writes an update. A failure is logged: updates are not part of the result.
pub(super) async fn write(stream: &OutputStream, update: &AgentUpdate) {
    let written = match stream.write(update) {
        // The store is slower than the model: wait for it instead of losing updates.
        Err(OutputError::Backlog { .. }) => match stream.flush().await {
            Ok(()) => stream.write(update),
            Err(error) => Err(error),
        },
        written => written,
    };
    if let Err(error) = written {
        tracing::warn!(error = %Chain(&error), code = error.code(), "an update is not written");
    }
}
