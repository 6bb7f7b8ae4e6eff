//! The conversation of a run, from its journal.

use aios_core::event::{Event, Payload};
use aios_llm::{Conversation, ModelResponse, agent::Origin, budget::Spent, model::Message};
use pyo3::prelude::*;
use serde::Serialize;

use crate::convert::{errors::ErrorInfo, json};

/// A conversation as Python takes it.
#[derive(Serialize)]
struct Row<'a> {
    turns: Vec<(&'a [Message], &'a ModelResponse, &'a [String])>,
    /// See [`Conversation::messages`].
    messages: Vec<Message>,
    /// See [`Conversation::transcript`].
    transcript: Vec<Message>,
    spent: &'a Spent,
    /// The results of calls of the last response: a message, or none.
    results: Option<Message>,
    /// Those of the prompt.
    instructions: Option<&'a str>,
    subject: Option<&'a str>,
    continues: Option<&'a Origin>,
    begun_with: &'a [String],
    /// See [`Conversation::handovers`].
    handovers: &'a [String],
}

/// The turns, all messages and the sums of a journal, a list of JSON envelopes.
#[pyfunction]
pub(crate) fn read_conversation(
    py: Python<'_>,
    journal: Vec<String>,
) -> PyResult<Bound<'_, PyAny>> {
    let read = || {
        let journal: Result<Vec<_>, _> =
            journal.into_iter().map(|it| Event::from_json(&it)).collect();
        let conversation = Conversation::from_journal(&journal?)?;
        let turns = conversation.turns().iter();
        Payload::encode(&Row {
            turns: turns.map(|it| (&*it.messages, &it.response, &*it.handovers)).collect(),
            messages: conversation.messages(),
            transcript: conversation.transcript(),
            spent: conversation.spent(),
            results: conversation.results(),
            instructions: conversation.instructions(),
            subject: conversation.subject(),
            continues: conversation.continues(),
            begun_with: &conversation.prompt().handovers,
            handovers: conversation.handovers(),
        })
    };
    let row = read().map_err(|error| ErrorInfo::from(error).into_error(py))?;
    json::read(py, row.as_str())
}
