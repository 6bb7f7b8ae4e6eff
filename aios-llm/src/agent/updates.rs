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
    event::Payload,
    output::{OutputError, OutputStream},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::{calls::CallIds, output::Output};
use crate::{
    model::{ModelResponse, StreamEvent},
    partial_json::complete,
};

/// Name of the output stream that an agent writes [`AgentUpdate`]s to.
pub const TOKENS: &str = "tokens";

/// Longest text in one update, in bytes. Letters may take six bytes each in JSON, and an item has at most
/// 256 KiB.
const MAX_TEXT: usize = 32 * 1024;
/// Longest structured output that is written while it is not complete, in bytes. An item has at most
/// 256 KiB.
const MAX_PARTIAL: usize = 240 * 1024;
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
/// stream, the pieces that this writer wrote before are void. After
/// [`Restarted`](Self::Restarted), the pieces of earlier tasks that requested the same response are
/// void, too.
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
/// // The text of the latest response, and its writer: each model call is one.
/// let (mut text, mut writer) = (String::new(), None);
/// while let Some(item) = updates.next().await {
///     let item = item?;
///     match item.content {
///         OutputContent::Item(update) => match update.decode()? {
///             AgentUpdate::Text { text: more } => {
///                 if writer.as_ref() != Some(&item.writer) {
///                     text.clear();
///                     writer = Some(item.writer);
///                 }
///                 text.push_str(&more);
///             }
///             AgentUpdate::Restarted => text.clear(),
///             _ => {}
///         },
///         // Tools are writers, too.
///         OutputContent::Reset if writer.as_ref() == Some(&item.writer) => text.clear(),
///         _ => {}
///     }
/// }
/// assert_eq!(text, "Paris");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "Form")]
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
        /// Id of the call; empty if it was written before, or is not known yet.
        id: String,
        /// Name of the tool; empty if it was written before.
        name: String,
        /// More of the arguments.
        arguments: String,
    },
    /// The structured output as far as it is known. Nothing in it is validated.
    Partial {
        /// The output.
        value: Payload,
    },
    /// Another agent continues the conversation.
    HandedOver {
        /// Name of the agent.
        to: String,
    },
    /// The pieces of this response are void: it begins from the start, because another model is asked
    /// or the request is repeated.
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
        progress: Payload,
    },
    /// A tool call has ended.
    ToolEnded {
        /// Id of the call.
        call_id: String,
        /// Whether it failed.
        is_error: bool,
    },
}

/// The JSON of an update. A tagged enum would read the JSON in it as a value, and round its numbers.
#[derive(Deserialize)]
struct Form {
    #[serde(rename = "type")]
    kind: Kind,
    text: Option<String>,
    index: Option<usize>,
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Payload>,
    to: Option<String>,
    call_id: Option<String>,
    tool: Option<String>,
    #[serde(default, deserialize_with = "present")]
    progress: Option<Payload>,
    is_error: Option<bool>,
}

/// The variants of an [`AgentUpdate`].
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    Reasoning,
    ToolCall,
    Partial,
    HandedOver,
    Restarted,
    ToolStarted,
    ToolProgress,
    ToolEnded,
}

/// Reads a field that may be null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

impl TryFrom<Form> for AgentUpdate {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        fn of<T>(field: Option<T>, name: &str) -> Result<T, String> {
            field.ok_or_else(|| format!("missing field `{name}`"))
        }
        let Form { text, index, id, name, arguments, value, to, call_id, tool, .. } = form;
        let text = || of(text, "text");
        let call_id = || of(call_id, "call_id");
        Ok(match form.kind {
            Kind::Text => Self::Text { text: text()? },
            Kind::Reasoning => Self::Reasoning { text: text()? },
            Kind::ToolCall => Self::ToolCall {
                index: of(index, "index")?,
                id: of(id, "id")?,
                name: of(name, "name")?,
                arguments: of(arguments, "arguments")?,
            },
            Kind::Partial => Self::Partial { value: of(value, "value")? },
            Kind::HandedOver => Self::HandedOver { to: of(to, "to")? },
            Kind::Restarted => Self::Restarted,
            Kind::ToolStarted => Self::ToolStarted { call_id: call_id()?, tool: of(tool, "tool")? },
            Kind::ToolProgress => {
                Self::ToolProgress { call_id: call_id()?, progress: of(form.progress, "progress")? }
            }
            Kind::ToolEnded => {
                Self::ToolEnded { call_id: call_id()?, is_error: of(form.is_error, "is_error")? }
            }
        })
    }
}

/// Writes the pieces of one response.
pub(super) struct Pieces<'o> {
    /// The stream of the run.
    stream: OutputStream,
    /// How the agent's output is requested, to find it in the pieces.
    output: &'o Output,
    /// The ids of the calls in the pieces.
    ids: CallIds,
    /// The structured output so far, as text.
    text: String,
    /// Number of the call that carries structured output.
    final_call: Option<usize>,
    /// Length of the text when it was last written.
    written: usize,
}

impl<'o> Pieces<'o> {
    /// Nothing was written yet.
    pub(super) fn new(stream: OutputStream, output: &'o Output, ids: CallIds) -> Self {
        Self { stream, output, ids, text: String::new(), final_call: None, written: 0 }
    }

    /// Writes a piece. Waits if the store is slower than the model.
    pub(super) async fn write(&mut self, event: &StreamEvent) {
        match event {
            StreamEvent::Text(text) => {
                for text in in_parts(text) {
                    write(&self.stream, &AgentUpdate::Text { text }).await;
                }
            }
            StreamEvent::Reasoning(text) => {
                for text in in_parts(text) {
                    write(&self.stream, &AgentUpdate::Reasoning { text }).await;
                }
            }
            StreamEvent::ToolCall { index, id, name, arguments } => {
                let is_new = !id.is_empty() && !self.ids.has(*index);
                let id = if is_new { self.ids.of(*index, id).to_owned() } else { String::new() };
                let (mut id, mut name, index) = (id, name.clone(), *index);
                for arguments in in_parts(arguments) {
                    // Only the first part says which call it is.
                    let (id, name) = (std::mem::take(&mut id), std::mem::take(&mut name));
                    let update = AgentUpdate::ToolCall { index, id, name, arguments };
                    write(&self.stream, &update).await;
                }
            }
            StreamEvent::Reset => {
                self.ids.restart();
                write(&self.stream, &AgentUpdate::Restarted).await;
            }
            StreamEvent::Usage(_) | StreamEvent::Finished(_) => return,
        }
        if let Some(value) = self.partial(event) {
            write(&self.stream, &AgentUpdate::Partial { value }).await;
        }
    }

    /// The whole response, with the ids that the pieces have. Writes the ids of calls to which the
    /// model has given none.
    pub(super) async fn finish(&mut self, response: ModelResponse) -> ModelResponse {
        let known: Vec<_> = (0..response.tool_calls().count()).map(|it| self.ids.has(it)).collect();
        let response = self.ids.applied_to(response);
        for (index, (call, is_known)) in response.tool_calls().zip(known).enumerate() {
            if !is_known {
                let (id, name, arguments) = (call.id.clone(), String::new(), String::new());
                let update = AgentUpdate::ToolCall { index, id, name, arguments };
                write(&self.stream, &update).await;
            }
        }
        response
    }

    /// The structured output so far, if it has grown enough: by an eighth, so that all versions
    /// together are not much longer than the last one.
    fn partial(&mut self, event: &StreamEvent) -> Option<Payload> {
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
        // One that is too long to be written is not an error: the pieces have all of it.
        let value = complete(self.output.without_decoration(&self.text))?;
        Some(self.output.unwrap(value)).filter(|it| it.as_str().len() <= MAX_PARTIAL)
    }
}

/// The parts of a text that each fit in an update; at least one.
fn in_parts(text: &str) -> impl Iterator<Item = String> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (part, more) = text.split_at(text.floor_char_boundary(MAX_TEXT));
        rest = Some(more).filter(|more| !more.is_empty());
        Some(part.to_owned())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_what_it_writes() {
        let (id, name) = (|| "c".to_owned(), || "search".to_owned());
        for update in [
            AgentUpdate::Text { text: "a".to_owned() },
            AgentUpdate::Reasoning { text: "b".to_owned() },
            AgentUpdate::ToolCall { index: 1, id: id(), name: name(), arguments: "{".to_owned() },
            AgentUpdate::Partial { value: Payload::null() },
            AgentUpdate::HandedOver { to: "billing".to_owned() },
            AgentUpdate::Restarted,
            AgentUpdate::ToolStarted { call_id: id(), tool: name() },
            AgentUpdate::ToolProgress { call_id: id(), progress: Payload::encode(&0.5).unwrap() },
            AgentUpdate::ToolEnded { call_id: id(), is_error: true },
        ] {
            let written = serde_json::to_string(&update).unwrap();
            assert_eq!(serde_json::from_str::<AgentUpdate>(&written).unwrap(), update);
        }
        let error = serde_json::from_str::<AgentUpdate>(r#"{"type":"text"}"#).unwrap_err();
        assert!(error.to_string().contains("missing field `text`"), "{error}");
        assert!(serde_json::from_str::<AgentUpdate>(r#"{"type":"other"}"#).is_err());
    }
}
