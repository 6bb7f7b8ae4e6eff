//! The conversation of a run, read from its journal.
//!
//! The journal of a run is the stream of its conversation. List runs like all runs of a
//! workflow, with [`ReadModels::runs`](aios_core::store::ReadModels::runs). A run can be continued, or
//! started again from any turn, without paying for the earlier turns: their messages are the [`Prompt`] of
//! a new run, which says which run it [continues](Conversation::continues). [`Conversation::runs`] lists
//! the runs that are connected in this way.
//!
//! The journal holds the conversation in pieces: each model call only adds what is new, and results
//! of tools are the ends of their tasks. This module puts them together in one pass over the
//! events. It only reads, so it works on the journal of any run, even of one that has not ended.

mod reader;
mod runs;

use std::collections::BTreeMap;

use aios_agents::{RunHandle, RuntimeError};
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed, TaskId},
    event::{Event, EventError},
    store::MAX_PAGE,
};

use self::reader::Reader;
pub use self::runs::{ConversationError, ConversationRun};
use crate::{
    agent::{Edited, FINAL_TOOL, Origin, Prompt, SUMMARY_PREFIX, ToolTask},
    budget::Spent,
    model::{Message, ModelResponse, ToolCall, ToolResult},
};

/// The turns of a run so far, and what they cost.
///
/// # Examples
///
/// Another question in the same conversation, whose earlier turns are not paid for again:
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::{Conversation, LlmAgent, ModelResponse, RuntimeBuilderExt, testing::ScriptedModel};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let model = ScriptedModel::new([ModelResponse::text("Paris"), ModelResponse::text("The Seine")]);
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .llm_agent("geographer", LlmAgent::new(model))?
/// #     .start()
/// #     .await?;
/// let run = runtime.start("geographer", "What is the capital of France?").await?;
/// run.result::<String>().await?;
///
/// let conversation = Conversation::of(&run).await?;
/// assert_eq!(conversation.turns().len(), 1);
/// let next = runtime.start("geographer", &conversation.continued("Which river is there?")).await?;
/// assert_eq!(next.result::<String>().await?, "The Seine");
/// assert_eq!(Conversation::of(&next).await?.messages().len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Id of the run, if it was read from a run.
    run_id: Option<String>,
    /// The prompt, without its messages.
    prompt: Prompt,
    /// The agents that have taken over by now, see [`Prompt::handovers`].
    handovers: Vec<String>,
    /// In order; a summary is not one.
    turns: Vec<Turn>,
    /// The messages of the prompt, then the messages of the latest request, and its response if there is one.
    latest: Vec<Message>,
    /// The calls of the last response whose results the latest messages lack.
    open_calls: Vec<ToolCall>,
    /// From the latest settlement.
    spent: Spent,
    /// The messages that the first message of the latest turns stands for, if it is a summary.
    replaced: Vec<Message>,
    /// The messages that the next request has a summary for.
    summarized: Option<Summarized>,
    /// The results of calls of the last turn.
    results: Results,
}

/// One response of the model, with the messages that it answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Turn {
    /// The messages of the conversation before the response.
    pub messages: Vec<Message>,
    /// The response.
    pub response: ModelResponse,
    /// The agents that had taken over, see [`Prompt::handovers`]: the last one made the response; the first
    /// agent if there is none.
    pub handovers: Vec<String>,
}

/// The results of calls that are recorded, by the ids of the calls.
#[derive(Clone, Debug, Default, PartialEq)]
struct Results {
    /// The calls of tasks.
    calls: BTreeMap<TaskId, String>,
    /// Results, and whether each is an error.
    ended: BTreeMap<String, (String, bool)>,
    /// Calls whose arguments a person has changed.
    edited: BTreeMap<String, Edited>,
    /// Whether the run has completed, so that its result was taken.
    is_complete: bool,
}

/// The messages of the latest request for a summary.
#[derive(Clone, Debug, PartialEq)]
struct Summarized {
    /// The messages, without the message that asks for the summary.
    messages: Vec<Message>,
    /// Whether the run has replaced them: a summary may have failed.
    is_replaced: bool,
}

impl Conversation {
    /// Reads the conversation of a run.
    ///
    /// # Errors
    ///
    /// Errors of the store; an event of the journal cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn of(run: &RunHandle) -> Result<Self, RuntimeError> {
        let mut events = Vec::new();
        let mut after = 0;
        loop {
            let page = run.journal(after, MAX_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            events.extend(page.into_iter().map(|recorded| recorded.event));
        }
        let run_id = Some(run.id().to_owned());
        Ok(Self { run_id, ..Self::from_journal(&events)? })
    }

    /// Reads the conversation from the events of a journal. Prompts that continue it do not say which run
    /// they [continue](Self::continues): the events do not tell.
    ///
    /// # Errors
    ///
    /// [`EventError`] if the data of an event cannot be decoded.
    pub fn from_journal<'e>(
        journal: impl IntoIterator<Item = &'e Event>,
    ) -> Result<Self, EventError> {
        let mut reader = Reader::default();
        journal.into_iter().try_for_each(|event| reader.read(event))?;
        Ok(reader.conversation)
    }

    /// Takes the messages of a request. They hold the results of the calls before it, and the latest
    /// summary instead of the messages that it replaces.
    fn ask(&mut self, messages: &[Message]) {
        if let Some(summarized) = self.summarized.take_if(|it| it.is_replaced) {
            let replaced = std::mem::take(&mut self.replaced);
            self.replaced = expanded(replaced, summarized.messages);
        }
        self.latest = messages.to_vec();
        self.open_calls.clear();
    }

    /// Adds a turn.
    fn answer(&mut self, messages: Vec<Message>, response: ModelResponse) {
        self.latest.push(response.to_message());
        self.open_calls = response.tool_calls().cloned().collect();
        // Results belong to the latest response only; earlier ones are in its messages.
        self.results = Results::default();
        self.turns.push(Turn { messages, response, handovers: self.handovers.clone() });
    }

    /// Takes the messages of a request for a summary: all but the last, which asks for it.
    fn summarize(&mut self, mut messages: Vec<Message>) {
        messages.pop();
        self.summarized = Some(Summarized { messages, is_replaced: false });
    }

    /// The prompt with which the run began, without its messages.
    #[must_use]
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The agents that have taken over by now, see [`Prompt::handovers`]; empty if the first agent has the
    /// conversation.
    #[must_use]
    pub fn handovers(&self) -> &[String] {
        &self.handovers
    }

    /// The instructions with which the prompt replaced those of the agent, if it did.
    #[must_use]
    pub fn instructions(&self) -> Option<&str> {
        self.prompt.instructions.as_deref()
    }

    /// The subject of the prompt, if it named one.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.prompt.subject.as_deref()
    }

    /// The turns, in order.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The sums of the run so far, as settled in its log.
    #[must_use]
    pub fn spent(&self) -> &Spent {
        &self.spent
    }

    /// All messages: the messages of the latest request, and its response if there is one. Before the first
    /// request, they are the messages of the prompt.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.latest.clone()
    }

    /// The run whose conversation this one continues, and how many of its turns are kept. `None` if its
    /// prompt was not made from the conversation of a run.
    #[must_use]
    pub fn continues(&self) -> Option<&Origin> {
        self.prompt.continues.as_ref()
    }

    /// All messages of the run as they were: those that a
    /// [compaction](crate::Compaction) replaced stand where its summary is in
    /// [`messages`](Self::messages). Those that an earlier run replaced are in the transcript of the run that
    /// this one [continues](Self::continues).
    #[must_use]
    pub fn transcript(&self) -> Vec<Message> {
        expanded(self.replaced.clone(), self.messages())
    }

    /// The results of the calls of the last response, if it has any and the
    /// [messages](Self::messages) do not hold their results. The result of a call that the journal has
    /// no result for says that it is unknown.
    #[must_use]
    pub fn results(&self) -> Option<Message> {
        let results: Vec<_> = self.open_calls.iter().map(|call| self.results.of(call)).collect();
        (!results.is_empty()).then(|| Message::tool_results(results))
    }

    /// The prompt of a new run that continues the conversation with another message of the user, after
    /// the [results](Self::results) of the last calls. It begins with the agent that has the conversation,
    /// and has the subject of the prompt with which this run began. It has the instructions of that prompt
    /// if this run began with the same agent; [`with_instructions`](Prompt::with_instructions) sets
    /// others.
    #[must_use]
    pub fn continued(&self, text: impl Into<String>) -> Prompt {
        let mut messages = self.messages();
        messages.extend(self.results());
        let kept = self.turns.len();
        self.prompt_of(messages, &self.handovers, kept).with_message(Message::user(text))
    }

    /// The prompt of a new run that begins with this turn, from 1: the turns before it are kept, and
    /// the turn and those after it are requested again. It begins with the agent that made the response of
    /// the turn, and has the instructions and the subject that [`continued`](Self::continued) has. `None` if
    /// the conversation has no such turn.
    #[must_use]
    pub fn from_turn(&self, turn: usize) -> Option<Prompt> {
        let kept = turn.checked_sub(1)?;
        let turn = self.turns.get(kept)?;
        Some(self.prompt_of(turn.messages.clone(), &turn.handovers, kept))
    }

    /// A prompt with these messages, of which this many turns are kept, and which begins with the last of
    /// these agents.
    fn prompt_of(&self, messages: Vec<Message>, handovers: &[String], kept: usize) -> Prompt {
        let continues = self.run_id.as_ref().map(|run_id| Origin::new(run_id, kept));
        let handovers_so_far = handovers.to_vec();
        let mut prompt =
            Prompt { messages, continues, handovers: handovers_so_far, ..self.prompt.clone() };
        if self.prompt.handovers != handovers {
            // They are for another agent.
            prompt.instructions = None;
        }
        prompt
    }
}

impl Results {
    /// Takes an event about a task of the tools.
    fn take(&mut self, action: &str, event: &Event) -> Result<(), EventError> {
        match action {
            "task_assigned" => {
                let assigned: TaskAssigned = event.data()?;
                let task: ToolTask = assigned.parameters.decode()?;
                self.calls.insert(assigned.task_id, task.call_id);
            }
            "task_completed" => {
                let task: TaskCompleted = event.data()?;
                if let Some(call) = self.calls.get(&task.task_id).filter(|it| !it.is_empty()) {
                    self.ended.insert(call.clone(), (task.output.decode()?, false));
                }
            }
            "task_failed" => {
                let task: TaskFailed = event.data()?;
                if let Some(call) = self.calls.get(&task.task_id) {
                    self.ended.insert(call.clone(), (task.failure.to_string(), true));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The result of a call.
    fn of(&self, call: &ToolCall) -> ToolResult {
        let unknown = || match call.name.as_str() {
            FINAL_TOOL if self.is_complete => ("The result was taken.".to_owned(), false),
            FINAL_TOOL => ("The run ended, and the result was not taken.".to_owned(), true),
            _ => ("The run ended, and the result of this call is unknown.".to_owned(), true),
        };
        let (content, is_error) = self.ended.get(&call.id).cloned().unwrap_or_else(unknown);
        let edited = self.edited.get(&call.id);
        let content = edited.map_or_else(|| content.clone(), |edited| edited.told(&content));
        ToolResult { call_id: call.id.clone(), name: call.name.clone(), content, is_error }
    }
}

/// Messages of which the first is a summary of others, if there are others.
fn expanded(mut replaced: Vec<Message>, messages: Vec<Message>) -> Vec<Message> {
    let is_summary = |message: &Message| message.text().starts_with(SUMMARY_PREFIX);
    if replaced.is_empty() || !messages.first().is_some_and(is_summary) {
        return messages;
    }
    replaced.extend(messages.into_iter().skip(1));
    replaced
}
