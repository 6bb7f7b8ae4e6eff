//! The input of a run.
//!
//! The JSON form is the contract with callers that are not written in Rust: a text, or an object.
//! It is deserialised by hand, because the derived form would not accept the text, and its errors
//! would not say what is expected.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::delegation::Delegation;
use crate::model::Message;

/// The input of an agent: a conversation that ends with a message of the user. In JSON, it is an
/// object, or the text of one message.
///
/// # Examples
///
/// ```
/// use aios_llm::{Prompt, model::Message};
///
/// let prompt = Prompt::new("What is in season?")
///     .with_message(Message::assistant("Asparagus."))
///     .with_message(Message::user("Until when?"))
///     .with_subject("customer-7");
/// assert_eq!(prompt.messages.len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Prompt {
    /// The messages of the conversation.
    pub messages: Vec<Message>,
    /// Instructions that replace those of the agent with which the run begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The subject whose [budget](crate::budget::SubjectBudget) the run is charged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The names under which agents have taken over the conversation before, from the first to the one that
    /// continues it, as they were given to [`LlmAgent::handover`](crate::LlmAgent::handover). The run begins
    /// with the last of them, which [`instructions`](Self::instructions) are then for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handovers: Vec<String>,
    /// The run whose conversation this one continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Origin>,
    /// Present if another agent has called this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub(crate) delegation: Option<Box<Delegation>>,
}

/// A run whose conversation another run continues.
///
/// # Examples
///
/// ```
/// use aios_llm::{Conversation, agent::Origin};
///
/// /// The run that has the messages before those of this conversation, compacted ones included.
/// fn run_before(conversation: &Conversation) -> Option<&str> {
///     conversation.continues().map(|origin: &Origin| origin.run_id.as_str())
/// }
/// # assert_eq!(run_before(&Conversation::default()), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Origin {
    /// Id of the run.
    pub run_id: String,
    /// Number of its turns that are kept, from the first one.
    pub turns: usize,
}

impl Origin {
    /// The first turns of a run.
    #[must_use]
    pub fn new(run_id: impl Into<String>, turns: usize) -> Self {
        Self { run_id: run_id.into(), turns }
    }
}

impl Prompt {
    /// A prompt with one user message.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { messages: vec![Message::user(text)], ..Self::default() }
    }

    /// Adds a message.
    #[must_use]
    pub fn with_message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// Sets the subject whose [budget](crate::budget::SubjectBudget) the run is charged to: a
    /// customer, say.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Marks the prompt as that of a calling agent.
    pub(super) fn delegated(mut self, delegation: Delegation) -> Self {
        self.delegation = Some(Box::new(delegation));
        self
    }

    /// Replaces the instructions of the agent with which the run begins.
    #[must_use]
    pub fn with_instructions(mut self, instructions: impl Into<String>) -> Self {
        self.instructions = Some(instructions.into());
        self
    }
}

impl<T: Into<String>> From<T> for Prompt {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a prompt is a text, or an object with `messages`")]
        enum Form {
            Text(String),
            Conversation {
                messages: Vec<Message>,
                #[serde(default)]
                instructions: Option<String>,
                #[serde(default)]
                subject: Option<String>,
                #[serde(default)]
                handovers: Vec<String>,
                #[serde(default)]
                continues: Option<Origin>,
                #[serde(default)]
                delegation: Option<Box<Delegation>>,
            },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => Self::new(text),
            Form::Conversation {
                messages,
                instructions,
                subject,
                handovers,
                continues,
                delegation,
            } => Self { messages, instructions, subject, handovers, continues, delegation },
        })
    }
}
