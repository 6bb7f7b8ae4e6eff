//! Compaction: earlier messages of a conversation are replaced by a summary.
//!
//! The summary is a model call of its own: recorded, charged, and repeated like any other. It sees
//! the messages that it replaces and no others. The conversation then consists of the summary and
//! the latest messages. A replaced conversation gets a new epoch, so that the processes that make
//! model calls do not mix the old one with the new one (`history`).
//!
//! If the model writes no summary, or one that may be incomplete, the conversation stays as it is, and is
//! compacted after the next response. Each attempt is paid for, so their number in a row is limited
//! (`faults`).

use aios_agents::workflow::WorkflowError;
use serde::Serialize;

use crate::{
    agent::{calls::emit, session::Session},
    model::{FinishReason, Message, ModelRequest, Role, ToolChoice},
};

/// The request for a summary, after the messages that it replaces.
const ASK: &str = "Summarize the conversation so far.";
/// The beginning of a summary.
pub(crate) const PREFIX: &str = "Summary of the conversation so far:\n";

/// Replaces earlier messages of a conversation with a summary when it becomes long.
///
/// The model of the agent writes the summary, in a recorded request that counts like any other. The
/// event `llm.conversation.compacted` says how many messages it replaces. They remain in the journal:
/// see [`Conversation::transcript`](crate::Conversation::transcript).
///
/// # Examples
///
/// ```
/// use aios_llm::{Compaction, LlmAgent, testing::ScriptedModel};
///
/// let agent = LlmAgent::new(ScriptedModel::new([]))
///     .compaction(Compaction::above(100_000).with_kept_messages(8));
/// # drop(agent);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Input and output tokens of a response, above which the conversation is compacted.
    above: u64,
    /// Latest messages that are not replaced.
    keep: usize,
    /// Instead of those of the agent.
    instructions: String,
}

/// An event: messages were replaced by a summary.
#[derive(Debug, Serialize)]
struct Compacted {
    /// The turn after which it happened.
    turn: u32,
    /// Messages that the summary replaces.
    replaced: usize,
    /// Messages after the summary.
    kept: usize,
}

impl Compaction {
    /// Default number of latest messages that are kept.
    pub const DEFAULT_KEPT_MESSAGES: usize = 6;
    /// Default instructions for the summary.
    pub const DEFAULT_INSTRUCTIONS: &str = "You summarize conversations. Keep the task, decisions, \
        results of tools that still matter, open questions and exact names and numbers. Leave out \
        everything else.";

    /// Compacts a conversation after a response that had more than this number of input and output
    /// tokens.
    #[must_use]
    pub fn above(tokens: u64) -> Self {
        let instructions = Self::DEFAULT_INSTRUCTIONS.to_owned();
        Self { above: tokens, keep: Self::DEFAULT_KEPT_MESSAGES, instructions }
    }

    /// Sets how many of the latest messages are kept. A few more are kept if results of tools would
    /// otherwise be separated from their calls. The default is
    /// [`DEFAULT_KEPT_MESSAGES`](Self::DEFAULT_KEPT_MESSAGES), 6.
    #[must_use]
    pub fn with_kept_messages(mut self, messages: usize) -> Self {
        self.keep = messages;
        self
    }

    /// Sets the instructions for the summary, instead of
    /// [`DEFAULT_INSTRUCTIONS`](Self::DEFAULT_INSTRUCTIONS).
    #[must_use]
    pub fn with_instructions(mut self, instructions: impl Into<String>) -> Self {
        self.instructions = instructions.into();
        self
    }

    /// The number of messages to replace; 0 if it is not worth it.
    fn replaced(&self, messages: &[Message]) -> usize {
        let mut cut = messages.len().saturating_sub(self.keep);
        // Results of tools must follow the message with their calls, so the cut moves before that
        // message.
        while messages.get(cut).is_some_and(|message| message.role == Role::Tool) {
            cut = cut.saturating_sub(1);
        }
        // One message is not shorter as a summary.
        if cut < 2 { 0 } else { cut }
    }
}

impl Session {
    /// Compacts the conversation if it has become too long.
    pub(in crate::agent) async fn compact(
        &mut self,
        turn: u32,
        tokens: u64,
    ) -> Result<(), WorkflowError> {
        let Some(compaction) = self.agent.options.compaction.clone() else { return Ok(()) };
        let replaced = compaction.replaced(&self.messages);
        if tokens <= compaction.above || replaced == 0 {
            return Ok(());
        }
        let messages = self.messages.iter().take(replaced).cloned();
        let request = ModelRequest {
            instructions: Some(compaction.instructions),
            messages: messages.chain([Message::user(ASK)]).collect(),
            // Providers want to know the tools that the messages mention.
            tools: self.agent.specs.clone(),
            tool_choice: ToolChoice::None,
            max_output_tokens: self.agent.options.max_output_tokens,
            ..ModelRequest::default()
        };
        let response = self.summary_call(request).await?;
        let summary = response.output_text();
        let fault = match response.finish_reason {
            FinishReason::Stop if !summary.trim().is_empty() => None,
            FinishReason::Length => Some("its summary was cut off at the maximum number of tokens"),
            FinishReason::Other(_) => Some("its summary may be incomplete"),
            _ => Some("it wrote no summary"),
        };
        if let Some(fault) = fault {
            return self.faults.faulty_summary(fault);
        }
        self.faults.good_summary();
        let kept = self.messages.split_off(replaced);
        self.messages = vec![Message::user(format!("{PREFIX}{summary}"))];
        let compacted = Compacted { turn, replaced, kept: kept.len() };
        self.messages.extend(kept);
        // Two, because the summary call had the epoch in between.
        self.epoch += 2;
        emit(&self.context, "conversation", "compacted", &compacted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Part;

    #[test]
    fn should_keep_results_together_with_their_calls() {
        let call = Message {
            role: Role::Assistant,
            content: vec![Part::tool_call("c", "search", &serde_json::json!({}))],
        };
        let results = Message::tool_results([]);
        let messages = [Message::user("go"), call.clone(), results.clone(), call, results.clone()];
        let replaced = |keep| Compaction::above(0).with_kept_messages(keep).replaced(&messages);
        assert_eq!([replaced(0), replaced(1), replaced(2), replaced(3)], [5, 3, 3, 0]);
        assert_eq!(replaced(9), 0);
    }
}
